//! Random calls, given to the store and to the model alike.

use coordinator::offer::Offer;
use coordinator::store::Op;
use coordinator::store::Token;
use coordinator::store::ops::{
    Cancel, Drain, Finish, Lease, NewEnd, Outcome, Pause, Progress, Reap, Register, Renew, Report, Resume,
    Submit,
};
use coordinator::store::reads::Trials;
use coordinator::store::rows::AssignmentRow;
use coordinator::trial::{Cause, Command, FailureClass, Millis, State, WorkerId};
use proptest::prelude::*;

use crate::model::{Model, SLOTS};
use crate::support::{Env, GRACE, TTL, failure, is_accepted, offer, point, success, sweep, token};

pub(crate) const TRIALS: usize = 4;
pub(crate) const WORKERS: [&str; 2] = ["a", "b"];

/// How the store is broken on purpose, to see that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    None,
    /// Whoever ends an attempt ends the current one.
    UnfencedFinish,
    /// Leases are taken back that have not run out.
    HastyReaper,
    /// A repeated request is a new one.
    ForgetfulLease,
}

/// A store behind a bad network, and its mutation.
pub(crate) struct Rig {
    pub(crate) env: Env,
    pub(crate) mutant: Mutant,
}

impl Rig {
    async fn write<O: Op + Clone>(&mut self, op: &O) -> O::Output {
        self.env.store.write(op.clone()).await.unwrap()
    }

    async fn lease(&mut self, worker: &WorkerId, request: &str, max: u32) -> Vec<AssignmentRow> {
        let (worker, request) = (worker.clone(), request.to_owned());
        self.write(&Lease { worker, request, max, ttl: TTL, warm: Vec::new(), may_ask: false })
            .await
            .assignments
    }

    pub(crate) async fn register(&mut self, worker: usize) -> WorkerId {
        let name = WORKERS[worker].to_owned();
        let offer: Offer = offer(&["linear"]);
        let instance = format!("instance of {name}");
        WorkerId(self.write(&Register { instance, name, offer, slots: SLOTS }).await.id)
    }

    /// The end as it is, or what a store without a fence would make of it.
    async fn without_fence(&self, worker: WorkerId, end: NewEnd) -> (WorkerId, NewEnd) {
        if self.mutant != Mutant::UnfencedFinish {
            return (worker, end);
        }
        let row = self.env.trial(end.token.trial).await.trial;
        let holder = row.worker.filter(|_| row.state == "running").map_or(worker, WorkerId);
        let attempt = u32::try_from(row.attempt).unwrap();
        (holder, NewEnd { token: Token { attempt, ..end.token }, ..end })
    }
}

/// One call. Numbers choose a trial, a worker, or an earlier request, modulo how many there are.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Lease {
        worker: usize,
        max: u32,
    },
    LeaseAgain {
        request: usize,
    },
    Renew {
        worker: usize,
        trial: usize,
        back: u32,
    },
    Report {
        worker: usize,
        trial: usize,
        back: u32,
        epoch: u32,
    },
    /// Of the latest attempt, or of one `back` before it: then it is late, or a repetition.
    Finish {
        worker: usize,
        trial: usize,
        back: u32,
        kind: u8,
    },
    Wait {
        millis: Millis,
    },
    Cancel,
    Pause,
    Resume,
    /// The same sweep once more.
    Submit,
    Drain {
        worker: usize,
    },
    /// The worker announces itself again, which ends a drain.
    Register {
        worker: usize,
    },
    /// The coordinator stops and starts.
    Restart,
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let (worker, trial) = (0..2_usize, 0..TRIALS);
    let back = prop_oneof![4 => Just(0_u32), 1 => Just(1)];
    prop_oneof![
        8 => (worker.clone(), 1..3_u32).prop_map(|(worker, max)| Step::Lease { worker, max }),
        2 => (0..50_usize).prop_map(|request| Step::LeaseAgain { request }),
        3 => (worker.clone(), trial.clone(), back.clone())
            .prop_map(|(worker, trial, back)| Step::Renew { worker, trial, back }),
        3 => (worker.clone(), trial.clone(), back.clone(), 1..4_u32)
            .prop_map(|(worker, trial, back, epoch)| Step::Report { worker, trial, back, epoch }),
        8 => (worker, trial, back, 0..5_u8)
            .prop_map(|(worker, trial, back, kind)| Step::Finish { worker, trial, back, kind }),
        4 => (0..2 * TTL).prop_map(|millis| Step::Wait { millis }),
        1 => (0..2_usize).prop_map(|worker| Step::Drain { worker }),
        2 => (0..2_usize).prop_map(|worker| Step::Register { worker }),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => prop_oneof![8 => Just(Step::Submit), 4 => Just(Step::Restart), 1 => Just(Step::Cancel)],
    ]
}

fn end(token: Token, kind: u8) -> NewEnd {
    match kind {
        0 | 1 => success(token, f64::from(kind)),
        2 => failure(token, FailureClass::CudaOom),
        3 => failure(token, FailureClass::Diverged),
        _ => {
            let outcome = Outcome::Interruption { cause: Cause::Preempted, message: "SIGTERM".to_owned() };
            NewEnd { token, points: Vec::new(), checkpoint: None, prefix: None, outcome }
        }
    }
}

/// Gives a step to both, and compares the answers.
pub(crate) async fn take(rig: &mut Rig, model: &mut Model, step: Step) {
    match step {
        Step::Lease { worker, max } => {
            let name = format!("r{}", model.requests.len());
            let expected = model.lease(worker, max);
            let got = rig.lease(&model.workers[worker], &name, max).await;
            assert_eq!(got.iter().map(token).collect::<Vec<_>>(), expected);
            model.requests.push((worker, expected));
        }
        Step::LeaseAgain { request } => {
            let Some(request) = request.checked_rem(model.requests.len()) else { return };
            let (worker, tokens) = model.requests[request].clone();
            model.touch(worker);
            let name = match rig.mutant {
                Mutant::ForgetfulLease => format!("again{}", model.requests.len()),
                _ => format!("r{request}"),
            };
            let again = if tokens.is_empty() { model.lease(worker, 1) } else { model.running(&tokens) };
            let got = rig.lease(&model.workers[worker], &name, 1).await;
            assert_eq!(got.iter().map(token).collect::<Vec<_>>(), again);
            if tokens.is_empty() {
                model.requests[request].1 = again;
            }
        }
        Step::Renew { worker, trial, back } => {
            let token = model.token(trial, back);
            model.touch(worker);
            let held = model.apply(trial, Command::Renew { by: model.by(worker, token) });
            if held {
                model.leases.insert(trial, model.now + TTL);
            }
            let worker = model.workers[worker].clone();
            let (got, _) = rig.write(&Renew { worker, tokens: vec![token], ttl: TTL }).await;
            assert_eq!(got.len(), usize::from(held));
        }
        Step::Report { worker, trial, back, epoch } => {
            let token = model.token(trial, back);
            model.touch(worker);
            let held = model.apply(trial, Command::Report { by: model.by(worker, token), epoch });
            let progress =
                vec![Progress { token, points: vec![point(epoch, 1.0)], checkpoint: None, prefix: None }];
            let report = Report { worker: model.workers[worker].clone(), progress };
            assert_eq!(rig.write(&report).await.is_empty(), held);
        }
        Step::Finish { worker, trial, back, kind } => {
            let end = end(model.token(trial, back), kind);
            let expected = model.finish(worker, trial, &end, kind);
            let (worker, end) = rig.without_fence(model.workers[worker].clone(), end).await;
            let verdict = rig.write(&Finish { worker, ends: vec![end] }).await.remove(0);
            assert_eq!(is_accepted(&verdict), expected, "{verdict:?}");
        }
        Step::Wait { millis } => {
            rig.env.advance(millis);
            model.now += millis;
            model.expire();
            let grace = if rig.mutant == Mutant::HastyReaper { -TTL } else { GRACE };
            rig.write(&Reap { ttl: TTL, grace }).await;
        }
        Step::Cancel => {
            for place in 0..model.trials.len() {
                model.apply(place, Command::Cancel);
            }
            rig.write(&Cancel { sweep: "s".to_owned() }).await;
        }
        Step::Pause | Step::Resume => {
            let (is_over, pauses) = (model.is_over(), matches!(step, Step::Pause));
            let sweep = "s".to_owned();
            let outcome = if pauses {
                rig.env.store.write(Pause { sweep }).await
            } else {
                rig.env.store.write(Resume { sweep }).await
            };
            assert_eq!(outcome.is_err(), is_over, "{outcome:?}");
            model.is_paused = pauses && !is_over;
        }
        Step::Submit => {
            let (row, created) = rig.write(&Submit { sweep: sweep("s", TRIALS, 1) }).await;
            assert!(!created && row.trials == TRIALS as i64);
        }
        Step::Drain { worker } => {
            model.standings[worker].last_seen = model.now;
            model.standings[worker].is_lost = false;
            model.standings[worker].is_draining = true;
            rig.write(&Drain { worker: model.workers[worker].clone() }).await;
        }
        Step::Register { worker } => {
            model.touch(worker);
            model.standings[worker].is_draining = false;
            assert_eq!(rig.register(worker).await, model.workers[worker], "the same instance keeps its id");
        }
        Step::Restart => rig.env.reopen().await,
    }
}

pub(crate) async fn compare(env: &Env, model: &Model) {
    let trials = Trials { sweep: "s".to_owned(), after: 0, states: vec![], limit: 100 };
    let rows = env.store.read(trials).await.unwrap();
    assert_eq!(rows.len(), model.trials.len());
    for (row, trial) in rows.iter().zip(&model.trials) {
        let got = (row.state.as_str(), row.attempt, row.epoch, row.class.as_deref(), row.ended);
        let (class, ended) = match &trial.state {
            State::Failed { class, at, .. } => (Some(class.name()), Some(*at)),
            State::Succeeded { at } | State::Stopped { at } | State::Cancelled { at } => (None, Some(*at)),
            State::Queued { .. } | State::Running { .. } => (None, None),
        };
        let expected = (trial.state.name(), i64::from(trial.attempt), i64::from(trial.epoch), class, ended);
        assert_eq!(got, expected, "trial {}", trial.id);
        if let State::Running { worker } = &trial.state {
            assert_eq!(row.worker.as_ref(), Some(&worker.0));
        }
    }
}
