//! Early stopping, on both databases: who is stopped, what is left of it, and who is never compared.

mod support;

use coordinator::store::Token;
use coordinator::store::ops::{Finish, NewEnd, Progress, Report};
use coordinator::store::rows::{AssignmentRow, SweepRow};
use coordinator::trial::{TrialId, WorkerId};
use support::{Env, is_accepted, on_both, point, success, sweep_of, token};

const FILE: &str = "
version: 1
name: s
base: {backbone: b, method: linear, epochs: 9, split: {train: train, eval: train, test: null}}
axes:
  task: {values: [t, u]}
  lr: {values: [0.4, 0.3, 0.2, 0.1]}
search: {order: as_written}
early_stop: {rule: asha, min: 1, eta: 2, scope: [task], never_stop: [{lr: 0.1}]}
";

on_both!(
    who_falls_behind_at_a_rung_is_stopped_and_keeps_its_last_score,
    only_like_is_compared_and_what_is_spared_runs_on,
    the_median_of_those_that_came_as_far_decides,
    minimising_keeps_the_lowest,
    a_stage_does_not_choose_what_was_stopped_unless_it_may,
    a_stage_that_states_results_is_never_stopped,
    who_reports_at_its_end_is_not_stopped_but_counts,
);

async fn worker(env: &Env) -> WorkerId {
    let mut offer = support::offer(&["linear"]);
    let task = |name: &str| coordinator::offer::Task {
        name: name.to_owned(),
        classes: 2,
        splits: vec!["train".to_owned()],
    };
    offer.tasks = vec![task("t"), task("u")];
    env.worker_offering("gpu", 100, offer).await
}

async fn start(env: &Env, text: &str) -> (SweepRow, WorkerId, Vec<AssignmentRow>) {
    let row = env.submit(sweep_of(text)).await;
    let gpu = worker(env).await;
    let leased = env.lease(&gpu, "r1", 100).await;
    (row, gpu, leased)
}

/// Reports a score; why the worker has lost the trial, if it has.
async fn report(env: &Env, gpu: &WorkerId, token: Token, epoch: u32, value: f64) -> Option<String> {
    let progress =
        vec![Progress { token, points: vec![point(epoch, value)], checkpoint: None, prefix: None }];
    let lost = env.store.write(Report { worker: gpu.clone(), progress }).await.unwrap();
    lost.into_iter().next().map(|lost| lost.reason)
}

async fn who_falls_behind_at_a_rung_is_stopped_and_keeps_its_last_score(env: &Env) {
    let (row, gpu, leased) = start(env, FILE).await;
    let tokens: Vec<Token> = leased.iter().map(token).collect();
    assert_eq!(report(env, &gpu, tokens[0], 1, 50.0).await, None);
    assert_eq!(report(env, &gpu, tokens[1], 1, 60.0).await, None);
    let reason = report(env, &gpu, tokens[2], 1, 40.0).await;
    assert_eq!(reason.as_deref(), Some("stopped early"));
    let trial = env.trial(tokens[2].trial).await;
    assert_eq!((trial.trial.state.as_str(), trial.trial.objective), ("stopped", Some(40.0)));
    assert_eq!(trial.attempts[0].how.as_deref(), Some("stopped"));
    assert_eq!(env.renew(&gpu, &[tokens[2]]).await.1, ["stopped early"]);
    assert!(!is_accepted(&env.finish(&gpu, success(tokens[2], 99.0)).await), "too late");
    // At the second rung there is nobody yet, at the last epoch nothing to stop.
    assert_eq!(report(env, &gpu, tokens[0], 2, 10.0).await, None);
    assert_eq!(report(env, &gpu, tokens[1], 9, 0.0).await, None);
    let sweep = env.sweep("s").await;
    assert_eq!((sweep.stopped, sweep.running), (1, 7));
    assert_eq!(env.kinds(&row).await.iter().filter(|kind| *kind == "stopped").count(), 1);
}

async fn only_like_is_compared_and_what_is_spared_runs_on(env: &Env) {
    let (_, gpu, leased) = start(env, FILE).await;
    let tokens: Vec<Token> = leased.iter().map(token).collect();
    assert_eq!(report(env, &gpu, tokens[0], 1, 90.0).await, None);
    assert_eq!(report(env, &gpu, tokens[4], 1, 10.0).await, None, "another task");
    assert_eq!(report(env, &gpu, tokens[3], 1, 0.0).await, None, "never to be stopped");
    assert_eq!(report(env, &gpu, tokens[5], 1, 9.0).await.as_deref(), Some("stopped early"));
    assert_eq!(
        report(env, &gpu, tokens[0], 1, 0.0).await,
        None,
        "a point that is there already says nothing"
    );
}

async fn the_median_of_those_that_came_as_far_decides(env: &Env) {
    let rule = "early_stop: {rule: median, min: 2, min_trials: 3}";
    let text = FILE
        .replace("early_stop: {rule: asha, min: 1, eta: 2, scope: [task], never_stop: [{lr: 0.1}]}", rule);
    let (_, gpu, leased) = start(env, &text).await;
    let tokens: Vec<Token> = leased.iter().map(token).collect();
    for (token, scores) in tokens.iter().zip([[10.0, 30.0], [20.0, 40.0], [30.0, 50.0]]) {
        for (epoch, score) in (1..).zip(scores) {
            assert_eq!(report(env, &gpu, *token, epoch, score).await, None);
        }
    }
    // Means at epoch 2: 20, 30, 40.
    assert_eq!(report(env, &gpu, tokens[3], 1, 0.0).await, None, "before min");
    assert_eq!(report(env, &gpu, tokens[3], 2, 30.0).await, None);
    assert_eq!(report(env, &gpu, tokens[4], 2, 21.0).await.as_deref(), Some("stopped early"));
}

async fn minimising_keeps_the_lowest(env: &Env) {
    let text = format!("{FILE}objective: {{metric: val/loss}}\n");
    let (_, gpu, leased) = start(env, &text).await;
    let loss = |epoch, value| coordinator::store::ops::Point { name: "val/loss".to_owned(), epoch, value };
    for (row, value, is_lost) in [(&leased[0], 1.0, false), (&leased[1], 2.0, true), (&leased[2], 0.5, false)]
    {
        let progress = vec![Progress {
            token: token(row),
            points: vec![loss(1, value)],
            checkpoint: None,
            prefix: None,
        }];
        let lost = env.store.write(Report { worker: gpu.clone(), progress }).await.unwrap();
        assert_eq!(!lost.is_empty(), is_lost, "{value}");
    }
}

fn staged(allow: &str) -> String {
    format!(
        "{FILE}stages:\n  - {{name: tune}}\n  - {{name: final, from: {{stage: tune, per: [task]{allow}}}, replicates: {{seeds: [1, 2]}}}}\n"
    )
}

/// The second of a task is stopped with a higher last score than all others end with.
async fn stop_the_second_of_three(env: &Env, text: &str) -> (WorkerId, Vec<String>) {
    let (_, gpu, leased) = start(env, text).await;
    let tokens: Vec<Token> = leased.iter().map(token).collect();
    report(env, &gpu, tokens[0], 1, 90.0).await;
    assert!(report(env, &gpu, tokens[1], 1, 80.0).await.is_some());
    for (token, score) in [(tokens[0], 30.0), (tokens[2], 20.0), (tokens[3], 10.0)] {
        assert!(is_accepted(&env.finish(&gpu, success(token, score)).await));
    }
    let chosen = env.lease(&gpu, "r2", 100).await;
    (gpu, chosen.into_iter().map(|row| row.recipe_json).collect())
}

async fn a_stage_does_not_choose_what_was_stopped_unless_it_may(env: &Env) {
    let (_, recipes) = stop_the_second_of_three(env, &staged("")).await;
    assert_eq!(recipes.len(), 2);
    assert!(recipes.iter().all(|recipe| recipe.contains(r#""lr":0.4,"#)), "{recipes:?}");
}

async fn a_stage_that_states_results_is_never_stopped(env: &Env) {
    let (gpu, recipes) = stop_the_second_of_three(env, &staged(", allow_stopped: true")).await;
    assert!(recipes.iter().all(|recipe| recipe.contains(r#""lr":0.3,"#)), "{recipes:?}");
    let finals = env.lease(&gpu, "r2", 100).await;
    assert_eq!(report(env, &gpu, token(&finals[0]), 1, 90.0).await, None);
    assert_eq!(report(env, &gpu, token(&finals[1]), 1, 0.0).await, None);
}

async fn who_reports_at_its_end_is_not_stopped_but_counts(env: &Env) {
    let (_, gpu, leased) = start(env, FILE).await;
    let tokens: Vec<Token> = leased.iter().map(token).collect();
    let end = |token, value| NewEnd { points: vec![point(1, value)], ..success(token, value) };
    let ends = vec![end(tokens[0], 50.0), end(tokens[1], 10.0)];
    let verdicts = env.store.write(Finish { worker: gpu.clone(), ends }).await.unwrap();
    assert!(verdicts.iter().all(is_accepted));
    assert!(report(env, &gpu, tokens[2], 1, 40.0).await.is_some());
    assert_eq!(env.trial(TrialId(tokens[1].trial.0)).await.trial.state, "succeeded");
}
