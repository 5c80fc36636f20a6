//! Calls that wait at the same time are done in one, as if they had come one after the other.

mod support;

use std::collections::BTreeSet;

use coordinator::store::ops::{Finish, Lease, Leased, NewEnd, NewSweep, Submit, Verdict};
use coordinator::store::{Error, Op, Token};
use coordinator::trial::{FailureClass, WorkerId};
use support::{Env, TTL, execute, failure, fenced, on_both, success, sweep, token};

on_both!(
    workers_that_ask_at_once_share_the_trials,
    limits_hold_for_all_that_ask_at_once,
    a_failed_trial_is_left_to_another_that_asks_at_once,
    a_repetition_among_others_gets_what_it_had,
    ends_at_once_are_judged_one_by_one,
    a_sweep_that_cannot_be_read_harms_no_other,
);

/// The answers to calls that wait at the same time.
async fn at_once<O: Op>(env: &Env, calls: Vec<O>) -> Vec<Result<O::Output, Error>> {
    // Nobody here can run it, and while it is written the calls come to wait.
    let mut long = sweep("long", 4_000, 1);
    long.configurations.iter_mut().for_each(|new| new.need.method = "another".to_owned());
    let store = env.store.clone();
    let submitting = tokio::spawn(async move { store.write(Submit { sweep: long }).await });
    tokio::task::yield_now().await;
    let mut tasks = Vec::new();
    for call in calls {
        let store = env.store.reliable().clone();
        tasks.push(tokio::spawn(async move { store.write(call).await }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    submitting.await.unwrap().unwrap();
    answers
}

fn lease(worker: &WorkerId, request: &str, max: u32) -> Lease {
    Lease {
        worker: worker.clone(),
        request: request.to_owned(),
        max,
        ttl: TTL,
        warm: Vec::new(),
        may_ask: false,
    }
}

fn finish(worker: &WorkerId, ends: Vec<NewEnd>) -> Finish {
    Finish { worker: worker.clone(), ends }
}

fn tokens(leased: &Result<Leased, Error>) -> Vec<Token> {
    leased.as_ref().unwrap().assignments.iter().map(token).collect()
}

async fn workers_that_ask_at_once_share_the_trials(env: &Env) {
    let row = env.submit(sweep("s", 7, 1)).await;
    let mut calls = Vec::new();
    for name in ["a", "b", "c", "d"] {
        calls.push(lease(&env.worker(name, 2).await, "r", 8));
    }
    calls.insert(1, lease(&WorkerId("nobody".to_owned()), "r", 8));
    let leased = at_once(env, calls).await;
    assert!(matches!(leased[1], Err(Error::NoWorker(_))));
    let got: Vec<usize> = [0, 2, 3, 4].map(|n: usize| tokens(&leased[n]).len()).into();
    assert_eq!(got, [2, 2, 2, 1], "slots first, then what there is");
    let all: BTreeSet<Token> = [0, 2, 3, 4].iter().flat_map(|n: &usize| tokens(&leased[*n])).collect();
    assert_eq!(all.len(), 7, "no trial twice");
    assert_eq!(env.sweep(&row.id).await.running, 7);
}

async fn limits_hold_for_all_that_ask_at_once(env: &Env) {
    let narrow = NewSweep { max_running: Some(3), priority: 1, ..sweep("narrow", 9, 1) };
    let narrow = env.submit(narrow).await;
    let other = env.submit(sweep("other", 9, 1)).await;
    let mut calls = Vec::new();
    for name in ["a", "b", "c"] {
        calls.push(lease(&env.worker(name, 2).await, "r", 2));
    }
    let leased = at_once(env, calls).await;
    assert!(leased.iter().all(|leased| tokens(leased).len() == 2));
    assert_eq!(env.sweep(&narrow.id).await.running, 3);
    assert_eq!(env.sweep(&other.id).await.running, 3);
}

async fn a_failed_trial_is_left_to_another_that_asks_at_once(env: &Env) {
    env.submit(sweep("s", 2, 1)).await;
    let (a, b) = (env.worker("a", 1).await, env.worker("b", 1).await);
    let failed = env.lease_one(&a, "r1").await;
    env.finish(&a, failure(failed, FailureClass::CodeError)).await;
    env.advance(TTL / 2);
    let leased = at_once(env, vec![lease(&a, "r2", 1), lease(&b, "r", 1)]).await;
    assert_ne!(tokens(&leased[0])[0].trial, failed.trial);
    assert_eq!(tokens(&leased[1])[0], Token { trial: failed.trial, attempt: 2 });
}

async fn a_repetition_among_others_gets_what_it_had(env: &Env) {
    env.submit(sweep("s", 4, 1)).await;
    let (a, b) = (env.worker("a", 2).await, env.worker("b", 2).await);
    let first = env.lease(&a, "r", 1).await;
    let calls = vec![lease(&a, "r", 1), lease(&b, "r", 1), lease(&a, "r2", 2), lease(&a, "r2", 2)];
    let leased = at_once(env, calls).await;
    let leased: Vec<Leased> = leased.into_iter().map(Result::unwrap).collect();
    assert_eq!(leased[0], Leased { assignments: first, is_repetition: true, ..Leased::default() });
    assert_eq!(leased[1].assignments.len(), 1);
    assert_eq!(leased[2].assignments.len(), 1, "its other slot is taken");
    assert_eq!(leased[3], Leased { is_repetition: true, ..leased[2].clone() });
}

async fn ends_at_once_are_judged_one_by_one(env: &Env) {
    let row = env.submit(sweep("s", 4, 1)).await;
    let (a, b, c) = (env.worker("a", 2).await, env.worker("b", 1).await, env.worker("c", 1).await);
    let held: Vec<Token> = env.lease(&a, "r", 2).await.iter().map(token).collect();
    let (lost, failed) = (env.lease_one(&b, "r").await, env.lease_one(&c, "r").await);
    let calls = vec![
        finish(&a, vec![success(held[0], 1.0)]),
        finish(&b, vec![success(held[1], 1.0), success(lost, 5.0)]),
        finish(&WorkerId("nobody".to_owned()), vec![success(held[1], 1.0)]),
        finish(&a, vec![success(held[0], 1.0), success(held[1], 2.0)]),
        finish(&a, vec![success(held[0], 3.0)]),
        finish(&c, vec![failure(failed, FailureClass::CodeError)]),
    ];
    let verdicts = at_once(env, calls).await;
    let accepted = |reason: &str| Verdict::Accepted { reason: reason.to_owned() };
    let of = |n: usize| verdicts[n].as_ref().unwrap().as_slice();
    assert_eq!(of(0), [accepted("")]);
    assert_eq!(of(1), [fenced("held by another worker"), accepted("")]);
    assert!(matches!(verdicts[2], Err(Error::NoWorker(_))));
    assert_eq!(of(3), [accepted("accepted before"), accepted("")]);
    assert_eq!(of(4), [fenced("ended")]);
    assert_eq!(of(5), [accepted("queued again")]);
    let row = env.sweep(&row.id).await;
    assert_eq!((row.succeeded, row.queued, row.running), (3, 1, 0));
    assert_eq!(env.trial(held[1].trial).await.trial.objective, Some(2.0));
    assert_eq!(env.trial(held[0].trial).await.orphans.len(), 1, "a result that was refused is kept");
}

async fn a_sweep_that_cannot_be_read_harms_no_other(env: &Env) {
    env.submit(sweep("sick", 1, 1)).await;
    let (a, b) = (env.worker("a", 1).await, env.worker("b", 1).await);
    let sick = env.lease_one(&a, "r").await;
    env.submit(sweep("well", 1, 1)).await;
    let well = env.lease_one(&b, "r").await;
    execute(&env.url, "UPDATE sweep SET retry_json = '{' WHERE name = 'sick'").await;
    let calls = vec![finish(&a, vec![success(sick, 1.0)]), finish(&b, vec![success(well, 1.0)])];
    let verdicts = at_once(env, calls).await;
    assert!(matches!(verdicts[0], Err(Error::Corrupt { table: "sweep", .. })));
    assert_eq!(verdicts[1].as_ref().unwrap().as_slice(), [Verdict::Accepted { reason: String::new() }]);
    execute(&env.url, "UPDATE sweep SET retry_json = (SELECT retry_json FROM sweep WHERE name = 'well')")
        .await;
}
