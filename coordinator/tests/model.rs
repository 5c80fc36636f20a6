//! The store against the lifecycle alone: random commands go to a database and to trials in memory, and after each
//! command both must say the same.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use coordinator::health::{self, BLAME_LIMIT, Health};
use coordinator::store::Token;
use coordinator::store::ops::{Cancel, NewEnd, Outcome, Progress, Report};
use coordinator::store::reads::Trials;
use coordinator::trial::{
    self, Cause, Command, FailureClass, Holder, Millis, Policy, State, Trial, WorkerId,
};
use proptest::prelude::*;
use support::{Env, GRACE, START, TTL, failure, is_accepted, point, success, sweep, token};

const TRIALS: usize = 4;
const SLOTS: u32 = 2;

/// One call. Numbers choose a trial, a worker, or an earlier request, modulo how many there are.
#[derive(Debug, Clone)]
enum Step {
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
}

fn step() -> impl Strategy<Value = Step> {
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
        1 => (0..8_u8).prop_map(|rare| if rare == 0 { Step::Cancel } else { Step::Wait { millis: 1 } }),
    ]
}

struct Model {
    now: Millis,
    policy: Policy,
    workers: Vec<WorkerId>,
    trials: Vec<Trial>,
    /// Until when each running trial is leased.
    leases: BTreeMap<usize, Millis>,
    requests: Vec<(usize, Vec<Token>)>,
    /// Ends that were accepted, by trial and attempt: from whom, and which.
    ends: BTreeMap<(usize, u32), (usize, u8)>,
    standings: Vec<Standing>,
    /// Attempts that failed by the worker's possible fault: trial, worker, when.
    faults: Vec<(usize, usize, Millis)>,
}

/// What the coordinator thinks of a worker.
#[derive(Debug, Clone, Default)]
struct Standing {
    health: Health,
    last_seen: Millis,
    is_lost: bool,
    /// Trials that failed here and succeeded elsewhere.
    blamed: BTreeSet<usize>,
    is_quarantined: bool,
}

impl Model {
    /// Whether the lifecycle took the command.
    fn apply(&mut self, place: usize, command: Command) -> bool {
        let Ok((after, _)) = trial::apply(&self.trials[place], &self.policy, command, self.now) else {
            return false;
        };
        if !matches!(after.state, State::Running { .. }) {
            self.leases.remove(&place);
        }
        self.trials[place] = after;
        true
    }

    fn token(&self, place: usize, back: u32) -> Token {
        let trial = &self.trials[place];
        Token { trial: trial.id, attempt: trial.attempt.saturating_sub(back) }
    }

    fn by(&self, worker: usize, token: Token) -> Holder {
        Holder { worker: self.workers[worker].clone(), attempt: token.attempt }
    }

    /// The worker was heard of.
    fn touch(&mut self, worker: usize) {
        self.standings[worker].last_seen = self.now;
        self.standings[worker].is_lost = false;
    }

    /// Whether the worker may be given trials.
    fn may_lease(&mut self, worker: usize) -> bool {
        let standing = &mut self.standings[worker];
        standing.is_quarantined |= standing.health.is_suspect() && standing.blamed.len() >= BLAME_LIMIT;
        !standing.is_quarantined && standing.health.rests_until <= self.now
    }

    /// Whether a trial failed on the worker lately, and is left to another.
    fn is_left_to_others(&self, worker: usize, trial: &Trial) -> bool {
        let has_others = self.standings.iter().enumerate().any(|(it, other)| it != worker && !other.is_lost);
        let State::Queued { not_before } = trial.state else { return false };
        has_others
            && trial.failed_on.as_ref() == Some(&self.workers[worker])
            && not_before > self.now - 60_000
    }

    /// What an accepted end says about the worker, and about those where the trial failed before.
    fn judge(&mut self, worker: usize, place: usize, outcome: &Outcome) {
        let standing = &mut self.standings[worker];
        match outcome {
            Outcome::Failure { class, .. } => {
                standing.health = standing.health.after_failure(*class, self.now);
                if health::is_suspect(*class) {
                    self.faults.push((place, worker, self.now));
                }
            }
            Outcome::Success { .. } => {
                *standing =
                    Standing { health: Health::default(), blamed: BTreeSet::new(), ..standing.clone() };
                for (_, there, at) in self.faults.iter().filter(|(trial, ..)| *trial == place) {
                    let other = &mut self.standings[*there];
                    if *there != worker && other.health.failing_since.is_some_and(|since| since <= *at) {
                        other.blamed.insert(place);
                    }
                }
            }
            Outcome::Interruption { .. } => {}
        }
    }

    fn lease(&mut self, worker: usize, max: u32) -> Vec<Token> {
        self.touch(worker);
        let id = self.workers[worker].clone();
        let held = self.trials.iter().filter(|t| t.state == State::Running { worker: id.clone() }).count();
        let free = (SLOTS as usize).saturating_sub(held).min(max as usize);
        let mut leased = Vec::new();
        if free == 0 || !self.may_lease(worker) {
            return leased;
        }
        for place in 0..self.trials.len() {
            let is_left = self.is_left_to_others(worker, &self.trials[place]);
            if leased.len() < free && !is_left && self.apply(place, Command::Lease { worker: id.clone() }) {
                self.leases.insert(place, self.now + TTL);
                leased.push(self.token(place, 0));
            }
        }
        leased
    }

    /// What of an earlier request still runs.
    fn running(&self, tokens: &[Token]) -> Vec<Token> {
        let runs = |t: &&Token| {
            let is_it = |x: &Trial| x.id == t.trial && x.attempt == t.attempt;
            self.trials.iter().any(|x| is_it(x) && matches!(x.state, State::Running { .. }))
        };
        tokens.iter().filter(runs).copied().collect()
    }

    fn finish(&mut self, worker: usize, place: usize, end: &NewEnd, kind: u8) -> bool {
        self.touch(worker);
        let key = (place, end.token.attempt);
        if self.ends.get(&key) == Some(&(worker, kind)) {
            return true;
        }
        let by = self.by(worker, end.token);
        let command = match end.outcome.clone() {
            Outcome::Success { .. } => Command::Succeed { by },
            Outcome::Failure { class, message } => Command::Fail { by, class, message },
            Outcome::Interruption { cause, message } => Command::Interrupt { by, cause, message },
        };
        let accepted = self.apply(place, command);
        if accepted {
            self.ends.insert(key, (worker, kind));
            self.judge(worker, place, &end.outcome);
        }
        accepted
    }

    fn expire(&mut self) {
        for standing in &mut self.standings {
            standing.is_lost |= standing.last_seen < self.now - TTL - GRACE;
        }
        let before = self.now - GRACE;
        let expired: Vec<_> = self.leases.iter().filter(|(_, until)| **until < before).collect();
        for place in expired.into_iter().map(|(place, _)| *place).collect::<Vec<_>>() {
            let attempt = self.trials[place].attempt;
            assert!(self.apply(place, Command::Expire { attempt }));
        }
    }
}

fn end(token: Token, kind: u8) -> NewEnd {
    match kind {
        0 | 1 => success(token, f64::from(kind)),
        2 => failure(token, FailureClass::CudaOom),
        3 => failure(token, FailureClass::Diverged),
        _ => {
            let outcome = Outcome::Interruption { cause: Cause::Preempted, message: "SIGTERM".to_owned() };
            NewEnd { token, points: Vec::new(), checkpoint: None, outcome }
        }
    }
}

/// Gives a step to both, and compares the answers.
async fn take(env: &Env, model: &mut Model, step: Step) {
    match step {
        Step::Lease { worker, max } => {
            let name = format!("r{}", model.requests.len());
            let expected = model.lease(worker, max);
            let got = env.lease(&model.workers[worker], &name, max).await;
            assert_eq!(got.iter().map(token).collect::<Vec<_>>(), expected);
            model.requests.push((worker, expected));
        }
        Step::LeaseAgain { request } => {
            let Some(request) = request.checked_rem(model.requests.len()) else { return };
            let (worker, tokens) = model.requests[request].clone();
            model.touch(worker);
            let again = if tokens.is_empty() { model.lease(worker, 1) } else { model.running(&tokens) };
            let got = env.lease(&model.workers[worker], &format!("r{request}"), 1).await;
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
            let got = env.renew(&model.workers[worker], &[token]).await.0;
            assert_eq!(got.len(), usize::from(held));
        }
        Step::Report { worker, trial, back, epoch } => {
            let token = model.token(trial, back);
            model.touch(worker);
            let held = model.apply(trial, Command::Report { by: model.by(worker, token), epoch });
            let progress = vec![Progress { token, points: vec![point(epoch, 1.0)], checkpoint: None }];
            let report = Report { worker: model.workers[worker].clone(), progress };
            assert_eq!(env.store.write(report).await.unwrap().is_empty(), held);
        }
        Step::Finish { worker, trial, back, kind } => {
            let end = end(model.token(trial, back), kind);
            let expected = model.finish(worker, trial, &end, kind);
            let verdict = env.finish(&model.workers[worker], end).await;
            assert_eq!(is_accepted(&verdict), expected, "{verdict:?}");
        }
        Step::Wait { millis } => {
            env.advance(millis);
            model.now += millis;
            model.expire();
            env.reap().await;
        }
        Step::Cancel => {
            for place in 0..model.trials.len() {
                model.apply(place, Command::Cancel);
            }
            env.store.write(Cancel { sweep: "s".to_owned() }).await.unwrap();
        }
    }
}

async fn compare(env: &Env, model: &Model) {
    let trials = Trials { sweep: "s".to_owned(), after: 0, states: vec![], limit: 100 };
    let rows = env.store.read(&trials).await.unwrap();
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

async fn agrees(steps: Vec<Step>) {
    let env = Env::sqlite().await;
    let new = sweep("s", TRIALS, 1);
    let policy = new.policy.clone();
    env.submit(new).await;
    let workers = vec![env.worker("a", SLOTS).await, env.worker("b", SLOTS).await];
    let trials = Trials { sweep: "s".to_owned(), after: 0, states: vec![], limit: 100 };
    let rows = env.store.read(&trials).await.unwrap();
    let queued = |id| Trial {
        id: coordinator::trial::TrialId(id),
        attempt: 0,
        failures: 0,
        interruptions: 0,
        lost: 0,
        failed_on: None,
        epoch: 0,
        state: State::Queued { not_before: 0 },
    };
    let mut model = Model {
        now: START,
        policy,
        workers,
        trials: rows.iter().map(|row| queued(row.id)).collect(),
        leases: BTreeMap::new(),
        requests: Vec::new(),
        ends: BTreeMap::new(),
        standings: vec![Standing { last_seen: START, ..Standing::default() }; 2],
        faults: Vec::new(),
    };
    for step in steps {
        take(&env, &mut model, step).await;
        compare(&env, &model).await;
    }
    env.check().await;
    env.store.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_lifecycle_says(steps in prop::collection::vec(step(), 1..80)) {
        tokio::runtime::Runtime::new().unwrap().block_on(agrees(steps));
    }
}
