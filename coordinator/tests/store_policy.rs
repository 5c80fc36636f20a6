//! Who is served, who is kept away, and why something waits: on both databases alike.

mod support;

use coordinator::offer::{Device, Warm};
use coordinator::store::explain::{Explain, Explanation};
use coordinator::store::ops::{Lease, NewEnd, NewSweep, Outcome, Pause, Register, Release, Resume};
use coordinator::store::reads::{HasWork, ListWorkers};
use coordinator::store::rows::WorkerRow;
use coordinator::store::{Error, Token};
use coordinator::trial::{FailureClass, TrialId, WorkerId};
use support::{Env, GRACE, TTL, failure, fenced, is_accepted, on_both, success, sweep, token};

on_both!(
    a_late_result_is_kept_as_an_orphan,
    a_trial_that_loses_worker_after_worker_is_parked,
    equal_code_errors_pause_the_sweep,
    a_failed_trial_is_left_to_others,
    a_worker_whose_failures_succeed_elsewhere_is_quarantined,
    failures_in_a_row_make_a_worker_rest,
    sweeps_take_turns,
    projects_share_the_slots,
    nobody_starves,
    warm_trials_come_first_within_a_sweep,
    labels_and_memory_are_asked_for,
    a_waiting_trial_is_explained,
);

async fn a_late_result_is_kept_as_an_orphan(env: &Env) {
    env.submit(sweep("s", 1, 1)).await;
    let (a, b) = (env.worker("a", 1).await, env.worker("b", 1).await);
    let old = env.lease_one(&a, "r").await;
    env.advance(TTL + GRACE + 1);
    env.reap().await;
    let new = env.lease_one(&b, "r").await;
    for _ in 0..2 {
        assert_eq!(env.finish(&a, success(old, 99.0)).await, fenced("leased again as attempt 2"));
    }
    let nobodys = Token { attempt: 7, ..old };
    env.finish(&a, success(nobodys, 98.0)).await;
    env.finish(&a, failure(old, FailureClass::CodeError)).await;
    assert!(is_accepted(&env.finish(&b, success(new, 2.0)).await));
    let details = env.trial(old.trial).await;
    assert_eq!(details.trial.objective, Some(2.0));
    let orphans: Vec<_> = details.orphans.iter().map(|row| (row.attempt, row.worker.as_str())).collect();
    assert_eq!(orphans, [(1, a.0.as_str())], "once, and only results of attempts that there were");
    assert!(details.orphans[0].metrics_json.contains("99"), "{}", details.orphans[0].metrics_json);
    assert_eq!(details.orphans[0].reason, "leased again as attempt 2");
}

async fn a_trial_that_loses_worker_after_worker_is_parked(env: &Env) {
    let row = env.submit(sweep("s", 1, 1)).await;
    for number in 1..=5 {
        let worker = env.worker(&format!("w{number}"), 1).await;
        env.lease_one(&worker, "r").await;
        env.advance(TTL + GRACE + 1);
        assert_eq!(env.reap().await, 1);
        env.advance(900_000);
    }
    let ended = env.sweep(&row.id).await;
    assert_eq!((ended.state.as_str(), ended.failed), ("ended", 1));
    let last = env.events(&row).await.into_iter().rev().nth(1).unwrap();
    assert_eq!((last.kind.as_str(), last.class.as_deref()), ("failed", Some("poison")));
    assert!(last.message.contains("5 workers were lost while they ran it"), "{}", last.message);
}

fn code_error(token: Token, message: &str) -> NewEnd {
    let outcome = Outcome::Failure { class: FailureClass::CodeError, message: message.to_owned() };
    NewEnd { token, points: Vec::new(), checkpoint: None, prefix: None, outcome }
}

async fn equal_code_errors_pause_the_sweep(env: &Env) {
    let row = env.submit(NewSweep { pause_after_code_errors: Some(3), ..sweep("s", 9, 1) }).await;
    let worker = env.worker("gpu", 9).await;
    let got: Vec<_> = env.lease(&worker, "r", 9).await.iter().map(token).collect();
    env.finish(&worker, code_error(got[0], "shape [1, 2] at 0xff")).await;
    env.finish(&worker, code_error(got[1], "shape [3, 4] at 0xee")).await;
    env.finish(&worker, code_error(got[2], "another error")).await;
    env.finish(&worker, failure(got[3], FailureClass::CudaOom)).await;
    assert_eq!(env.sweep(&row.id).await.state, "active");
    env.finish(&worker, code_error(got[4], "shape [5, 6] at 0xdd")).await;
    let paused = env.sweep(&row.id).await;
    assert_eq!(paused.state, "paused");
    assert!(paused.paused_because.contains("3 trials failed by one code error"), "{}", paused.paused_because);
    assert!(paused.paused_because.ends_with("shape [#, #] at #"), "{}", paused.paused_because);
    let event = env.events(&row).await.pop().unwrap();
    assert_eq!((event.kind.as_str(), &event.message), ("paused", &paused.paused_because));
    env.store.write(Resume { sweep: row.id.clone() }).await.unwrap();
    env.finish(&worker, code_error(got[5], "shape [7, 8] at 0xcc")).await;
    assert_eq!(env.sweep(&row.id).await.state, "active", "resumed, it counts anew");
}

async fn a_failed_trial_is_left_to_others(env: &Env) {
    env.submit(sweep("s", 1, 1)).await;
    let a = env.worker("a", 1).await;
    let first = env.lease_one(&a, "r1").await;
    env.finish(&a, failure(first, FailureClass::HostOom)).await;
    env.advance(30_000);
    let alone = env.lease_one(&a, "r2").await;
    env.finish(&a, failure(alone, FailureClass::HostOom)).await;
    let b = env.worker("b", 1).await;
    env.advance(60_000);
    assert!(!env.store.read(HasWork { worker: a.clone() }).await.unwrap());
    assert!(env.lease(&a, "r3", 1).await.is_empty(), "it failed here, and there is another worker");
    assert!(env.store.read(HasWork { worker: b.clone() }).await.unwrap());
    env.advance(60_000);
    assert_eq!(env.lease(&a, "r4", 1).await.len(), 1, "but nobody took it");
}

/// The worker's row as `sweep workers` shows it.
async fn listed(env: &Env, worker: &WorkerId) -> WorkerRow {
    let list = env.store.read(ListWorkers).await.unwrap();
    list.into_iter().map(|(row, _)| row).find(|row| row.id == worker.0).unwrap()
}

/// Leases everything on `sick`, fails it there, and succeeds with it on `sound`.
async fn fail_here_succeed_there(env: &Env, sick: &WorkerId, sound: &WorkerId, trials: usize) {
    let got: Vec<_> = env.lease(sick, "sick", 9).await.iter().map(token).collect();
    assert_eq!(got.len(), trials);
    for token in got {
        assert!(is_accepted(&env.finish(sick, failure(token, FailureClass::CudaOom)).await));
    }
    env.advance(30_000);
    let got: Vec<_> = env.lease(sound, "sound", 9).await.iter().map(token).collect();
    assert_eq!(got.len(), trials);
    for token in got {
        assert!(is_accepted(&env.finish(sound, success(token, 1.0)).await));
    }
}

async fn a_worker_whose_failures_succeed_elsewhere_is_quarantined(env: &Env) {
    env.submit(sweep("s", 3, 1)).await;
    let (sick, sound) = (env.worker("sick", 9).await, env.worker("sound", 9).await);
    fail_here_succeed_there(env, &sick, &sound, 3).await;
    env.submit(sweep("more", 1, 1)).await;
    env.advance(900_000);
    assert!(env.lease(&sick, "r", 1).await.is_empty());
    let reason = listed(env, &sick).await.quarantined.unwrap();
    assert!(reason.contains("failed here and succeeded elsewhere"), "{reason}");
    assert!(listed(env, &sound).await.quarantined.is_none());
    assert!(!env.store.read(HasWork { worker: sick.clone() }).await.unwrap());

    let again = Register {
        instance: "started again".to_owned(),
        name: "sick".to_owned(),
        offer: support::offer(&["linear"]),
        slots: 1,
    };
    let again = WorkerId(env.store.write(again).await.unwrap().id);
    assert!(env.lease(&again, "r", 1).await.is_empty(), "a restart does not heal a machine");
    let released = env.store.write(Release { worker: "sick".to_owned() }).await.unwrap();
    assert_eq!(released.len(), 2);
    assert_eq!(env.lease(&sick, "r2", 1).await.len(), 1);
    let nobody = env.store.write(Release { worker: "nobody".to_owned() }).await.unwrap_err();
    assert!(matches!(nobody, Error::NoSuchWorker(_)), "{nobody}");
}

async fn failures_in_a_row_make_a_worker_rest(env: &Env) {
    env.submit(sweep("s", 8, 1)).await;
    let worker = env.worker("gpu", 9).await;
    let got: Vec<_> = env.lease(&worker, "r", 4).await.iter().map(token).collect();
    for token in &got[..3] {
        env.finish(&worker, failure(*token, FailureClass::InvalidConfig)).await;
    }
    assert_eq!(env.lease(&worker, "r2", 1).await.len(), 1, "wrong recipes are not its fault");
    let got: Vec<_> = env.lease(&worker, "r3", 2).await.iter().map(token).chain([got[3]]).collect();
    for token in got {
        env.finish(&worker, failure(token, FailureClass::CodeError)).await;
    }
    assert!(env.lease(&worker, "r4", 1).await.is_empty(), "three failures in a row: it rests");
    env.advance(10_000);
    let token = env.lease_one(&worker, "r5").await;
    env.finish(&worker, success(token, 1.0)).await;
    assert_eq!(listed(env, &worker).await.strikes, 0, "a success clears it");
}

async fn sweeps_take_turns(env: &Env) {
    let (a, b) = (env.submit(sweep("a", 5, 1)).await, env.submit(sweep("b", 5, 1)).await);
    let worker = env.worker("gpu", 1).await;
    let mut order = Vec::new();
    for turn in 0..6 {
        let got = env.lease(&worker, &format!("r{turn}"), 1).await;
        order.push(got[0].sweep_id.clone());
        env.finish(&worker, success(token(&got[0]), 1.0)).await;
    }
    assert_eq!(order, [&a.id, &b.id, &a.id, &b.id, &a.id, &b.id].map(String::clone));
}

async fn projects_share_the_slots(env: &Env) {
    let of = |name: &str, project: &str| NewSweep { project: project.to_owned(), ..sweep(name, 20, 1) };
    for name in ["a1", "a2", "a3"] {
        env.submit(of(name, "a")).await;
    }
    env.submit(NewSweep { max_running: Some(5), ..of("b1", "b") }).await;
    let worker = env.worker("gpu", 8).await;
    env.lease(&worker, "r", 8).await;
    assert_eq!(env.sweep("b1").await.running, 4, "half, though it is one sweep of four");
    let other = env.worker("gpu2", 8).await;
    env.lease(&other, "r", 8).await;
    let mut running = Vec::new();
    for name in ["a1", "a2", "a3", "b1"] {
        running.push(env.sweep(name).await.running);
    }
    assert_eq!(running, [4, 4, 3, 5], "what one may not use, the others do");
}

/// A long sweep, while with every turn a short one arrives: it is served again and again.
async fn nobody_starves(env: &Env) {
    env.submit(sweep("long", 40, 1)).await;
    let worker = env.worker("gpu", 1).await;
    for turn in 0..30 {
        env.submit(sweep(&format!("short{turn}"), 1, 1)).await;
        env.submit(NewSweep { priority: -1, ..sweep(&format!("low{turn}"), 1, 1) }).await;
        let token = env.lease_one(&worker, &format!("r{turn}")).await;
        env.finish(&worker, success(token, 1.0)).await;
    }
    let long = env.sweep("long").await;
    assert!(long.succeeded >= 4, "{}", long.succeeded);
    assert!(env.sweep("short10").await.succeeded == 1, "and so are the short ones, in their order");
    assert_eq!(env.sweep("low0").await.succeeded, 0, "lower priority waits: that is what it is for");
}

async fn warm_trials_come_first_within_a_sweep(env: &Env) {
    let mut mixed = sweep("s", 6, 1);
    for configuration in &mut mixed.configurations[3..] {
        configuration.need.task = "other".to_owned();
    }
    env.submit(mixed).await;
    let mut offer = support::offer(&["linear"]);
    offer.tasks.push(coordinator::offer::Task { name: "other".into(), ..offer.tasks[0].clone() });
    let register = Register { instance: "i".to_owned(), name: "gpu".to_owned(), offer, slots: 9 };
    let worker = WorkerId(env.store.write(register).await.unwrap().id);
    let lease = async |request: &str, task: &str| {
        let warm = vec![Warm { backbone: "b".to_owned(), task: task.to_owned() }];
        let lease = Lease {
            worker: worker.clone(),
            request: request.to_owned(),
            max: 2,
            ttl: TTL,
            warm,
            may_ask: false,
        };
        let got = env.store.write(lease).await.unwrap().assignments;
        got.iter().map(|row| row.recipe_json.replace(r#","method":"linear"}"#, "")).collect::<Vec<_>>()
    };
    assert_eq!(lease("r1", "other").await, [r#"{"lr":3"#, r#"{"lr":4"#]);
    assert_eq!(lease("r2", "other").await, [r#"{"lr":0"#, r#"{"lr":5"#], "then what there is");
    assert_eq!(lease("r3", "unknown").await, [r#"{"lr":1"#, r#"{"lr":2"#]);
}

async fn labels_and_memory_are_asked_for(env: &Env) {
    let mut demanding = sweep("s", 1, 1);
    demanding.configurations[0].need.gpu_memory_mib = 20 << 10;
    demanding.configurations[0].need.labels.insert("site".to_owned(), "x".to_owned());
    env.submit(demanding).await;
    let worker = async |name: &str, gib: u64, site: &str| {
        let mut offer = support::offer(&["linear"]);
        let device = Device { kind: "cuda".into(), name: "cuda:0".into(), memory_bytes: gib << 30 };
        offer.devices = vec![device];
        offer.labels.insert("site".to_owned(), site.to_owned());
        let register = Register { instance: name.to_owned(), name: name.to_owned(), offer, slots: 1 };
        WorkerId(env.store.write(register).await.unwrap().id)
    };
    for (name, gib, site) in [("small", 16, "x"), ("far", 24, "y")] {
        assert!(env.lease(&worker(name, gib, site).await, "r", 1).await.is_empty(), "{name}");
    }
    assert_eq!(env.lease(&worker("right", 24, "x").await, "r", 1).await.len(), 1);
}

async fn explain(env: &Env, trial: i64) -> Explanation {
    env.store.read(Explain { trial: TrialId(trial) }).await.unwrap()
}

/// Whether a sentence is among them.
fn says(reasons: &[String], words: &str) {
    assert!(reasons.iter().any(|reason| reason.contains(words)), "`{words}` not in {reasons:?}");
}

async fn a_waiting_trial_is_explained(env: &Env) {
    let mut limited = NewSweep { max_running: Some(1), ..sweep("s", 3, 1) };
    limited.configurations[2].need.method = "gated".to_owned();
    let row = env.submit(limited).await;
    let trials = async || {
        let trials = coordinator::store::reads::Trials {
            sweep: "s".to_owned(),
            after: 0,
            states: Vec::new(),
            limit: 9,
        };
        env.store.read(trials).await.unwrap().into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let ids = trials().await;
    says(&explain(env, ids[0]).await.reasons, "there is no live worker");
    let worker = env.worker("gpu", 1).await;
    env.submit(NewSweep { priority: 3, ..sweep("urgent", 1, 1) }).await;
    let told = explain(env, ids[1]).await;
    says(&told.reasons, "1 trials of its sweep are before it");
    says(&told.reasons, "1 sweeps of higher priority have trials waiting");
    assert_eq!(told.workers, [("gpu".to_owned(), Vec::new())]);
    says(&explain(env, ids[2]).await.workers[0].1, "lacks method gated");

    let urgent = env.lease_one(&worker, "r0").await;
    env.finish(&worker, success(urgent, 1.0)).await;
    let token = env.lease_one(&worker, "r1").await;
    let running = explain(env, ids[0]).await;
    assert_eq!(running.reasons, [format!("it runs on {} as attempt 1", worker.0)]);
    let told = explain(env, ids[1]).await;
    says(&told.reasons, "limits.max_running: 1");
    says(&told.reasons, "no worker can take it now");
    says(&told.workers[0].1, "no free slot (1 of 1 taken)");

    let other = env.worker("other", 1).await;
    env.finish(&worker, failure(token, FailureClass::CudaOom)).await;
    let told = explain(env, ids[0]).await;
    says(&told.reasons, "1 of its attempts failed; it is tried again in");
    says(&told.workers[0].1, "it failed here");
    assert!(told.workers[1].1.is_empty(), "{told:?}");
    env.store.write(Pause { sweep: row.id.clone() }).await.unwrap();
    says(&explain(env, ids[1]).await.reasons, "its sweep is paused: by hand");
    env.store.write(Resume { sweep: row.id.clone() }).await.unwrap();
    let token = env.lease_one(&other, "r2").await;
    env.finish(&other, success(token, 1.0)).await;
    assert_eq!(explain(env, token.trial.0).await.reasons, ["it is succeeded"]);
    assert!(matches!(env.store.read(Explain { trial: TrialId(999_999) }).await, Err(Error::NoTrial(_))));
}
