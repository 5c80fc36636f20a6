//! What the store promises, on both databases alike.

mod support;

use std::collections::BTreeSet;

use coordinator::score::At;
use coordinator::store::ops::{
    Cancel, Drain, Finish, Lease, NewEnd, Outcome, Pause, Progress, Ran, Register, Report, Resume, Submit,
    Verdict,
};
use coordinator::store::reads::{GetSweep, HasWork, ListSweeps, ListWorkers, Results, Trials};
use coordinator::store::rows::OutcomesRow;
use coordinator::store::{self, Clock, Error, OpenError, Token};
use coordinator::trial::{Cause, FailureClass, TrialId, WorkerId};
use support::{
    Env, GRACE, START, Store, TTL, execute, failure, fenced, is_accepted, on_both, point, success, sweep,
    token,
};

on_both!(
    a_trial_runs_to_its_end,
    submit_is_idempotent,
    lease_is_idempotent,
    lease_follows_priority_then_order,
    lease_fits_the_worker,
    lease_never_exceeds_slots,
    max_running_is_kept,
    a_draining_worker_gets_nothing,
    unknown_workers_are_told,
    renew_keeps_a_lease,
    an_expired_lease_is_taken_back,
    an_unreaped_lease_still_counts,
    a_late_finish_is_fenced,
    a_finish_of_a_later_attempt_is_fenced,
    a_repeated_finish_is_accepted_again,
    one_call_may_end_many_attempts,
    failures_wait_and_then_end_the_trial,
    diverged_ends_at_once_without_a_score,
    interruptions_are_not_failures,
    reports_are_idempotent_and_fenced,
    the_latest_checkpoint_goes_to_the_next_attempt,
    a_result_names_its_artifact,
    best_takes_the_best_epoch,
    metrics_that_are_not_finite_are_kept_as_such,
    cancel_takes_leases_away,
    pause_and_resume,
    failures_in_a_row_pause_the_sweep,
    results_are_paged_by_configuration,
    trials_are_paged_by_id,
    sweeps_are_found_by_what_people_type,
    unserved_trials_say_what_is_missing,
    workers_are_listed,
    a_name_stands_for_one_backbone,
    a_reopened_database_keeps_everything,
    large_sweeps_are_queued_in_batches,
    a_newer_schema_is_refused,
    a_foreign_database_is_refused,
);

async fn a_trial_runs_to_its_end(env: &Env) {
    let row = env.submit(sweep("s", 1, 1)).await;
    assert_eq!((row.queued, row.last_seq), (1, 1));
    let worker = env.worker("gpu", 1).await;
    let assignments = env.lease(&worker, "r", 1).await;
    assert_eq!(assignments[0].recipe_json, r#"{"lr":0,"method":"linear"}"#);
    assert_eq!(assignments[0].timeout_ms, Some(1_000));
    let token = token(&assignments[0]);
    assert_eq!(token.attempt, 1);
    env.advance(5_000);
    let points = vec![point(1, 50.0)];
    let verdict = env.finish(&worker, NewEnd { points, ..success(token, 60.0) }).await;
    assert_eq!(verdict, Verdict::Accepted { reason: String::new() });

    let details = env.trial(token.trial).await;
    assert_eq!(details.trial.state, "succeeded");
    assert_eq!(details.trial.objective, Some(60.0));
    assert_eq!(details.trial.worker, Some(worker.0.clone()));
    assert_eq!((details.trial.epoch, details.trial.epochs), (1, 3));
    assert_eq!((details.trial.started, details.trial.ended), (Some(START), Some(START + 5_000)));
    assert_eq!(details.points.len(), 1);
    assert_eq!(details.attempts[0].how.as_deref(), Some("succeeded"));
    assert_eq!(env.sweep(&row.id).await.state, "ended");
    assert_eq!(env.kinds(&row).await, ["submitted", "leased", "reported", "succeeded", "ended"]);
    assert!(env.lease(&worker, "r2", 1).await.is_empty());
}

async fn submit_is_idempotent(env: &Env) {
    let (first, created) = env.store.reliable().write(Submit { sweep: sweep("s", 2, 2) }).await.unwrap();
    assert!(created);
    let (again, created) = env.store.reliable().write(Submit { sweep: sweep("s", 2, 2) }).await.unwrap();
    assert!(!created);
    assert_eq!(first, again);
    assert_eq!(env.kinds(&first).await, ["submitted"]);

    let (left, right) = tokio::join!(
        env.store.reliable().write(Submit { sweep: sweep("other", 2, 2) }),
        env.store.reliable().write(Submit { sweep: sweep("other", 2, 2) }),
    );
    let (left, right) = (left.unwrap(), right.unwrap());
    assert_eq!(left.0.id, right.0.id);
    assert!(left.1 ^ right.1, "exactly one made it");
}

async fn lease_is_idempotent(env: &Env) {
    env.submit(sweep("s", 5, 1)).await;
    let worker = env.worker("gpu", 4).await;
    let first = env.lease(&worker, "r", 2).await;
    assert_eq!(first.len(), 2);
    assert_eq!(env.lease(&worker, "r", 2).await, first);
    let second = env.lease(&worker, "r2", 2).await;
    assert_eq!(second.len(), 2);
    assert_ne!(first, second);
    env.finish(&worker, success(token(&first[0]), 1.0)).await;
    assert_eq!(env.lease(&worker, "r", 2).await, first[1..], "what has ended is not given again");
    env.finish(&worker, success(token(&first[1]), 1.0)).await;
    let lease = Lease {
        worker: worker.clone(),
        request: "r".to_owned(),
        max: 2,
        ttl: TTL,
        warm: Vec::new(),
        may_ask: false,
    };
    let leased = env.store.write(lease).await.unwrap();
    assert!(leased.is_repetition && leased.assignments.is_empty(), "and nothing is waited for");
}

async fn lease_follows_priority_then_order(env: &Env) {
    let low = env.submit(sweep("low", 3, 1)).await;
    let high = env.submit(coordinator::store::ops::NewSweep { priority: 5, ..sweep("high", 2, 1) }).await;
    let worker = env.worker("gpu", 8).await;
    let got = env.lease(&worker, "r", 4).await;
    let sweeps: Vec<_> = got.iter().map(|row| row.sweep_id.as_str()).collect();
    let expected: BTreeSet<_> = [low.id.as_str(), high.id.as_str()].into();
    assert_eq!(sweeps.iter().copied().collect::<BTreeSet<_>>(), expected);
    assert_eq!(sweeps.iter().filter(|id| **id == high.id).count(), 2, "all of the high one");
    let low_seen: Vec<_> = got.iter().filter(|row| row.sweep_id == low.id).map(|row| row.trial).collect();
    let rest = env.lease(&worker, "r2", 4).await;
    assert_eq!(rest.len(), 1);
    assert!(low_seen.iter().all(|trial| *trial < rest[0].trial), "in the order of ids");
}

async fn lease_fits_the_worker(env: &Env) {
    let mut mixed = sweep("s", 5, 1);
    mixed.configurations[4].need.splits.insert("test".to_owned());
    mixed.configurations[0].need.method = "gated".to_owned();
    mixed.configurations[1].need.task = "other".to_owned();
    mixed.configurations[2].need.backbone = "other".to_owned();
    env.submit(mixed).await;
    let worker = env.worker("gpu", 8).await;
    assert!(env.store.read(HasWork { worker: worker.clone() }).await.unwrap());
    let got = env.lease(&worker, "r", 8).await;
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].recipe_json, r#"{"lr":3,"method":"linear"}"#);
    assert!(!env.store.read(HasWork { worker }).await.unwrap());
    let gated = env.worker_with("gpu2", 8, &["gated", "linear"]).await;
    assert_eq!(env.lease(&gated, "r", 8).await.len(), 1);
}

async fn lease_never_exceeds_slots(env: &Env) {
    env.submit(sweep("s", 5, 1)).await;
    let worker = env.worker("gpu", 2).await;
    assert_eq!(env.lease(&worker, "r", 5).await.len(), 2);
    assert!(env.lease(&worker, "r2", 5).await.is_empty());
    assert!(!env.store.read(HasWork { worker }).await.unwrap());
}

async fn max_running_is_kept(env: &Env) {
    let mut limited = sweep("s", 5, 1);
    limited.max_running = Some(2);
    env.submit(limited).await;
    let (a, b) = (env.worker("a", 4).await, env.worker("b", 4).await);
    let got = env.lease(&a, "r", 4).await;
    assert_eq!(got.len(), 2);
    assert!(env.lease(&b, "r", 4).await.is_empty());
    env.finish(&a, success(token(&got[0]), 1.0)).await;
    assert_eq!(env.lease(&b, "r2", 4).await.len(), 1);
}

async fn a_draining_worker_gets_nothing(env: &Env) {
    env.submit(sweep("s", 2, 1)).await;
    let worker = env.worker("gpu", 2).await;
    let held = env.lease_one(&worker, "r").await;
    env.store.write(Drain { worker: worker.clone() }).await.unwrap();
    assert!(env.lease(&worker, "r2", 1).await.is_empty());
    assert!(!env.store.read(HasWork { worker: worker.clone() }).await.unwrap());
    assert_eq!(env.renew(&worker, &[held]).await.0, [held], "what it holds it may finish");
    assert!(is_accepted(&env.finish(&worker, success(held, 1.0)).await));
    assert_eq!(env.worker("gpu", 2).await, worker, "the same instance keeps its id");
    assert_eq!(env.lease(&worker, "r3", 1).await.len(), 1, "registered again, it is live again");
}

async fn unknown_workers_are_told(env: &Env) {
    let stranger = WorkerId("nobody".to_owned());
    let lease = Lease {
        worker: stranger.clone(),
        request: "r".to_owned(),
        max: 1,
        ttl: TTL,
        warm: Vec::new(),
        may_ask: false,
    };
    assert!(matches!(env.store.write(lease).await, Err(Error::NoWorker(id)) if id == "nobody"));
    let none = Finish { worker: stranger.clone(), ends: Vec::new() };
    assert!(matches!(env.store.write(none).await, Err(Error::NoWorker(_))));
    assert!(matches!(env.store.write(Drain { worker: stranger }).await, Err(Error::NoWorker(_))));
}

async fn renew_keeps_a_lease(env: &Env) {
    env.submit(sweep("s", 1, 1)).await;
    let worker = env.worker("gpu", 1).await;
    let token = env.lease_one(&worker, "r").await;
    for _ in 0..5 {
        env.advance(TTL / 2);
        assert_eq!(env.renew(&worker, &[token, token]).await, (vec![token], vec![]));
        assert_eq!(env.reap().await, 0);
    }
    let other = env.worker("other", 1).await;
    assert_eq!(env.renew(&other, &[token]).await, (vec![], vec!["held by another worker".to_owned()]));
    let missing = Token { trial: TrialId(999_999), attempt: 1 };
    assert_eq!(env.renew(&worker, &[missing]).await.1, ["there is no trial 999999"]);
}

async fn an_expired_lease_is_taken_back(env: &Env) {
    let row = env.submit(sweep("s", 1, 1)).await;
    let worker = env.worker("gpu", 1).await;
    let token = env.lease_one(&worker, "r").await;
    env.advance(TTL + GRACE);
    assert_eq!(env.reap().await, 0, "not before the grace is over");
    env.advance(1);
    assert_eq!(env.reap().await, 1);
    assert_eq!(env.reap().await, 0);
    assert_eq!(env.renew(&worker, &[token]).await, (vec![], vec!["expired".to_owned()]));
    let details = env.trial(token.trial).await;
    assert_eq!(details.trial.state, "queued");
    assert_eq!(details.attempts[0].how.as_deref(), Some("worker_lost"));
    assert_eq!(env.kinds(&row).await, ["submitted", "leased", "requeued"]);

    let again = env.lease_one(&worker, "r2").await;
    assert_eq!(again, Token { attempt: 2, ..token });
    assert_eq!(env.renew(&worker, &[token]).await.1, ["leased again as attempt 2"]);
}

async fn an_unreaped_lease_still_counts(env: &Env) {
    env.submit(sweep("s", 2, 1)).await;
    let worker = env.worker("gpu", 2).await;
    let got = env.lease(&worker, "r", 2).await;
    env.advance(100 * TTL);
    assert_eq!(env.renew(&worker, &[token(&got[0])]).await.0, [token(&got[0])]);
    assert!(is_accepted(&env.finish(&worker, success(token(&got[1]), 1.0)).await));
    assert_eq!(env.reap().await, 0, "renewed or ended meanwhile");
}

async fn a_late_finish_is_fenced(env: &Env) {
    env.submit(sweep("s", 1, 1)).await;
    let worker = env.worker("gpu", 1).await;
    let token = env.lease_one(&worker, "r").await;
    env.advance(TTL + GRACE + 1);
    env.reap().await;
    let late = NewEnd { points: vec![point(1, 99.0)], ..success(token, 99.0) };
    assert_eq!(env.finish(&worker, late).await, fenced("expired"));
    let details = env.trial(token.trial).await;
    assert_eq!((details.trial.state.as_str(), details.trial.objective), ("queued", None));
    assert!(details.points.is_empty(), "metrics of a fenced attempt reach no table");
}

async fn a_finish_of_a_later_attempt_is_fenced(env: &Env) {
    env.submit(sweep("s", 1, 1)).await;
    let (a, b) = (env.worker("a", 1).await, env.worker("b", 1).await);
    let old = env.lease_one(&a, "r").await;
    env.advance(TTL + GRACE + 1);
    env.reap().await;
    let new = env.lease_one(&b, "r").await;
    assert_eq!(env.finish(&a, success(old, 1.0)).await, fenced("leased again as attempt 2"));
    assert_eq!(env.finish(&a, success(new, 1.0)).await, fenced("held by another worker"));
    let future = Token { attempt: 3, ..new };
    assert_eq!(env.finish(&b, success(future, 1.0)).await, fenced("attempt 3 does not exist"));
    assert!(is_accepted(&env.finish(&b, success(new, 2.0)).await));
    assert_eq!(env.finish(&a, success(old, 1.0)).await, fenced("ended"));
    assert_eq!(env.trial(new.trial).await.trial.objective, Some(2.0));
    let missing = Token { trial: TrialId(999_999), attempt: 1 };
    assert_eq!(env.finish(&b, success(missing, 1.0)).await, fenced("there is no trial 999999"));
}

async fn a_repeated_finish_is_accepted_again(env: &Env) {
    let row = env.submit(sweep("s", 2, 1)).await;
    let worker = env.worker("gpu", 2).await;
    let got = env.lease(&worker, "r", 2).await;
    let (first, second) = (token(&got[0]), token(&got[1]));
    let again = Verdict::Accepted { reason: "accepted before".to_owned() };
    for end in [success(first, 1.0), failure(second, FailureClass::CodeError)] {
        let finish = Finish { worker: worker.clone(), ends: vec![end.clone()] };
        assert_ne!(env.store.reliable().write(finish).await.unwrap()[0], again);
        let before = env.events(&row).await;
        assert_eq!(env.finish(&worker, end.clone()).await, again);
        let with_points = NewEnd { points: vec![point(1, 5.0)], ..end };
        assert_eq!(env.finish(&worker, with_points).await, again);
        assert_eq!(env.events(&row).await, before, "a repetition writes nothing");
    }
    assert_eq!(env.finish(&worker, success(first, 2.0)).await, fenced("ended"), "another end is another end");
    assert_eq!(env.trial(first.trial).await.trial.objective, Some(1.0));
    let other = env.worker("other", 1).await;
    assert_eq!(env.finish(&other, success(first, 1.0)).await, fenced("ended"));
}

async fn one_call_may_end_many_attempts(env: &Env) {
    env.submit(sweep("s", 3, 1)).await;
    let worker = env.worker("gpu", 3).await;
    let got: Vec<_> = env.lease(&worker, "r", 3).await.iter().map(token).collect();
    let ends = vec![
        success(got[0], 1.0),
        success(got[0], 1.0),
        success(got[0], 2.0),
        failure(got[1], FailureClass::Diverged),
        success(Token { attempt: 9, ..got[2] }, 1.0),
        success(got[2], 3.0),
    ];
    let verdicts = env.store.write(Finish { worker, ends }).await.unwrap();
    let accepted: Vec<_> = verdicts.iter().map(is_accepted).collect();
    assert_eq!(accepted, [true, true, false, true, false, true]);
}

async fn failures_wait_and_then_end_the_trial(env: &Env) {
    let row = env.submit(sweep("s", 1, 1)).await;
    let worker = env.worker("gpu", 1).await;
    for attempt in 1..=3 {
        let token = env.lease_one(&worker, &format!("r{attempt}")).await;
        assert_eq!(token.attempt, attempt);
        let verdict = env.finish(&worker, failure(token, FailureClass::CudaOom)).await;
        assert!(is_accepted(&verdict));
        if attempt < 3 {
            assert!(env.lease(&worker, &format!("early{attempt}"), 1).await.is_empty(), "backoff");
            assert!(!env.store.read(HasWork { worker: worker.clone() }).await.unwrap());
            env.advance(60_000);
        }
    }
    let failed = env.sweep(&row.id).await;
    assert_eq!((failed.state.as_str(), failed.failed), ("ended", 1));
    let details = env.store.read(GetSweep { sweep: row.id.clone() }).await.unwrap();
    assert_eq!(details.failures[0].class, "cuda_oom");
    assert_eq!(details.failures[0].trials, 1);
    assert_eq!(details.failures[0].example.as_deref(), Some("cuda_oom happened"));
    let kinds = env.kinds(&row).await;
    assert_eq!(kinds, ["submitted", "leased", "requeued", "leased", "requeued", "leased", "failed", "ended"]);
}

async fn diverged_ends_at_once_without_a_score(env: &Env) {
    env.submit(sweep("s", 2, 1)).await;
    let worker = env.worker("gpu", 2).await;
    let got = env.lease(&worker, "r", 2).await;
    for (row, class) in got.iter().zip([FailureClass::Diverged, FailureClass::InvalidConfig]) {
        assert!(is_accepted(&env.finish(&worker, failure(token(row), class)).await));
        let trial = env.trial(TrialId(row.trial)).await.trial;
        assert_eq!((trial.state.as_str(), trial.class.as_deref()), ("failed", Some(class.name())));
        assert_eq!(trial.objective, None);
    }
}

async fn interruptions_are_not_failures(env: &Env) {
    env.submit(sweep("s", 1, 1)).await;
    let worker = env.worker("gpu", 1).await;
    for attempt in 1..=50 {
        let token = env.lease_one(&worker, &format!("r{attempt}")).await;
        let cause = if attempt % 2 == 0 { Cause::Drained } else { Cause::Preempted };
        let outcome = Outcome::Interruption { cause, message: "SIGTERM".to_owned() };
        let end = NewEnd { token, points: Vec::new(), checkpoint: None, prefix: None, outcome };
        assert!(is_accepted(&env.finish(&worker, end).await));
    }
    let rows = env.store.read(trials("s", 0, vec![], 10)).await.unwrap();
    assert_eq!((rows[0].state.as_str(), rows[0].class.as_deref()), ("failed", Some("bad_node")));
    let message = rows[0].message.clone().unwrap();
    assert!(message.contains("50 attempts") && message.contains("SIGTERM"), "{message}");
}

async fn reports_are_idempotent_and_fenced(env: &Env) {
    let row = env.submit(sweep("s", 1, 1)).await;
    let worker = env.worker("gpu", 1).await;
    let token = env.lease_one(&worker, "r").await;
    let report = |token, points| Report {
        worker: worker.clone(),
        progress: vec![Progress { token, points, checkpoint: None, prefix: None }],
    };
    let first = report(token, vec![point(1, 10.0), point(2, 20.0)]);
    assert!(env.store.write(first.clone()).await.unwrap().is_empty());
    assert!(env.store.write(first).await.unwrap().is_empty());
    let changed = report(token, vec![point(2, 99.0), point(3, 30.0)]);
    assert!(env.store.write(changed).await.unwrap().is_empty());
    let details = env.trial(token.trial).await;
    let values: Vec<_> = details.points.iter().map(|point| (point.epoch, point.value)).collect();
    assert_eq!(values, [(1, Some(10.0)), (2, Some(20.0)), (3, Some(30.0))]);
    assert_eq!(details.trial.epoch, 3);
    assert_eq!(env.kinds(&row).await, ["submitted", "leased", "reported", "reported", "reported"]);

    env.advance(TTL + GRACE + 1);
    env.reap().await;
    let lost = env.store.write(report(token, vec![point(4, 40.0)])).await.unwrap();
    assert_eq!(lost[0].reason, "expired");
    assert_eq!(env.trial(token.trial).await.points.len(), 3);
}

async fn the_latest_checkpoint_goes_to_the_next_attempt(env: &Env) {
    env.submit(sweep("s", 1, 1)).await;
    let worker = env.worker("gpu", 1).await;
    let first = env.lease(&worker, "r1", 1).await.remove(0);
    assert_eq!((first.checkpoint.as_deref(), first.checkpoints().unwrap().every_ms), (None, Some(600_000)));
    let lost = token(&first);
    let report = |token, url: &str| Report {
        worker: worker.clone(),
        progress: vec![Progress {
            token,
            points: Vec::new(),
            checkpoint: Some(url.to_owned()),
            prefix: None,
        }],
    };
    for url in ["file:///a/1", "file:///a/2"] {
        assert!(env.store.write(report(lost, url)).await.unwrap().is_empty());
    }
    env.advance(TTL + GRACE + 1);
    env.reap().await;
    // What the lost attempt writes now is not what the next one starts from.
    assert_eq!(env.store.write(report(lost, "file:///a/3")).await.unwrap()[0].reason, "expired");
    let second = env.lease(&worker, "r2", 1).await.remove(0);
    assert_eq!(second.checkpoint.as_deref(), Some("file:///a/2"));

    let outcome = Outcome::Interruption { cause: Cause::Drained, message: "SIGTERM".to_owned() };
    let checkpoint = Some("file:///b/1".to_owned());
    let end = NewEnd { token: token(&second), points: Vec::new(), checkpoint, prefix: None, outcome };
    assert!(is_accepted(&env.finish(&worker, end).await));
    assert_eq!(env.trial(lost.trial).await.checkpoint.as_deref(), Some("file:///b/1"));
    assert_eq!(env.lease(&worker, "r3", 1).await[0].checkpoint.as_deref(), Some("file:///b/1"));
}

async fn a_result_names_its_artifact(env: &Env) {
    env.submit(sweep("s", 1, 1)).await;
    let worker = env.worker("gpu", 1).await;
    let token = env.lease_one(&worker, "r").await;
    assert_eq!(env.trial(token.trial).await.artifact, None);
    let metrics = [("val/top1".to_owned(), 60.0)].into();
    let outcome = Outcome::Success {
        metrics,
        artifact: Some("file:///a/1".to_owned()),
        pruning_json: Some(r#"{"kept":[[0]]}"#.to_owned()),
        ran: Ran::default(),
    };
    let end = NewEnd { token, points: Vec::new(), checkpoint: None, prefix: None, outcome };
    assert!(is_accepted(&env.finish(&worker, end.clone()).await));
    assert!(is_accepted(&env.finish(&worker, end).await));
    let trial = env.trial(token.trial).await;
    assert_eq!(trial.artifact.as_deref(), Some("file:///a/1"));
    assert_eq!(trial.pruning_json.as_deref(), Some(r#"{"kept":[[0]]}"#));
}

async fn best_takes_the_best_epoch(env: &Env) {
    let mut best = sweep("s", 1, 1);
    best.objective.at = At::Best;
    env.submit(best).await;
    let worker = env.worker("gpu", 1).await;
    let token = env.lease_one(&worker, "r").await;
    let progress = vec![Progress {
        token,
        points: vec![point(1, 40.0), point(2, 80.0)],
        checkpoint: None,
        prefix: None,
    }];
    env.store.write(Report { worker: worker.clone(), progress }).await.unwrap();
    let end = NewEnd { points: vec![point(3, 90.5)], ..success(token, 60.0) };
    assert!(is_accepted(&env.finish(&worker, end).await));
    assert_eq!(env.trial(token.trial).await.trial.objective, Some(90.5));
}

async fn metrics_that_are_not_finite_are_kept_as_such(env: &Env) {
    env.submit(sweep("s", 1, 1)).await;
    let worker = env.worker("gpu", 1).await;
    let token = env.lease_one(&worker, "r").await;
    let points = vec![point(1, f64::NAN), point(2, f64::INFINITY), point(3, 0.1)];
    let end = NewEnd { points, ..success(token, f64::NAN) };
    assert!(is_accepted(&env.finish(&worker, end).await));
    let details = env.trial(token.trial).await;
    assert_eq!(details.trial.objective, None);
    let values: Vec<_> = details.points.iter().map(|point| point.value).collect();
    assert_eq!(values, [None, None, Some(0.1)]);
    let metrics = details.trial.metrics_json.unwrap();
    assert!(metrics.contains(r#""val/top1":null"#), "{metrics}");
}

async fn cancel_takes_leases_away(env: &Env) {
    let row = env.submit(sweep("s", 4, 1)).await;
    let worker = env.worker("gpu", 2).await;
    let got: Vec<_> = env.lease(&worker, "r", 2).await.iter().map(token).collect();
    env.finish(&worker, success(got[0], 1.0)).await;
    env.advance(7);
    let cancelled = env.store.write(Cancel { sweep: row.id.clone() }).await.unwrap();
    assert_eq!(cancelled.state, "cancelled");
    assert_eq!((cancelled.succeeded, cancelled.cancelled, cancelled.queued), (1, 3, 0));
    let rows = env.store.read(trials("s", 0, vec!["cancelled"], 9)).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.ended).collect::<Vec<_>>(), [Some(START + 7); 3]);
    assert_eq!(env.store.write(Cancel { sweep: row.id.clone() }).await.unwrap(), cancelled);
    assert_eq!(env.renew(&worker, &[got[1]]).await.1, ["cancelled"]);
    assert_eq!(env.finish(&worker, success(got[1], 1.0)).await, fenced("cancelled"));
    let kinds = env.kinds(&row).await;
    assert_eq!(kinds, ["submitted", "leased", "leased", "succeeded", "cancelled", "cancelled"]);
    let events = env.events(&row).await;
    assert_eq!((events[4].trial, events[5].trial), (got[1].trial.0, 0));
    let refused = env.store.write(Resume { sweep: row.id }).await.unwrap_err();
    assert!(matches!(refused, Error::SweepOver { state: "cancelled", .. }), "{refused}");
}

async fn pause_and_resume(env: &Env) {
    let row = env.submit(sweep("s", 3, 1)).await;
    let worker = env.worker("gpu", 2).await;
    let held = env.lease_one(&worker, "r").await;
    for _ in 0..2 {
        assert_eq!(env.store.write(Pause { sweep: row.id.clone() }).await.unwrap().state, "paused");
    }
    assert!(env.lease(&worker, "r2", 1).await.is_empty());
    assert!(is_accepted(&env.finish(&worker, success(held, 1.0)).await), "running ones go on");
    for _ in 0..2 {
        assert_eq!(env.store.write(Resume { sweep: row.id.clone() }).await.unwrap().state, "active");
    }
    assert_eq!(env.lease(&worker, "r3", 2).await.len(), 2);
    let kinds = env.kinds(&row).await;
    assert_eq!(kinds, ["submitted", "leased", "paused", "succeeded", "resumed", "leased", "leased"]);
}

async fn failures_in_a_row_pause_the_sweep(env: &Env) {
    let mut careful = sweep("s", 9, 1);
    careful.pause_after_failures = Some(2);
    let row = env.submit(careful).await;
    let worker = env.worker("gpu", 9).await;
    let got: Vec<_> = env.lease(&worker, "r", 7).await.iter().map(token).collect();
    let fatal = FailureClass::InvalidConfig;
    env.finish(&worker, failure(got[0], fatal)).await;
    env.finish(&worker, failure(got[1], FailureClass::Diverged)).await;
    env.finish(&worker, success(got[2], 1.0)).await;
    env.finish(&worker, failure(got[3], fatal)).await;
    assert_eq!(env.sweep(&row.id).await.state, "active", "one in a row");
    env.finish(&worker, failure(got[4], fatal)).await;
    let paused = env.sweep(&row.id).await;
    assert_eq!(paused.state, "paused");
    assert!(paused.paused_because.contains("2 trials in a row failed"), "{}", paused.paused_because);
    let last = env.events(&row).await.pop().unwrap();
    assert_eq!((last.kind.as_str(), last.message), ("paused", paused.paused_because));

    let resumed = env.store.write(Resume { sweep: row.id.clone() }).await.unwrap();
    assert_eq!((resumed.state.as_str(), resumed.paused_because.as_str()), ("active", ""));
    env.finish(&worker, failure(got[5], fatal)).await;
    assert_eq!(env.sweep(&row.id).await.state, "active", "counted anew");
}

async fn results_are_paged_by_configuration(env: &Env) {
    env.submit(sweep("s", 3, 2)).await;
    let worker = env.worker("gpu", 8).await;
    let got: Vec<_> = env.lease(&worker, "r", 6).await.iter().map(token).collect();
    for (place, token) in got.iter().enumerate().take(5) {
        env.finish(&worker, success(*token, place as f64)).await;
    }
    env.finish(&worker, failure(got[5], FailureClass::Diverged)).await;
    let page = |after, limit| Results { sweep: "s".to_owned(), after, limit };
    let first = env.store.read(page(0, 2)).await.unwrap();
    let numbers: Vec<_> = first.configurations.iter().map(|row| row.number).collect();
    assert_eq!(numbers, [1, 2]);
    let scores = |row: &OutcomesRow| {
        let mut scores: Vec<f64> = row
            .objectives
            .iter()
            .flat_map(|list| list.split(','))
            .map(|score| score.parse().unwrap())
            .collect();
        scores.sort_by(f64::total_cmp);
        (row.config, row.trials, row.succeeded, scores)
    };
    let found: Vec<_> = first.outcomes.iter().map(scores).collect();
    assert_eq!(found, [(1, 2, 2, vec![0.0, 1.0]), (2, 2, 2, vec![2.0, 3.0])]);
    let second = env.store.read(page(2, 2)).await.unwrap();
    assert_eq!(second.configurations.len(), 1);
    let last = &second.outcomes[0];
    assert_eq!((last.config, last.trials, last.succeeded, last.failed, last.diverged), (3, 2, 1, 1, 1));
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(last.metrics_json.as_ref().unwrap()).unwrap()["val/top1"],
        4.0
    );
    assert!(env.store.read(page(3, 2)).await.unwrap().configurations.is_empty());
}

fn trials(sweep: &str, after: i64, states: Vec<&'static str>, limit: u32) -> Trials {
    Trials { sweep: sweep.to_owned(), after, states, limit }
}

async fn trials_are_paged_by_id(env: &Env) {
    env.submit(sweep("s", 3, 2)).await;
    let worker = env.worker("gpu", 1).await;
    let running = env.lease_one(&worker, "r").await;
    let first = env.store.read(trials("s", 0, vec![], 4)).await.unwrap();
    assert_eq!(first.len(), 4);
    let seeds: Vec<_> = first.iter().map(|row| (row.settings_json.as_str(), row.seed)).collect();
    assert_eq!(seeds, [("{\"lr\":0}", 0), ("{\"lr\":0}", 1), ("{\"lr\":1}", 0), ("{\"lr\":1}", 1)]);
    assert_eq!(env.store.read(trials("s", first[3].id, vec![], 4)).await.unwrap().len(), 2);
    let only = env.store.read(trials("s", 0, vec!["running", "failed"], 4)).await.unwrap();
    assert_eq!(only.iter().map(|row| row.id).collect::<Vec<_>>(), [running.trial.0]);
}

async fn sweeps_are_found_by_what_people_type(env: &Env) {
    let first = env.submit(sweep("study", 1, 1)).await;
    let mut newer = sweep("study", 1, 1);
    newer.key = "another key".to_owned();
    let newer = env.submit(newer).await;
    assert_eq!(env.sweep("last").await.id, newer.id);
    assert_eq!(env.sweep("study").await.id, newer.id, "the newest of that name");
    assert_eq!(env.sweep(&first.id).await.id, first.id);
    assert_eq!(env.sweep(&first.id[..7]).await.id, first.id);
    let missing = coordinator::store::reads::FindSweep { sweep: "nothing".to_owned() };
    assert!(matches!(env.store.read(missing).await, Err(Error::NoSweep(name)) if name == "nothing"));
    assert_eq!(first.id.len(), 8);
    let listed = env.store.read(ListSweeps { limit: 1 }).await.unwrap();
    assert_eq!(listed.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), [newer.id]);
}

async fn unserved_trials_say_what_is_missing(env: &Env) {
    let mut mixed = sweep("s", 3, 1);
    mixed.configurations[0].need.method = "gated".to_owned();
    mixed.configurations[1].need.method = "gated".to_owned();
    mixed.configurations[2].need.splits.insert("val200".to_owned());
    env.submit(mixed).await;
    let get = || GetSweep { sweep: "s".to_owned() };
    let unserved = env.store.read(get()).await.unwrap().unserved;
    assert_eq!(unserved.iter().map(|row| row.trials).sum::<i64>(), 3);
    assert!(unserved.iter().all(|row| row.reasons.is_empty()), "no live worker at all");
    env.worker("gpu-03", 1).await;
    let unserved = env.store.read(get()).await.unwrap().unserved;
    let reasons: Vec<_> = unserved.iter().map(|row| (row.trials, row.reasons[0].as_str())).collect();
    let expected = [(2, "gpu-03 lacks method gated"), (1, "gpu-03 lacks split val200 of task t")];
    assert!(expected.iter().all(|row| reasons.contains(row)) && reasons.len() == 2, "{reasons:?}");
}

async fn workers_are_listed(env: &Env) {
    env.submit(sweep("s", 2, 1)).await;
    let worker = env.worker("gpu", 2).await;
    env.lease(&worker, "r", 2).await;
    let list = env.store.read(ListWorkers).await.unwrap();
    assert_eq!((list[0].0.id.as_str(), list[0].0.state.as_str(), list[0].1), (worker.0.as_str(), "live", 2));
    env.advance(TTL + GRACE + 1);
    env.reap().await;
    let list = env.store.read(ListWorkers).await.unwrap();
    assert_eq!((list[0].0.state.as_str(), list[0].1), ("lost", 0));
    env.renew(&worker, &[]).await;
    assert_eq!(env.store.read(ListWorkers).await.unwrap()[0].0.state, "live", "heard of again");

    env.advance(1);
    let (other, newer) = (env.worker("other", 1).await, env.worker("newer", 1).await);
    env.advance(TTL + GRACE + 1);
    env.renew(&worker, &[]).await;
    env.reap().await;
    let ids = async || -> Vec<String> {
        let list = env.store.read(ListWorkers).await.unwrap();
        list.into_iter().map(|(row, _)| row.id).collect()
    };
    let listed = ids().await;
    assert_eq!((listed.len(), &listed[0]), (3, &worker.0), "live ones first: {listed:?}");
    env.advance(24 * 60 * 60 * 1_000);
    env.renew(&worker, &[]).await;
    assert_eq!(ids().await, [worker.0], "without {other} and {newer}");
}

async fn a_name_stands_for_one_backbone(env: &Env) {
    let register = |name: &str, sha256: &str| {
        let mut offer = support::offer(&["linear"]);
        offer.backbones[0].sha256 = sha256.to_owned();
        Register { instance: format!("instance of {name}"), name: name.to_owned(), offer, slots: 1 }
    };
    let first = env.store.write(register("gpu-1", "aa")).await.unwrap();
    env.store.write(register("gpu-2", "aa")).await.unwrap();
    let refused = env.store.write(register("gpu-3", "bb")).await.unwrap_err().to_string();
    for word in ["gpu-3", "backbone b ", "aa", "bb", "gpu-1-"] {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    let refused = env.store.write(register("gpu-1", "bb")).await.unwrap_err();
    assert!(matches!(refused, Error::TwoBackbones { .. }), "gpu-2 still has the other one: {refused}");
    env.advance(TTL + GRACE + 1);
    env.reap().await;
    let again = env.store.write(register("gpu-1", "bb")).await.unwrap();
    assert_eq!(again.id, first.id, "when the others are lost, and its own former offer never mattered");
    env.store.write(register("gpu-3", "bb")).await.unwrap();
}

async fn a_reopened_database_keeps_everything(env: &Env) {
    env.submit(sweep("s", 1, 1)).await;
    let worker = env.worker("gpu", 1).await;
    let token = env.lease_one(&worker, "r").await;
    env.store.close().await;
    let store = env.another().await;
    let finish = Finish { worker, ends: vec![success(token, 1.0)] };
    assert!(is_accepted(&store.write(finish).await.unwrap()[0]));
    store.close().await;
}

async fn large_sweeps_are_queued_in_batches(env: &Env) {
    let row = env.submit(sweep("s", 5_000, 2)).await;
    assert_eq!((row.trials, row.queued), (10_000, 10_000));
    let worker = env.worker("gpu", 3).await;
    assert_eq!(env.lease(&worker, "r", 3).await.len(), 3);
    let cancelled = env.store.write(Cancel { sweep: row.id.clone() }).await.unwrap();
    assert_eq!(cancelled.cancelled, 10_000);
}

async fn a_newer_schema_is_refused(env: &Env) {
    env.store.close().await;
    execute(&env.url, "UPDATE promptsweep_schema SET version = 99").await;
    let refused = store::Store::open(&env.url, env.clock()).await.unwrap_err();
    assert!(matches!(refused, OpenError::Newer { found: 99, known: 1 }), "{refused}");
    assert!(refused.to_string().contains("install a newer coordinator"), "{refused}");
}

async fn a_foreign_database_is_refused(env: &Env) {
    env.store.close().await;
    execute(&env.url, "DROP TABLE promptsweep_schema").await;
    let refused = store::Store::open(&env.url, env.clock()).await.unwrap_err();
    assert!(matches!(refused, OpenError::Foreign(_)), "{refused}");
    assert!(refused.to_string().contains("not made by promptsweep"), "{refused}");
}

#[tokio::test]
async fn a_second_sqlite_coordinator_is_refused() {
    let env = Env::sqlite().await;
    assert!(env.is_sqlite());
    let refused = store::Store::open(&env.url, env.clock()).await.unwrap_err();
    assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
    assert!(refused.to_string().contains("another coordinator is using"), "{refused}");
    env.store.close().await;
    store::Store::open(&env.url, env.clock()).await.unwrap().close().await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "dear diary, ".repeat(1_000)).unwrap();
    let url = format!("sqlite:{}", path.display());
    let refused = store::Store::open(&url, Clock::System).await.unwrap_err();
    assert!(matches!(refused, OpenError::Foreign(_)), "{refused:?}");
    for url in ["mysql://me:secret@host/x", "sqlite::memory:", "sqlite:", "promptsweep.db"] {
        let refused = store::Store::open(url, Clock::System).await.unwrap_err();
        assert!(matches!(refused, OpenError::Url(_)), "{refused:?}");
        assert!(!refused.to_string().contains("secret"), "{refused}");
    }
}

/// Two coordinators on one Postgres, many workers claiming and finishing at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_coordinators_share_a_postgres() {
    let env = Env::postgres().await;
    let other = env.another().await;
    let mut limited = sweep("limited", 60, 1);
    limited.max_running = Some(5);
    env.submit(limited).await;
    env.submit(sweep("free", 120, 1)).await;
    let mut tasks = Vec::new();
    for number in 0..8 {
        let worker = env.worker(&format!("w{number}"), 3).await;
        let store = if number % 2 == 0 { env.store.clone() } else { other.clone() };
        tasks.push(tokio::spawn(work(store, worker)));
    }
    let mut seen = BTreeSet::new();
    for task in tasks {
        for token in task.await.unwrap() {
            assert!(seen.insert(token), "leased twice: {token:?}");
        }
    }
    assert_eq!(seen.len(), 180);
    assert!(seen.iter().all(|token| token.attempt == 1));
    for name in ["limited", "free"] {
        assert_eq!(env.sweep(name).await.state, "ended");
    }
    other.close().await;
    env.check().await;
}

/// Leases and finishes until nothing is queued any more.
async fn work(store: Store, worker: WorkerId) -> Vec<Token> {
    let mut done = Vec::new();
    for round in 0.. {
        let lease = Lease {
            worker: worker.clone(),
            request: format!("r{round}"),
            max: 3,
            ttl: TTL,
            warm: Vec::new(),
            may_ask: false,
        };
        let tokens: Vec<_> = store.write(lease).await.unwrap().assignments.iter().map(token).collect();
        if tokens.is_empty() {
            let sweeps = store.read(ListSweeps { limit: 10 }).await.unwrap();
            assert!(sweeps.iter().all(|row| row.max_running.is_none_or(|limit| row.running <= limit)));
            if sweeps.iter().all(|row| row.queued == 0) {
                break;
            }
            tokio::task::yield_now().await;
            continue;
        }
        let ends = tokens.iter().map(|token| success(*token, 1.0)).collect();
        let verdicts = store.write(Finish { worker: worker.clone(), ends }).await.unwrap();
        assert!(verdicts.iter().all(is_accepted));
        done.extend(tokens);
    }
    done
}
