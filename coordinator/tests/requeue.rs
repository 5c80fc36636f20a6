//! Trying failed trials again, on both databases.

mod support;

use coordinator::store::Error;
use coordinator::store::ops::{Cancel, Requeue};
use coordinator::trial::{FailureClass, TrialId};
use support::{Env, failure, is_accepted, on_both, success, sweep, token};

on_both!(
    failed_trials_are_queued_again_and_the_sweep_goes_on,
    only_the_classes_that_were_asked_for,
    a_cancelled_sweep_stays_so,
);

fn requeue(classes: &[FailureClass]) -> Requeue {
    Requeue { sweep: "s".to_owned(), classes: classes.to_vec(), change: None }
}

async fn failed_trials_are_queued_again_and_the_sweep_goes_on(env: &Env) {
    let mut new = sweep("s", 3, 1);
    new.policy.max_attempts = 1;
    let row = env.submit(new).await;
    let worker = env.worker("gpu", 3).await;
    let leased = env.lease(&worker, "r1", 3).await;
    env.finish(&worker, failure(token(&leased[0]), FailureClass::CudaOom)).await;
    env.finish(&worker, failure(token(&leased[1]), FailureClass::Diverged)).await;
    env.finish(&worker, success(token(&leased[2]), 1.0)).await;
    assert_eq!(env.sweep("s").await.state, "ended");

    let (again, count) = env.store.reliable().write(requeue(&[])).await.unwrap();
    assert_eq!((count, again.state.as_str(), again.queued, again.failed), (1, "active", 1, 1));
    assert_eq!(env.store.reliable().write(requeue(&[])).await.unwrap().1, 0, "repeating it finds nothing");
    let token = env.lease_one(&worker, "r2").await;
    assert_eq!((token.trial, token.attempt), (TrialId(leased[0].trial), 2));
    assert!(is_accepted(&env.finish(&worker, success(token, 2.0)).await));
    assert_eq!(env.sweep("s").await.state, "ended");
    let kinds = env.kinds(&row).await;
    assert_eq!(kinds[kinds.len() - 5..], ["resumed", "revived", "leased", "succeeded", "ended"]);
}

async fn only_the_classes_that_were_asked_for(env: &Env) {
    let mut new = sweep("s", 3, 1);
    new.policy.max_attempts = 1;
    env.submit(new).await;
    let worker = env.worker("gpu", 3).await;
    let leased = env.lease(&worker, "r1", 3).await;
    for (row, class) in
        leased.iter().zip([FailureClass::CudaOom, FailureClass::Timeout, FailureClass::Diverged])
    {
        env.finish(&worker, failure(token(row), class)).await;
    }
    let (row, count) =
        env.store.reliable().write(requeue(&[FailureClass::Timeout, FailureClass::Diverged])).await.unwrap();
    assert_eq!((count, row.queued, row.failed), (2, 2, 1));
}

async fn a_cancelled_sweep_stays_so(env: &Env) {
    env.submit(sweep("s", 1, 1)).await;
    env.store.write(Cancel { sweep: "s".to_owned() }).await.unwrap();
    assert!(matches!(env.store.reliable().write(requeue(&[])).await.unwrap_err(), Error::SweepOver { .. }));
}
