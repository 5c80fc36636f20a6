//! Results of earlier trials that are taken over: exactly those of the same recipe, seed, inputs and code.

mod support;

use std::collections::BTreeMap;

use coordinator::score::At;
use coordinator::store::ops::{NewEnd, Outcome, Progress, Ran, Report};
use coordinator::store::reads::Results;
use coordinator::store::rows::ReusableRow;
use coordinator::store::{Error, Token};
use coordinator::trial::{TrialId, WorkerId};
use support::{Env, is_accepted, on_both, point, success, sweep, sweep_of, token};
use sweeps::spec::Reuse;

on_both!(
    a_result_is_taken_over_with_all_that_belongs_to_it,
    only_equal_trials_are_offered,
    what_does_not_fit_is_refused,
    a_fenced_attempt_takes_nothing_over,
    a_taken_over_trial_counts_in_early_stopping,
);

fn ran(inputs: &str, code: &str, origin: Option<TrialId>) -> Ran {
    Ran { inputs: inputs.to_owned(), code: code.to_owned(), origin }
}

fn end(token: Token, value: f64, ran: Ran) -> NewEnd {
    let metrics = BTreeMap::from([("val/top1".to_owned(), value)]);
    let metrics = if ran.origin.is_some() { BTreeMap::new() } else { metrics };
    let artifact = Some("file:///a/1".to_owned()).filter(|_| ran.origin.is_none());
    NewEnd {
        outcome: Outcome::Success { metrics, artifact, ran, pruning_json: None },
        ..success(token, value)
    }
}

/// A finished sweep of one trial, trained on `x` by the code `c`.
async fn finished(env: &Env, worker: &WorkerId) -> TrialId {
    env.submit(sweep("first", 1, 1)).await;
    let token = env.lease_one(worker, "first").await;
    let progress = vec![Progress {
        token,
        points: vec![point(1, 40.0), point(2, 80.0)],
        checkpoint: None,
        prefix: None,
    }];
    env.store.write(Report { worker: worker.clone(), progress }).await.unwrap();
    assert!(is_accepted(&env.finish(worker, end(token, 60.0, ran("x", "c", None))).await));
    token.trial
}

/// Submits a sweep and leases its first trial; what it may take over.
async fn offered(env: &Env, worker: &WorkerId, name: &str, reuse: Reuse) -> (Token, Vec<ReusableRow>) {
    let mut new = sweep(name, 1, 1);
    new.reuse = reuse;
    new.objective.at = At::Best;
    env.submit(new).await;
    let leased = env.leased(worker, name, 1).await;
    (token(&leased.assignments[0]), leased.reusable)
}

async fn a_result_is_taken_over_with_all_that_belongs_to_it(env: &Env) {
    let worker = env.worker("gpu", 4).await;
    let origin = finished(env, &worker).await;
    let (token, reusable) = offered(env, &worker, "second", Reuse::SameCode).await;
    let row = ReusableRow { trial: token.trial.0, origin: origin.0, inputs: "x".into(), code: "c".into() };
    assert_eq!(reusable, [row]);
    let reused = end(token, 0.0, ran("x", "c", Some(origin)));
    assert!(is_accepted(&env.finish(&worker, reused.clone()).await));
    assert!(is_accepted(&env.finish(&worker, reused).await), "a repetition changes nothing");

    let details = env.trial(token.trial).await;
    assert_eq!((details.trial.origin, details.trial.epoch), (Some(origin.0), 2));
    assert_eq!(details.trial.objective, Some(80.0), "scored by the objective of its own sweep");
    assert_eq!(details.trial.metrics_json.as_deref(), Some(r#"{"val/top1":60.0}"#));
    assert_eq!(details.artifact.as_deref(), Some("file:///a/1"));
    assert_eq!(details.points.len(), 2);
    let first = env.trial(origin).await.trial;
    assert_eq!((details.trial.origin_sweep, first.origin), (Some(first.sweep_id), None));
    let event = env
        .events(&env.sweep("second").await)
        .await
        .into_iter()
        .find(|event| event.kind == "succeeded")
        .unwrap();
    assert!(
        event.message.starts_with(&format!("taken over from trial {origin} of sweep ")),
        "{}",
        event.message
    );
    let page = env.store.read(Results { sweep: "second".into(), after: 0, limit: 10 }).await.unwrap();
    assert_eq!(page.outcomes.iter().map(|row| row.reused).sum::<i64>(), 1);

    // A result that was taken over leads back to the trial that trained, not to one between.
    let (_, reusable) = offered(env, &worker, "third", Reuse::SameCode).await;
    assert_eq!(reusable.iter().map(|row| row.origin).collect::<Vec<_>>(), [origin.0]);
}

async fn only_equal_trials_are_offered(env: &Env) {
    let worker = env.worker("gpu", 8).await;
    let origin = finished(env, &worker).await;
    let (_, never) = offered(env, &worker, "never", Reuse::Never).await;
    assert!(never.is_empty());
    let (_, any) = offered(env, &worker, "any", Reuse::SameConfig).await;
    assert_eq!((any[0].origin, any[0].code.as_str()), (origin.0, ""));
    // Another seed, and another recipe.
    let mut others = sweep("others", 2, 2);
    others.reuse = Reuse::SameConfig;
    env.submit(others).await;
    let others = env.leased(&worker, "others", 4).await;
    assert_eq!((others.assignments.len(), others.reusable.len()), (4, 1));
}

async fn what_does_not_fit_is_refused(env: &Env) {
    let worker = env.worker("gpu", 8).await;
    let origin = finished(env, &worker).await;
    let (token, _) = offered(env, &worker, "second", Reuse::SameCode).await;
    for wrong in [
        ran("y", "c", Some(origin)),
        ran("x", "d", Some(origin)),
        ran("x", "c", Some(token.trial)),
        ran("x", "c", Some(TrialId(99))),
    ] {
        let refused = env.try_finish(&worker, end(token, 0.0, wrong.clone())).await;
        assert!(matches!(refused, Err(Error::NotReusable { .. })), "{wrong:?}");
    }
    assert_eq!(env.trial(token.trial).await.trial.state, "running");
    let (strict, _) = offered(env, &worker, "never", Reuse::Never).await;
    let refused = env.try_finish(&worker, end(strict, 0.0, ran("x", "c", Some(origin)))).await;
    assert!(matches!(refused, Err(Error::NotReusable { .. })));
}

async fn a_fenced_attempt_takes_nothing_over(env: &Env) {
    let worker = env.worker("gpu", 4).await;
    let origin = finished(env, &worker).await;
    let (token, _) = offered(env, &worker, "second", Reuse::SameCode).await;
    env.advance(support::TTL + support::GRACE + 1);
    env.reap().await;
    let verdict = env.finish(&worker, end(token, 0.0, ran("x", "c", Some(origin)))).await;
    assert!(!is_accepted(&verdict));
    let details = env.trial(token.trial).await;
    assert_eq!(
        (details.trial.state.as_str(), details.trial.origin, details.points.len()),
        ("queued", None, 0)
    );
}

async fn a_taken_over_trial_counts_in_early_stopping(env: &Env) {
    let worker = env.worker("gpu", 8).await;
    let file = |name: &str, more: &str| {
        format!(
            "version: 1\nname: {name}\nbase: {{backbone: b, task: t, method: linear, epochs: 4, split: {{train: train, eval: train, test: null}}}}\n\
             axes: {{lr: {{values: [1, 2]}}}}\nsearch: {{order: as_written}}\n{more}"
        )
    };
    env.submit(sweep_of(&file("first", ""))).await;
    let assigned = env.leased(&worker, "first", 2).await.assignments;
    for (assignment, value) in assigned.iter().zip([10.0, 90.0]) {
        let points = (1..=4).map(|epoch| point(epoch, value)).collect();
        let trained = end(token(assignment), value, ran("x", "c", None));
        assert!(is_accepted(&env.finish(&worker, NewEnd { points, ..trained }).await));
    }
    let more = "reuse: same_config\nearly_stop: {rule: asha, min: 1, eta: 2}\n";
    env.submit(sweep_of(&file("second", more))).await;
    let leased = env.leased(&worker, "second", 2).await;
    let good = &leased.reusable[1];
    let good_token = token(&leased.assignments[1]);
    assert!(is_accepted(
        &env.finish(&worker, end(good_token, 0.0, ran("x", "", Some(TrialId(good.origin))))).await
    ));
    // The other is trained, and falls behind at the first rung.
    let token = token(&leased.assignments[0]);
    let progress = vec![Progress { token, points: vec![point(1, 10.0)], checkpoint: None, prefix: None }];
    let lost = env.store.write(Report { worker: worker.clone(), progress }).await.unwrap();
    assert_eq!(lost.len(), 1);
    assert_eq!(env.trial(token.trial).await.trial.state, "stopped");
}
