//! Stages on both databases: a group opens once, as soon as its last trial has ended, whatever else happens.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use coordinator::store::Token;
use coordinator::store::ops::{Cancel, Requeue, Submit};
use coordinator::store::reads::Trials;
use coordinator::store::rows::{SweepRow, TrialView};
use coordinator::trial::{FailureClass, TrialId, WorkerId};
use proptest::prelude::*;
use support::{Env, failure, is_accepted, on_both, success, sweep_of};

/// Two tasks and two rates; then the best of each task with two seeds; then the better of those, going on from it.
const FILE: &str = "
version: 1
name: s
base: {backbone: b, method: linear}
axes:
  task: {values: [t, u]}
  lr: {values: [0.5, 0.1], scaled_by: batch_size/256}
search: {order: as_written}
retry: {max_attempts: 1}
stages:
  - {name: tune, split: {train: train}}
  - name: final
    from: {stage: tune, per: [task]}
    split: {train: train, eval: val200, test: test}
    replicates: {seeds: [7, 8]}
  - name: more
    from: {stage: final}
    start: artifact
    axes: {wd: {values: [0.1, 0.2, 0.3]}}
";

on_both!(
    a_group_opens_when_its_last_trial_ends,
    ties_go_to_the_smaller_rate,
    a_group_without_a_score_is_given_up_and_blocks_no_other,
    when_nothing_can_be_chosen_everything_after_is_given_up,
    two_stages_may_choose_from_one,
    what_comes_out_the_same_is_run_once,
    cancel_gives_up_what_has_not_opened,
    groups_survive_a_restart,
    ends_in_one_call_open_each_group_once,
    coordinators_that_end_trials_at_once_open_a_group_once,
    failed_trials_that_are_tried_again_give_their_groups_another_chance,
);

async fn worker(env: &Env) -> WorkerId {
    let mut offer = support::offer(&["linear"]);
    let splits = ["train", "val200", "test"].map(str::to_owned).to_vec();
    offer.tasks = ["t", "u"]
        .map(|name| coordinator::offer::Task { name: name.to_owned(), classes: 2, splits: splits.clone() })
        .to_vec();
    env.worker_offering("gpu", 100, offer).await
}

async fn trials(env: &Env) -> Vec<TrialView> {
    let all = Trials { sweep: "s".to_owned(), after: 0, states: vec![], limit: 1_000 };
    env.store.read(all).await.unwrap()
}

/// Leases whatever there is and gives its tokens.
async fn lease(env: &Env, worker: &WorkerId, request: &str) -> Vec<Token> {
    env.lease(worker, request, 100).await.iter().map(support::token).collect()
}

async fn end(env: &Env, worker: &WorkerId, token: Token, score: f64) {
    assert!(is_accepted(&env.finish(worker, success(token, score)).await));
}

async fn row(env: &Env) -> SweepRow {
    env.sweep("s").await
}

fn counts(row: &SweepRow) -> (i64, i64, i64) {
    (row.trials, row.waiting, row.queued)
}

/// Stage, settings and seed of the trials from an id on.
fn shown(trials: &[TrialView]) -> Vec<String> {
    trials.iter().map(|trial| format!("{} {} {}", trial.stage, trial.settings_json, trial.seed)).collect()
}

async fn a_group_opens_when_its_last_trial_ends(env: &Env) {
    let submitted = env.submit(sweep_of(FILE)).await;
    assert_eq!((counts(&submitted), submitted.configurations), ((4 + 4 + 3, 7, 4), 4 + 2 + 3));
    let gpu = worker(env).await;
    let tune = lease(env, &gpu, "r1").await;
    assert_eq!(tune.len(), 4);
    end(env, &gpu, tune[0], 60.0).await;
    end(env, &gpu, tune[2], 50.0).await;
    assert_eq!(counts(&row(env).await), (11, 7, 0), "no group has ended");
    end(env, &gpu, tune[1], 70.0).await;
    assert_eq!(counts(&row(env).await), (11, 5, 2), "that of task t has, the other runs on");
    let all = trials(env).await;
    let opened = [r#"final {"lr":0.1,"task":"t"} 7"#, r#"final {"lr":0.1,"task":"t"} 8"#];
    assert_eq!(shown(&all[4..]), opened);
    let events = env.events(&submitted).await;
    let event = events.iter().find(|event| event.kind == "stage_opened").unwrap();
    assert_eq!(event.message, r#"stage final {"task":"t"}: #2 of 2 configurations chosen, 2 trials"#);

    let recipe = env.trial(TrialId(all[4].id)).await.recipe_json;
    let recipe = sweeps::Recipe::from_json(&recipe).unwrap();
    assert_eq!((recipe.lr, recipe.split.test.as_deref()), (0.1 * 64.0 / 256.0, Some("test")));

    end(env, &gpu, tune[3], 50.0).await;
    let finals = lease(env, &gpu, "r2").await;
    assert_eq!(finals.len(), 4);
    for (token, score) in finals.iter().zip([80.0, 82.0, 90.0, 60.0]) {
        end(env, &gpu, *token, score).await;
    }
    let all = trials(env).await;
    let more: Vec<_> =
        ["0.1", "0.2", "0.3"].map(|wd| format!(r#"more {{"lr":0.1,"task":"t","wd":{wd}}} 0"#)).to_vec();
    assert_eq!(shown(&all[8..]), more, "the mean over seeds decides");
    for token in lease(env, &gpu, "r3").await {
        assert_eq!(row(env).await.state, "active");
        end(env, &gpu, token, 1.0).await;
    }
    let row = row(env).await;
    assert_eq!((row.state.as_str(), row.succeeded, row.waiting), ("ended", 11, 0));
}

async fn ties_go_to_the_smaller_rate(env: &Env) {
    env.submit(sweep_of(FILE)).await;
    let gpu = worker(env).await;
    for token in lease(env, &gpu, "r1").await {
        end(env, &gpu, token, 70.0).await;
    }
    let all = trials(env).await;
    assert!(all[4..].iter().all(|trial| trial.settings_json.contains(r#""lr":0.1"#)));
}

async fn a_group_without_a_score_is_given_up_and_blocks_no_other(env: &Env) {
    let submitted = env.submit(sweep_of(FILE)).await;
    let gpu = worker(env).await;
    let tune = lease(env, &gpu, "r1").await;
    env.finish(&gpu, failure(tune[0], FailureClass::Diverged)).await;
    env.finish(&gpu, failure(tune[1], FailureClass::CodeError)).await;
    assert_eq!(counts(&row(env).await), (9, 5, 0), "its two trials are given up");
    let events = env.events(&submitted).await;
    let event = events.iter().find(|event| event.kind == "group_failed").unwrap();
    assert_eq!(event.message, r#"stage final {"task":"t"}: none of 2 configurations has a score"#);
    end(env, &gpu, tune[2], 1.0).await;
    env.finish(&gpu, failure(tune[3], FailureClass::CodeError)).await;
    for token in lease(env, &gpu, "r2").await {
        end(env, &gpu, token, 1.0).await;
    }
    assert_eq!(
        lease(env, &gpu, "r3").await.len(),
        3,
        "the last stage goes on with the one group that is left"
    );
}

async fn when_nothing_can_be_chosen_everything_after_is_given_up(env: &Env) {
    env.submit(sweep_of(FILE)).await;
    let gpu = worker(env).await;
    for token in lease(env, &gpu, "r1").await {
        env.finish(&gpu, failure(token, FailureClass::Diverged)).await;
    }
    let row = row(env).await;
    assert_eq!((row.state.as_str(), counts(&row), row.configurations), ("ended", (4, 0, 0), 4));
    assert_eq!(env.kinds(&row).await.iter().filter(|kind| *kind == "group_failed").count(), 3);
}

async fn two_stages_may_choose_from_one(env: &Env) {
    let both = FILE.replace("from: {stage: final}", "from: {stage: tune, per: [lr], best: 2}");
    env.submit(sweep_of(&both)).await;
    let gpu = worker(env).await;
    let tune = lease(env, &gpu, "r1").await;
    for (token, score) in tune[..3].iter().zip([60.0, 70.0, 50.0]) {
        end(env, &gpu, *token, score).await;
    }
    let stages: Vec<_> = trials(env).await[4..].iter().map(|trial| trial.stage.clone()).collect();
    assert_eq!(stages.iter().filter(|stage| *stage == "final").count(), 2, "task t");
    assert_eq!(stages.iter().filter(|stage| *stage == "more").count(), 6, "both tasks at lr 0.5");
    end(env, &gpu, tune[3], 1.0).await;
    assert_eq!(counts(&row(env).await), (20, 0, 16));
}

async fn what_comes_out_the_same_is_run_once(env: &Env) {
    let same = FILE.replace("per: [task]}", "per: [lr], best: 2}\n    set: {lr: 1, task: t}");
    let submitted = env.submit(sweep_of(&same)).await;
    assert_eq!(counts(&submitted), (4 + 8 + 3, 11, 4));
    let gpu = worker(env).await;
    for token in lease(env, &gpu, "r1").await {
        end(env, &gpu, token, 1.0).await;
    }
    assert_eq!(counts(&row(env).await), (4 + 2 + 3, 3, 2), "four chosen, one configuration");
    for token in lease(env, &gpu, "r2").await {
        end(env, &gpu, token, 1.0).await;
    }
    assert_eq!(counts(&row(env).await), (9, 0, 3));
}

async fn cancel_gives_up_what_has_not_opened(env: &Env) {
    env.submit(sweep_of(FILE)).await;
    let gpu = worker(env).await;
    let tune = lease(env, &gpu, "r1").await;
    end(env, &gpu, tune[0], 1.0).await;
    let row = env.store.write(Cancel { sweep: "s".to_owned() }).await.unwrap();
    assert_eq!((counts(&row), row.cancelled, row.configurations), ((4, 0, 0), 3, 4));
    assert!(lease(env, &gpu, "r2").await.is_empty());
}

async fn groups_survive_a_restart(env: &Env) {
    env.submit(sweep_of(FILE)).await;
    let gpu = worker(env).await;
    let tune = lease(env, &gpu, "r1").await;
    end(env, &gpu, tune[0], 60.0).await;
    env.store.close().await;
    let store = env.another().await;
    let finish =
        |token| coordinator::store::ops::Finish { worker: gpu.clone(), ends: vec![success(token, 9.0)] };
    store.write(finish(tune[1])).await.unwrap();
    store.write(finish(tune[1])).await.unwrap();
    let all = Trials { sweep: "s".to_owned(), after: 0, states: vec!["queued"], limit: 100 };
    assert_eq!(store.read(all).await.unwrap().len(), 2, "once, however often the end is repeated");
    let (_, created) = store.write(Submit { sweep: sweep_of(FILE) }).await.unwrap();
    assert!(!created);
    store.close().await;
}

async fn ends_in_one_call_open_each_group_once(env: &Env) {
    let submitted = env.submit(sweep_of(FILE)).await;
    let gpu = worker(env).await;
    let tune = lease(env, &gpu, "r1").await;
    let ends = tune.iter().map(|token| success(*token, 5.0)).collect();
    env.store.write(coordinator::store::ops::Finish { worker: gpu.clone(), ends }).await.unwrap();
    assert_eq!(counts(&row(env).await), (11, 3, 4));
    assert_eq!(env.kinds(&submitted).await.iter().filter(|kind| *kind == "stage_opened").count(), 2);
}

async fn coordinators_that_end_trials_at_once_open_a_group_once(env: &Env) {
    let submitted = env.submit(sweep_of(FILE)).await;
    let gpu = worker(env).await;
    let tune = lease(env, &gpu, "r1").await;
    let finish = |token| {
        let finish = coordinator::store::ops::Finish { worker: gpu.clone(), ends: vec![success(token, 9.0)] };
        env.store.write(finish)
    };
    let ends =
        tokio::join!(finish(tune[0]), finish(tune[1]), finish(tune[2]), finish(tune[3]), finish(tune[3]));
    assert!(
        [ends.0, ends.1, ends.2, ends.3, ends.4].iter().all(|end| is_accepted(&end.as_ref().unwrap()[0]))
    );
    assert_eq!(counts(&row(env).await), (11, 3, 4));
    assert_eq!(env.kinds(&submitted).await.iter().filter(|kind| *kind == "stage_opened").count(), 2);
}

async fn failed_trials_that_are_tried_again_give_their_groups_another_chance(env: &Env) {
    env.submit(sweep_of(FILE)).await;
    let gpu = worker(env).await;
    for token in lease(env, &gpu, "r1").await {
        env.finish(&gpu, failure(token, FailureClass::InvalidConfig)).await;
    }
    assert_eq!(row(env).await.state, "ended");
    let requeue = || Requeue { sweep: "s".to_owned(), classes: Vec::new(), change: None };
    let (again, count) = env.store.reliable().write(requeue()).await.unwrap();
    assert_eq!((count, again.state.as_str(), counts(&again)), (4, "active", (11, 7, 4)));
    env.check().await;
    let tune = lease(env, &gpu, "r2").await;
    end(env, &gpu, tune[0], 1.0).await;
    env.finish(&gpu, failure(tune[1], FailureClass::InvalidConfig)).await;
    assert_eq!(counts(&row(env).await), (11, 5, 2));
    // That group has chosen: another try of its loser changes nothing.
    assert_eq!(counts(&env.store.reliable().write(requeue()).await.unwrap().0), (11, 5, 3));
    for token in tune[2..].iter().copied().chain(lease(env, &gpu, "r3").await) {
        end(env, &gpu, token, 9.0).await;
    }
    for token in lease(env, &gpu, "r4").await.into_iter().chain(lease(env, &gpu, "r5").await) {
        end(env, &gpu, token, 2.0).await;
    }
    for token in lease(env, &gpu, "r6").await {
        end(env, &gpu, token, 2.0).await;
    }
    let row = row(env).await;
    assert_eq!((row.state.as_str(), row.succeeded), ("ended", 11));
}

/// Ends whatever runs with random scores or failures, until nothing runs any more: the invariants hold after every
/// end, and in the end every group has opened with what a look at all of its results would choose.
async fn every_order_of_ends_opens_the_same(outcomes: Vec<(usize, Option<u8>)>) {
    let env = Env::sqlite().await;
    env.submit(sweep_of(FILE)).await;
    let gpu = worker(&env).await;
    let mut running = Vec::new();
    let mut scores: BTreeMap<(String, String), Vec<Option<f64>>> = BTreeMap::new();
    for (round, (pick, score)) in outcomes.into_iter().enumerate() {
        running.extend(lease(&env, &gpu, &format!("r{round}")).await);
        if running.is_empty() {
            break;
        }
        let token = running.remove(pick % running.len());
        let trial = env.trial(token.trial).await.trial;
        let score = score.map(f64::from);
        match score {
            Some(score) => end(&env, &gpu, token, score).await,
            None => assert!(is_accepted(&env.finish(&gpu, failure(token, FailureClass::Diverged)).await)),
        }
        scores.entry((trial.stage, trial.settings_json)).or_default().push(score);
        env.check().await;
    }
    let row = env.sweep("s").await;
    assert_eq!((row.state.as_str(), row.waiting), ("ended", 0));
    let best = |stage: &str, task: &str| {
        let mean = |scores: &Vec<Option<f64>>| {
            let known: Vec<f64> = scores.iter().copied().flatten().collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        };
        let mut ranked: Vec<_> = scores
            .iter()
            .filter(|((s, settings), _)| s == stage && settings.contains(task))
            .filter_map(|((_, settings), scores)| {
                let gaps = scores.iter().any(Option::is_none);
                // Of settings that differ in the rate alone, the smaller one is the first in the alphabet.
                Some((gaps, -mean(scores)?, settings.clone()))
            })
            .collect();
        ranked.sort_by(|a, b| a.partial_cmp(b).unwrap());
        ranked.into_iter().next().map(|(_, _, settings)| settings)
    };
    let run = |stage: &str| -> BTreeSet<String> {
        scores.keys().filter(|(s, _)| s == stage).map(|(_, settings)| settings.clone()).collect()
    };
    let chosen: BTreeSet<String> = ["\"t\"", "\"u\""].iter().filter_map(|task| best("tune", task)).collect();
    assert_eq!(run("final"), chosen);
    assert_eq!(run("more").len(), if best("final", "task").is_some() { 3 } else { 0 });
    env.store.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_ends(outcomes in prop::collection::vec((0..9_usize, prop::option::weighted(0.6, 0..3_u8)), 12)) {
        tokio::runtime::Runtime::new().unwrap().block_on(every_order_of_ends_opens_the_same(outcomes));
    }
}
