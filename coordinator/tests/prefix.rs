//! Trials that prune and share the training before it: one trains it, the others wait for that and start from it.

mod support;

use coordinator::store::Token;
use coordinator::store::explain::Explain;
use coordinator::store::ops::{Cancel, NewEnd, Progress, Report, Requeue};
use coordinator::store::rows::AssignmentRow;
use coordinator::trial::{FailureClass, TrialId, WorkerId};
use support::{Env, failure, is_accepted, on_both, success, sweep_of, token};

on_both!(
    one_trains_and_the_others_start_from_it,
    the_next_one_leads_when_a_leader_fails,
    an_interrupted_leader_leads_on,
    each_trains_for_itself_when_nothing_was_kept,
    what_is_said_at_the_end_counts_too,
    who_is_tried_again_does_not_wait,
    stages_share_what_starts_from_the_same_tensors,
    a_cancelled_sweep_leaves_nobody_waiting,
    without_sharing_nobody_waits,
);

/// Two learning rates × three shares of tokens: two groups of three.
const FILE: &str = "version: 1
name: s
search: {order: as_written}
retry: {max_attempts: 1}
base: {backbone: b, task: t, method: vpt_deep, prompt_length: 4, epochs: 4, split: {train: train, eval: train, test: null}}
axes: {lr: {values: [1, 2]}, pruning_ratio: {values: [0, 0.25, 0.5]}}
";

async fn world(env: &Env, more: &str) -> WorkerId {
    env.submit(sweep_of(&format!("{FILE}{more}"))).await;
    env.worker_with("gpu", 8, &["vpt_deep"]).await
}

fn trials(assignments: &[AssignmentRow]) -> Vec<i64> {
    assignments.iter().map(|row| row.trial).collect()
}

/// Leases all that can be had: the trials, the URLs that they start from, and which are waited for.
async fn all(env: &Env, worker: &WorkerId, request: &str) -> (Vec<Token>, Vec<Option<String>>, Vec<i64>) {
    let leased = env.leased(worker, request, 8).await;
    let urls = leased.assignments.iter().map(|row| row.prefix_url.clone()).collect();
    let leaders = leased.leaders.iter().map(|row| row.trial).collect();
    (leased.assignments.iter().map(token).collect(), urls, leaders)
}

async fn publish(env: &Env, worker: &WorkerId, token: Token, url: &str) {
    let progress = Progress { token, points: Vec::new(), checkpoint: None, prefix: Some(url.to_owned()) };
    let lost = env.store.write(Report { worker: worker.clone(), progress: vec![progress] }).await.unwrap();
    assert!(lost.is_empty());
}

async fn one_trains_and_the_others_start_from_it(env: &Env) {
    let worker = world(env, "").await;
    let leased = env.leased(&worker, "r", 8).await;
    assert_eq!(trials(&leased.assignments), [1, 4], "one of each rate");
    assert_eq!(leased.leaders.iter().map(|row| row.trial).collect::<Vec<_>>(), [1, 4]);
    assert!(leased.assignments.iter().all(|row| row.prefix_url.is_none()));
    let why = env.store.read(Explain { trial: TrialId(2) }).await.unwrap().reasons.join("; ");
    assert!(why.contains("it waits for another trial of its sweep"), "{why}");
    publish(env, &worker, token(&leased.assignments[0]), "file:///p").await;
    publish(env, &worker, token(&leased.assignments[0]), "file:///second").await;
    let (tokens, urls, leaders) = all(env, &worker, "more").await;
    assert_eq!(tokens.iter().map(|token| token.trial.0).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(urls, [Some("file:///p".to_owned()), Some("file:///p".to_owned())]);
    assert!(leaders.is_empty());
    for token in tokens {
        assert!(is_accepted(&env.finish(&worker, success(token, 1.0)).await));
    }
}

async fn the_next_one_leads_when_a_leader_fails(env: &Env) {
    let worker = world(env, "").await;
    let (tokens, ..) = all(env, &worker, "r").await;
    assert!(is_accepted(&env.finish(&worker, failure(tokens[0], FailureClass::CodeError)).await));
    let (next, urls, leaders) = all(env, &worker, "next").await;
    assert_eq!((next[0].trial, next.len(), urls, leaders), (TrialId(2), 1, vec![None], vec![2]));
}

async fn an_interrupted_leader_leads_on(env: &Env) {
    let worker = world(env, "").await;
    all(env, &worker, "r").await;
    env.advance(support::TTL + support::GRACE + 1);
    env.reap().await;
    env.advance(600_000);
    let (again, _, leaders) = all(env, &worker, "again").await;
    assert_eq!(again.iter().map(|token| token.trial.0).collect::<Vec<_>>(), leaders);
    assert_eq!(leaders, [1, 4]);
}

async fn each_trains_for_itself_when_nothing_was_kept(env: &Env) {
    let worker = world(env, "").await;
    let (tokens, ..) = all(env, &worker, "r").await;
    assert!(is_accepted(&env.finish(&worker, success(tokens[0], 1.0)).await));
    let (rest, urls, leaders) = all(env, &worker, "rest").await;
    assert_eq!((rest.len(), urls, leaders), (2, vec![None, None], vec![]));
}

async fn what_is_said_at_the_end_counts_too(env: &Env) {
    let worker = world(env, "").await;
    let (tokens, ..) = all(env, &worker, "r").await;
    let end = NewEnd { prefix: Some("file:///p".to_owned()), ..success(tokens[0], 1.0) };
    assert!(is_accepted(&env.finish(&worker, end).await));
    let (_, urls, _) = all(env, &worker, "rest").await;
    assert_eq!(urls, [Some("file:///p".to_owned()), Some("file:///p".to_owned())]);
    // A stale attempt publishes nothing.
    env.advance(support::TTL + support::GRACE + 1);
    env.reap().await;
    let progress =
        Progress { token: tokens[1], points: Vec::new(), checkpoint: None, prefix: Some("file:///q".into()) };
    let lost = env.store.write(Report { worker: worker.clone(), progress: vec![progress] }).await.unwrap();
    assert_eq!(lost.len(), 1);
    env.advance(600_000);
    let (_, urls, leaders) = all(env, &worker, "again").await;
    assert_eq!((urls.len(), urls.last().cloned().flatten(), leaders), (3, None, vec![4]));
}

async fn who_is_tried_again_does_not_wait(env: &Env) {
    let worker = world(env, "").await;
    let (tokens, ..) = all(env, &worker, "r").await;
    assert!(is_accepted(&env.finish(&worker, failure(tokens[0], FailureClass::CodeError)).await));
    env.store.write(Requeue { sweep: "s".into(), classes: Vec::new(), change: None }).await.unwrap();
    let (tokens, _, leaders) = all(env, &worker, "again").await;
    assert_eq!((tokens.len(), leaders), (2, vec![1, 2]));
    for token in &tokens {
        assert!(is_accepted(&env.finish(&worker, failure(*token, FailureClass::CodeError)).await));
    }
    env.advance(600_000); // the worker rests after failures in a row
    let (last, _, leaders) = all(env, &worker, "last").await;
    assert_eq!((last[0].trial, leaders), (TrialId(3), vec![]), "nobody is left to wait for it");
}

async fn stages_share_what_starts_from_the_same_tensors(env: &Env) {
    let file = FILE.replace(", pruning_ratio: {values: [0, 0.25, 0.5]}", "");
    let stages = "stages:
  - {name: tune, split: {train: train, eval: train}}
  - {name: prune, from: {stage: tune, per: [lr]}, start: artifact, axes: {pruning_ratio: {values: [0.25, 0.5]}}, replicates: {seeds: [0, 1]}}
";
    env.submit(sweep_of(&format!("{file}{stages}"))).await;
    let worker = env.worker_with("gpu", 8, &["vpt_deep"]).await;
    let (tokens, ..) = all(env, &worker, "r").await;
    assert!(is_accepted(&env.finish(&worker, success(tokens[0], 1.0)).await));
    assert!(is_accepted(&env.finish(&worker, success(tokens[1], 1.0)).await));
    let (tokens, _, leaders) = all(env, &worker, "prune").await;
    assert_eq!((tokens.len(), leaders.len()), (4, 4), "one of each rate and seed");
    publish(env, &worker, tokens[0], "file:///p").await;
    let (_, urls, _) = all(env, &worker, "next").await;
    assert_eq!(urls, [Some("file:///p".to_owned())]);
}

async fn a_cancelled_sweep_leaves_nobody_waiting(env: &Env) {
    let worker = world(env, "").await;
    all(env, &worker, "r").await;
    let row = env.store.write(Cancel { sweep: "s".into() }).await.unwrap();
    assert_eq!((row.cancelled, row.queued), (6, 0));
}

async fn without_sharing_nobody_waits(env: &Env) {
    let worker = world(env, "share_prefix: false\n").await;
    let (tokens, _, leaders) = all(env, &worker, "r").await;
    assert_eq!((tokens.len(), leaders), (6, vec![]));
}
