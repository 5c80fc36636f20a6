//! Adding to a sweep, and trying failed trials again with other parameters.

mod support;

use coordinator::store::Error;
use coordinator::store::ops::{Added, Extend, Requeue};
use coordinator::store::reads::Results;
use coordinator::store::rows::SweepRow;
use coordinator::trial::{FailureClass, WorkerId};
use support::{Env, failure, is_accepted, on_both, success, sweep_of, token};
use sweeps::change::Change;

on_both!(
    values_and_seeds_are_added_behind_what_is_there,
    what_is_there_must_stay,
    a_group_that_has_opened_chooses_again,
    a_group_that_waits_waits_for_more,
    seeds_and_points_of_a_stage_are_added,
    what_was_fixed_becomes_an_axis,
    failed_trials_are_tried_again_with_other_parameters,
    a_change_that_cannot_be_made_changes_nothing,
);

const BASE: &str = "version: 1
name: s
search: {order: as_written}
retry: {max_attempts: 1}
base: {backbone: b, task: t, method: linear, epochs: 4, split: {train: train, eval: train, test: null}}
";
const STAGES: &str = "stages:
  - {name: tune, split: {train: train, eval: train}}
  - {name: final, from: {stage: tune, per: [wd]}, split: {train: train, eval: train}, replicates: {seeds: [7]}}
";

async fn world(env: &Env, more: &str) -> WorkerId {
    env.submit(sweep_of(&format!("{BASE}{more}"))).await;
    env.worker("gpu", 20).await
}

async fn extend(env: &Env, more: &str) -> Result<(SweepRow, Added), Error> {
    env.store.write(Extend { sweep: "s".into(), file: sweep_of(&format!("{BASE}{more}")) }).await
}

/// Runs everything that can be leased, scored by `score` of learning rate and seed.
async fn run(
    env: &Env,
    worker: &WorkerId,
    request: &str,
    score: impl Fn(f64, i64) -> f64,
) -> Vec<(f64, i64)> {
    let mut ran = Vec::new();
    for row in env.lease(worker, request, 20).await {
        let recipe: serde_json::Value = serde_json::from_str(&row.recipe_json).unwrap();
        let lr = recipe["lr"].as_f64().unwrap();
        assert!(is_accepted(&env.finish(worker, success(token(&row), score(lr, row.seed))).await));
        ran.push((lr, row.seed));
    }
    ran
}

fn added(configurations: u64, trials: u64) -> Added {
    Added { configurations, trials }
}

async fn values_and_seeds_are_added_behind_what_is_there(env: &Env) {
    let worker = world(env, "axes: {lr: {values: [1, 3]}}\n").await;
    assert_eq!(run(env, &worker, "a", |lr, _| lr).await, [(1.0, 0), (3.0, 0)]);
    assert_eq!(env.sweep("s").await.state, "ended");
    let more = "axes: {lr: {values: [1, 2, 3]}}\nreplicates: {seeds: [0, 1]}\n";
    let (row, what) = extend(env, more).await.unwrap();
    assert_eq!((row.state.as_str(), row.queued, row.succeeded, what), ("active", 4, 2, added(1, 4)));
    assert_eq!(extend(env, more).await.unwrap().1, added(0, 0), "a repetition adds nothing");
    assert_eq!(run(env, &worker, "b", |lr, _| lr).await, [(1.0, 1), (2.0, 0), (2.0, 1), (3.0, 1)]);
    let page = env.store.read(Results { sweep: "s".into(), after: 0, limit: 10 }).await.unwrap();
    let settings: Vec<_> = page.configurations.iter().map(|row| row.settings_json.as_str()).collect();
    assert_eq!(settings, [r#"{"lr":1}"#, r#"{"lr":3}"#, r#"{"lr":2}"#], "numbers stay");
    let kinds = env.kinds(&row).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "extended").count(), 1);
}

async fn what_is_there_must_stay(env: &Env) {
    let worker =
        world(env, &format!("axes: {{lr: {{values: [1, 2]}}, wd: {{values: [0]}}}}\n{STAGES}")).await;
    let refused = async |more: &str| match extend(env, more).await {
        Err(Error::NoExtension { problems, .. }) => problems.join("; "),
        other => panic!("{other:?}"),
    };
    let axes = "axes: {lr: {values: [1, 2]}, wd: {values: [0]}}\n";
    let fewer = refused(&format!("axes: {{lr: {{values: [2]}}, wd: {{values: [0]}}}}\n{STAGES}")).await;
    assert_eq!(fewer, r#"configuration #1 {"lr":1,"wd":0} is not in the file"#);
    let longer = env.store.write(Extend {
        sweep: "s".into(),
        file: sweep_of(&format!("{}{axes}{STAGES}", BASE.replace("epochs: 4", "epochs: 5"))),
    });
    let Err(Error::NoExtension { problems, .. }) = longer.await else { panic!("refused") };
    assert_eq!(problems, ["stage `final`: `epochs` differs in `base` or in a stage before"]);
    assert_eq!(refused(axes).await, "its stages are tune, and were tune, final");
    let seeds = refused(&format!("{axes}{}", STAGES.replace("[7]", "[8]"))).await;
    assert_eq!(seeds, "stage `final` has no seeds 7 any more");
    let per = refused(&format!("{axes}{}", STAGES.replace("per: [wd]", "per: [lr]"))).await;
    assert_eq!(per, "stage `final`: `per` differs");
    let set = refused(&format!(
        "{axes}{}",
        STAGES.replace("replicates: {seeds: [7]}", "set: {lr: 9}, replicates: {seeds: [7]}")
    ))
    .await;
    assert_eq!(set, "stage `final`: `lr` of the stage itself differs");
    let objective = refused(&format!("{axes}{STAGES}objective: {{at: best}}\n")).await;
    assert_eq!(objective, "`objective` differs");
    assert_eq!(env.sweep("s").await.queued, 2);
    run(env, &worker, "a", |lr, _| lr).await;
    assert_eq!(run(env, &worker, "b", |lr, _| lr).await, [(2.0, 7)]);
}

async fn a_group_that_has_opened_chooses_again(env: &Env) {
    let file = |values: &str| format!("axes: {{lr: {{values: {values}}}, wd: {{values: [0, 1]}}}}\n{STAGES}");
    let worker = world(env, &file("[1, 2]")).await;
    run(env, &worker, "a", |lr, _| lr).await;
    assert_eq!(run(env, &worker, "b", |lr, _| lr).await, [(2.0, 7), (2.0, 7)]);
    let (row, what) = extend(env, &file("[1, 2, 3]")).await.unwrap();
    assert_eq!((row.queued, row.waiting, what), (2, 2, added(4, 4)), "two now, two when all goes well");
    // Of one group the new one is the best, of the other it is not.
    let rows = env.lease(&worker, "c", 20).await;
    assert_eq!(rows.len(), 2);
    assert!(is_accepted(&env.finish(&worker, success(token(&rows[0]), 9.0)).await));
    assert!(is_accepted(&env.finish(&worker, success(token(&rows[1]), 0.5)).await));
    assert_eq!(run(env, &worker, "d", |lr, _| lr).await, [(3.0, 7)]);
    let row = env.sweep("s").await;
    assert_eq!((row.state.as_str(), row.trials, row.configurations), ("ended", 9, 9));
    let page = env.store.read(Results { sweep: "s".into(), after: 0, limit: 20 }).await.unwrap();
    let finals = page.configurations.iter().filter(|row| row.stage == "final");
    let states: Vec<_> = finals.map(|row| (row.settings_json.as_str(), row.superseded)).collect();
    assert_eq!(states, [(r#"{"lr":2,"wd":0}"#, 1), (r#"{"lr":2,"wd":1}"#, 0), (r#"{"lr":3,"wd":0}"#, 0)]);
}

async fn a_group_that_waits_waits_for_more(env: &Env) {
    let file = |lr: &str, wd: &str| format!("axes: {{lr: {{values: {lr}}}, wd: {{values: {wd}}}}}\n{STAGES}");
    let worker = world(env, &file("[1, 2]", "[0]")).await;
    let first = env.lease(&worker, "a", 1).await;
    let (row, what) = extend(env, &file("[1, 2, 3]", "[0, 1]")).await.unwrap();
    assert_eq!((row.waiting, row.queued, row.running, what), (2, 5, 1, added(5, 5)));
    assert!(is_accepted(&env.finish(&worker, success(token(&first[0]), 1.0)).await));
    let ran = run(env, &worker, "b", |lr, _| lr).await;
    assert_eq!(ran.len(), 5);
    assert_eq!(run(env, &worker, "c", |lr, _| lr).await, [(3.0, 7), (3.0, 7)]);
}

async fn seeds_and_points_of_a_stage_are_added(env: &Env) {
    let file = |stages: &str| format!("axes: {{lr: {{values: [1, 2]}}, wd: {{values: [0]}}}}\n{stages}");
    let worker = world(env, &file(STAGES)).await;
    run(env, &worker, "a", |lr, _| lr).await;
    run(env, &worker, "b", |lr, _| lr).await;
    let seeds = STAGES.replace("[7]", "[7, 8]");
    assert_eq!(extend(env, &file(&seeds)).await.unwrap().1, added(0, 1));
    assert_eq!(run(env, &worker, "c", |lr, _| lr).await, [(2.0, 8)]);
    let best = seeds.replace("per: [wd]", "per: [wd], best: 2");
    extend(env, &file(&best)).await.unwrap();
    assert_eq!(run(env, &worker, "d", |lr, _| lr).await, [(1.0, 7), (1.0, 8)]);
    assert_eq!(env.sweep("s").await.state, "ended");
}

async fn what_was_fixed_becomes_an_axis(env: &Env) {
    let stages = STAGES.replace("per: [wd]", "per: [lr]");
    let worker = world(env, &format!("axes: {{lr: {{values: [1, 2]}}}}\n{stages}")).await;
    run(env, &worker, "a", |lr, _| lr).await;
    run(env, &worker, "b", |lr, _| lr).await;
    let more = format!("axes: {{lr: {{values: [1, 2]}}, wd: {{values: [0, 0.1]}}}}\n{stages}");
    extend(env, &more).await.unwrap();
    let page = env.store.read(Results { sweep: "s".into(), after: 0, limit: 20 }).await.unwrap();
    let settings: Vec<_> = page.configurations.iter().map(|row| row.settings_json.as_str()).collect();
    assert_eq!(settings[..2], [r#"{"lr":1,"wd":0}"#, r#"{"lr":2,"wd":0}"#]);
    assert_eq!(settings[2..4], [r#"{"lr":1,"wd":0}"#, r#"{"lr":2,"wd":0}"#], "those of the stage");
    assert_eq!(run(env, &worker, "c", |lr, _| lr).await.len(), 2);
}

async fn failed_trials_are_tried_again_with_other_parameters(env: &Env) {
    let worker =
        world(env, &format!("axes: {{lr: {{values: [1, 2]}}, wd: {{values: [0]}}}}\n{STAGES}")).await;
    let rows = env.lease(&worker, "a", 2).await;
    assert!(is_accepted(&env.finish(&worker, success(token(&rows[0]), 1.0)).await));
    assert!(is_accepted(&env.finish(&worker, failure(token(&rows[1]), FailureClass::CudaOom)).await));
    let change = Some(Change::parse(&["batch_size=32".to_owned()]).unwrap());
    let requeue = Requeue { sweep: "s".into(), classes: vec![FailureClass::CudaOom], change };
    let (row, trials) = env.store.write(requeue.clone()).await.unwrap();
    assert_eq!((trials, row.queued), (1, 2), "and one of the stage that has opened");
    let details = env.trial(token(&rows[1]).trial).await;
    assert_eq!(details.trial.settings_json, r#"{"batch_size":32,"lr":2,"wd":0}"#);
    assert!(details.recipe_json.contains(r#""batch_size":32"#), "{}", details.recipe_json);
    let event = env.events(&row).await.into_iter().find(|event| event.kind == "revived").unwrap();
    assert_eq!(event.message, "batch_size=32: configuration #4 in place of #2");
    let again = env.lease(&worker, "b", 20).await;
    let tried = again.iter().find(|row| row.trial == rows[1].trial).unwrap();
    assert_eq!(tried.attempt, 2);
    assert!(is_accepted(&env.finish(&worker, success(token(tried), 9.0)).await));
    assert_eq!(env.store.write(requeue).await.unwrap().1, 0);
}

async fn a_change_that_cannot_be_made_changes_nothing(env: &Env) {
    let worker =
        world(env, &format!("axes: {{lr: {{values: [1, 2]}}, wd: {{values: [0]}}}}\n{STAGES}")).await;
    let rows = env.lease(&worker, "a", 1).await;
    assert!(is_accepted(&env.finish(&worker, failure(token(&rows[0]), FailureClass::CudaOom)).await));
    for (change, problem) in [
        ("lr=2", "#2 is that already, and has a trial of seed 0"),
        ("prompt_length=3", "prompt_length"),
        ("wd=1", r#"it is of the group {"wd":0} of stage final, and would be of {"wd":1}"#),
    ] {
        let change = Some(Change::parse(&[change.to_owned()]).unwrap());
        let refused = env.store.write(Requeue { sweep: "s".into(), classes: Vec::new(), change }).await;
        let Err(Error::NoChange { number: 1, problem: said }) = refused else { panic!("{refused:?}") };
        assert!(said.contains(problem), "{said}");
    }
    assert_eq!(env.sweep("s").await.failed, 1);
}
