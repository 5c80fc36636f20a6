//! The lifecycle alone: trials, leases and standings in memory, moved by `trial::apply` and by nothing else.

use std::collections::{BTreeMap, BTreeSet};

use coordinator::health::{self, BLAME_LIMIT, Health};
use coordinator::store::Token;
use coordinator::store::ops::{NewEnd, Outcome};
use coordinator::trial::{self, Command, Holder, Millis, Policy, State, Trial, WorkerId};

use crate::support::{GRACE, START, TTL};

pub(crate) const SLOTS: u32 = 2;

pub(crate) struct Model {
    pub(crate) now: Millis,
    pub(crate) policy: Policy,
    pub(crate) workers: Vec<WorkerId>,
    pub(crate) trials: Vec<Trial>,
    /// Until when each running trial is leased.
    pub(crate) leases: BTreeMap<usize, Millis>,
    pub(crate) requests: Vec<(usize, Vec<Token>)>,
    /// Ends that were accepted, by trial and attempt: from whom, and which.
    pub(crate) ends: BTreeMap<(usize, u32), (usize, u8)>,
    pub(crate) standings: Vec<Standing>,
    /// Attempts that failed by the worker's possible fault: trial, worker, when.
    pub(crate) faults: Vec<(usize, usize, Millis)>,
    /// Whether the sweep gives no trials.
    pub(crate) is_paused: bool,
}

/// What the coordinator thinks of a worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    pub(crate) health: Health,
    pub(crate) last_seen: Millis,
    pub(crate) is_lost: bool,
    /// Trials that failed here and succeeded elsewhere.
    pub(crate) blamed: BTreeSet<usize>,
    pub(crate) is_quarantined: bool,
    pub(crate) is_draining: bool,
}

impl Model {
    /// Queued trials, and workers that have just registered.
    pub(crate) fn new(ids: Vec<trial::TrialId>, policy: Policy, workers: Vec<WorkerId>) -> Self {
        let queued = |id| Trial {
            id,
            attempt: 0,
            failures: 0,
            interruptions: 0,
            lost: 0,
            failed_on: None,
            epoch: 0,
            state: State::Queued { not_before: 0 },
        };
        let standing = Standing { last_seen: START, ..Standing::default() };
        Self {
            now: START,
            policy,
            standings: vec![standing; workers.len()],
            workers,
            trials: ids.into_iter().map(queued).collect(),
            leases: BTreeMap::new(),
            requests: Vec::new(),
            ends: BTreeMap::new(),
            faults: Vec::new(),
            is_paused: false,
        }
    }

    /// Whether every trial has ended: then its sweep can be neither paused nor resumed.
    pub(crate) fn is_over(&self) -> bool {
        self.trials.iter().all(|trial| trial.state.is_terminal())
    }

    /// Whether the lifecycle took the command.
    pub(crate) fn apply(&mut self, place: usize, command: Command) -> bool {
        let Ok((after, _)) = trial::apply(&self.trials[place], &self.policy, command, self.now) else {
            return false;
        };
        if !matches!(after.state, State::Running { .. }) {
            self.leases.remove(&place);
        }
        self.trials[place] = after;
        true
    }

    pub(crate) fn token(&self, place: usize, back: u32) -> Token {
        let trial = &self.trials[place];
        Token { trial: trial.id, attempt: trial.attempt.saturating_sub(back) }
    }

    pub(crate) fn by(&self, worker: usize, token: Token) -> Holder {
        Holder { worker: self.workers[worker].clone(), attempt: token.attempt }
    }

    /// The worker was heard of.
    pub(crate) fn touch(&mut self, worker: usize) {
        self.standings[worker].last_seen = self.now;
        self.standings[worker].is_lost = false;
    }

    /// Whether the worker may be given trials.
    pub(crate) fn may_lease(&mut self, worker: usize) -> bool {
        let standing = &mut self.standings[worker];
        standing.is_quarantined |= standing.health.is_suspect() && standing.blamed.len() >= BLAME_LIMIT;
        !standing.is_quarantined
            && !standing.is_draining
            && standing.health.rests_until <= self.now
            && !self.is_paused
    }

    /// Whether a trial failed on the worker lately, and is left to another.
    fn is_left_to_others(&self, worker: usize, trial: &Trial) -> bool {
        let has_others = self
            .standings
            .iter()
            .enumerate()
            .any(|(it, other)| it != worker && !other.is_lost && !other.is_draining);
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

    pub(crate) fn lease(&mut self, worker: usize, max: u32) -> Vec<Token> {
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
    pub(crate) fn running(&self, tokens: &[Token]) -> Vec<Token> {
        let runs = |t: &&Token| {
            let is_it = |x: &Trial| x.id == t.trial && x.attempt == t.attempt;
            self.trials.iter().any(|x| is_it(x) && matches!(x.state, State::Running { .. }))
        };
        tokens.iter().filter(runs).copied().collect()
    }

    pub(crate) fn finish(&mut self, worker: usize, place: usize, end: &NewEnd, kind: u8) -> bool {
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

    pub(crate) fn expire(&mut self) {
        for standing in &mut self.standings {
            if standing.last_seen < self.now - TTL - GRACE {
                standing.is_lost = true;
                standing.is_draining = false;
            }
        }
        let before = self.now - GRACE;
        let expired: Vec<_> = self.leases.iter().filter(|(_, until)| **until < before).collect();
        for place in expired.into_iter().map(|(place, _)| *place).collect::<Vec<_>>() {
            let attempt = self.trials[place].attempt;
            assert!(self.apply(place, Command::Expire { attempt }));
        }
    }
}
