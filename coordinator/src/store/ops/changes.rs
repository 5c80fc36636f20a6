//! What a transaction is about to change: every step of a trial goes through here, so that its row, its lease, its
//! attempt, the sweep's counters and the sweep's events always move together.

use std::collections::BTreeMap;

use super::prefixes;
use crate::health;
use crate::store::error::Error;
use crate::store::rows::{EventRow, SweepRow, SweepState, TrialChange, TrialRow};
use crate::store::sql::leases::{self, AttemptEnd, Token};
use crate::store::sql::stages::ToCome;
use crate::store::sql::workers::Acquitted;
use crate::store::sql::{history, sweeps, trials, workers};
use crate::store::tx::Tx;
use crate::trial::{
    self, Command, Event, FailureClass, How, Millis, Policy, Rejected, State, Trial, TrialId,
};

/// Rows in one statement.
const BATCH: usize = 2_000;

/// Why a step was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Refused {
    #[error("there is no trial {0}")]
    NoTrial(TrialId),
    #[error(transparent)]
    Rejected(#[from] Rejected),
}

#[derive(Debug)]
pub(super) struct Changes {
    now: Millis,
    sweeps: BTreeMap<i64, (SweepRow, Policy)>,
    /// As they were.
    untouched: Vec<SweepRow>,
    trials: BTreeMap<TrialId, Moved>,
    dropped: Vec<Token>,
    ended: Vec<AttemptEnd>,
    events: Vec<EventRow>,
    /// Trials that failed by a code error, with its message.
    code_errors: Vec<(TrialId, String)>,
    /// Trials that succeeded after they had failed.
    acquitted: Vec<Acquitted>,
}

#[derive(Debug)]
struct Moved {
    sweep: i64,
    config: i64,
    before: Trial,
    after: Trial,
}

/// What an event of a trial says besides its kind.
#[derive(Debug, Default)]
pub(super) struct Details {
    pub metrics_json: Option<String>,
    pub digest: Option<String>,
    pub message: String,
}

impl Changes {
    /// Of trials in these sweeps, which are locked.
    pub(super) fn new(sweeps: Vec<SweepRow>, now: Millis) -> Result<Self, Error> {
        let untouched = sweeps.clone();
        let sweeps = sweeps
            .into_iter()
            .map(|row| Ok((row.number, (row.clone(), row.policy()?))))
            .collect::<Result<_, Error>>()?;
        let trials = BTreeMap::new();
        Ok(Self {
            now,
            sweeps,
            untouched,
            trials,
            dropped: Vec::new(),
            ended: Vec::new(),
            events: Vec::new(),
            code_errors: Vec::new(),
            acquitted: Vec::new(),
        })
    }

    /// Locks the trials with these ids, and their sweeps before them.
    pub(super) async fn load<T: Tx>(tx: &mut T, ids: &[TrialId], now: Millis) -> Result<Self, Error> {
        let mut changes = Self::new(sweeps::lock_of(tx, ids).await?, now)?;
        changes.add(&trials::load(tx, ids).await?)?;
        Ok(changes)
    }

    /// Adds trials of the sweeps; they are locked.
    pub(super) fn add(&mut self, rows: &[TrialRow]) -> Result<(), Error> {
        for row in rows {
            let before = row.trial()?;
            let moved = Moved { sweep: row.sweep, config: row.config, after: before.clone(), before };
            self.trials.insert(TrialId(row.id), moved);
        }
        Ok(())
    }

    /// A locked sweep, as changed so far.
    pub(super) fn sweep(&mut self, number: i64) -> Result<&mut SweepRow, Error> {
        self.sweeps.get_mut(&number).map(|(row, _)| row).ok_or(Error::Conflict("sweep"))
    }

    /// The sweep of a trial, as changed so far.
    pub(super) fn sweep_of(&self, trial: TrialId) -> Option<&SweepRow> {
        let moved = self.trials.get(&trial)?;
        self.sweeps.get(&moved.sweep).map(|(row, _)| row)
    }

    /// The latest attempt of a trial, as changed so far.
    pub(super) fn token(&self, trial: TrialId) -> Option<Token> {
        self.trials.get(&trial).map(|moved| Token { trial, attempt: moved.after.attempt })
    }

    /// The digest that an attempt was ended with in this transaction.
    pub(super) fn digest(&self, token: Token) -> Option<&str> {
        self.ended.iter().find(|end| end.token == token).and_then(|end| end.digest.as_deref())
    }

    /// Gives a trial a command.
    pub(super) fn step(&mut self, id: TrialId, command: Command, details: Details) -> Result<Event, Refused> {
        let moved = self.trials.get_mut(&id).ok_or(Refused::NoTrial(id))?;
        let Some((sweep, policy)) = self.sweeps.get_mut(&moved.sweep) else {
            return Err(Refused::NoTrial(id));
        };
        let (after, event) = trial::apply(&moved.after, policy, command, self.now)?;
        let before = std::mem::replace(&mut moved.after, after.clone());
        *sweep.count_mut(&before.state) -= 1;
        *sweep.count_mut(&after.state) += 1;
        match after.state {
            State::Failed { class, .. } if class != FailureClass::Diverged => sweep.failures += 1,
            State::Succeeded { .. } | State::Stopped { .. } => sweep.failures = 0,
            _ => {}
        }
        let number = moved.sweep;
        if let Event::Requeued { end } | Event::Failed { end } = &event
            && end.how == How::Failed(FailureClass::CodeError)
        {
            self.code_errors.push((id, end.message.clone()));
        }
        if let (State::Running { worker }, State::Succeeded { .. }) = (&before.state, &after.state)
            && before.failures > 0
        {
            self.acquitted.push(Acquitted { trial: id, worker: worker.clone() });
        }
        self.record(number, &before, &after, &event, details);
        Ok(event)
    }

    /// The lease, the attempt and the event that follow from a step.
    fn record(&mut self, sweep: i64, before: &Trial, after: &Trial, event: &Event, details: Details) {
        let worker = match (&before.state, &after.state) {
            (State::Running { worker }, _) | (_, State::Running { worker }) => worker.0.clone(),
            _ => String::new(),
        };
        let token = Token { trial: after.id, attempt: after.attempt };
        let event_row = |kind: &str| EventRow {
            trial: after.id.0,
            attempt: i64::from(after.attempt),
            worker,
            epoch: i64::from(after.epoch),
            ..sweep_event(sweep, kind)
        };
        let digest = details.digest;
        let attempt_end = |how, class: Option<FailureClass>, message| AttemptEnd {
            token,
            how,
            class: class.map(FailureClass::name),
            message,
            digest,
        };
        let (row, end) = match event {
            Event::Renewed | Event::Reported { .. } | Event::Cancelled { was_running: false } => return,
            Event::Leased => (event_row("leased"), None),
            Event::Succeeded => (
                EventRow {
                    metrics_json: details.metrics_json,
                    message: details.message,
                    ..event_row("succeeded")
                },
                Some(attempt_end("succeeded", None, None)),
            ),
            Event::Stopped => (
                EventRow { metrics_json: details.metrics_json, ..event_row("stopped") },
                Some(attempt_end("stopped", None, None)),
            ),
            Event::Revived => (EventRow { message: details.message, ..event_row("revived") }, None),
            Event::Cancelled { was_running: true } => {
                (event_row("cancelled"), Some(attempt_end("cancelled", None, None)))
            }
            Event::Requeued { end } => {
                let message = requeue_message(end.how, &end.message, self.now, &after.state);
                let class = end.how.class().map(|class| class.name().to_owned());
                (
                    EventRow { class, message, ..event_row("requeued") },
                    Some(attempt_end(end.how.name(), end.how.class(), Some(end.message.clone()))),
                )
            }
            Event::Failed { end } => {
                let (class, message) = match &after.state {
                    State::Failed { class, message, .. } => (Some(class.name().to_owned()), message.clone()),
                    _ => (None, end.message.clone()),
                };
                (
                    EventRow { class, message, ..event_row("failed") },
                    Some(attempt_end(end.how.name(), end.how.class(), Some(end.message.clone()))),
                )
            }
        };
        if let Some(end) = end {
            self.dropped.push(token);
            self.ended.push(end);
        }
        self.event(row);
    }

    /// Appends an event under the sweep's next number.
    pub(super) fn event(&mut self, row: EventRow) {
        if let Some((sweep, _)) = self.sweeps.get_mut(&row.sweep) {
            sweep.last_seq += 1;
            self.events.push(EventRow { seq: sweep.last_seq, at: self.now, ..row });
        }
    }

    /// Appends an event of an epoch that an attempt reported.
    pub(super) fn reported(&mut self, token: Token, epoch: i64, metrics_json: String) {
        let Some(moved) = self.trials.get(&token.trial) else { return };
        let State::Running { worker } = &moved.after.state else { return };
        self.event(EventRow {
            trial: token.trial.0,
            attempt: i64::from(token.attempt),
            worker: worker.0.clone(),
            epoch,
            metrics_json: Some(metrics_json),
            ..sweep_event(moved.sweep, "reported")
        });
    }

    /// Why each sweep should pause in which too many trials failed by one code error.
    async fn alike<T: Tx>(&self, tx: &mut T) -> Result<BTreeMap<i64, String>, Error> {
        let mut reasons = BTreeMap::new();
        for (trial, message) in &self.code_errors {
            let Some(sweep) = self.sweep_of(*trial) else { continue };
            let Some(limit) = sweep.pause_after_code_errors else { continue };
            let fingerprint = health::fingerprint(message);
            let trials = history::add_code_error(tx, sweep.number, &fingerprint, *trial).await?;
            if trials >= limit {
                let text = format!(
                    "{trials} trials failed by one code error (limits.pause_after_code_errors: {limit}): {fingerprint}"
                );
                reasons.insert(sweep.number, text);
            }
        }
        Ok(reasons)
    }

    /// Of sweeps with trials that have ended, or are to come again: how many of which configuration.
    fn to_come(&self) -> BTreeMap<i64, Vec<ToCome>> {
        let mut counts: BTreeMap<(i64, i64), i64> = BTreeMap::new();
        for moved in self.trials.values() {
            let to_come = |trial: &Trial| i64::from(!trial.state.is_terminal());
            let more = to_come(&moved.after) - to_come(&moved.before);
            if more != 0 {
                *counts.entry((moved.sweep, moved.config)).or_default() += more;
            }
        }
        let mut sweeps: BTreeMap<i64, Vec<ToCome>> = BTreeMap::new();
        for ((sweep, config), to_come) in counts {
            sweeps.entry(sweep).or_default().push(ToCome { config, to_come });
        }
        sweeps
    }

    /// Trials that have ended, of sweeps whose trials share prefixes.
    fn ended_sharing(&self) -> Vec<TrialId> {
        let is_sharing = |sweep: &i64| self.sweeps.get(sweep).is_some_and(|(row, _)| row.share_prefix != 0);
        let has_ended = |moved: &Moved| moved.after.state.is_terminal() && !moved.before.state.is_terminal();
        let ended = self.trials.iter().filter(|(_, moved)| has_ended(moved) && is_sharing(&moved.sweep));
        ended.map(|(id, _)| *id).collect()
    }

    /// What the steps mean for their sweeps: the end, or a pause after too many failures.
    fn settle(&mut self, mut alike: BTreeMap<i64, String>) -> Result<(), Error> {
        let mut events = Vec::new();
        for (row, _) in self.sweeps.values_mut() {
            let state = row.state()?;
            if !matches!(state, SweepState::Active | SweepState::Paused) {
                continue;
            }
            if row.waiting + row.queued + row.running == 0 {
                row.state = SweepState::Ended.name().to_owned();
                row.paused_because.clear();
                events.push(sweep_event(row.number, "ended"));
                continue;
            }
            let in_a_row = row.pause_after_failures.filter(|limit| row.failures >= *limit).map(|limit| {
                format!("{} trials in a row failed (limits.pause_after_failures: {limit})", row.failures)
            });
            if let (SweepState::Active, Some(reason)) = (state, alike.remove(&row.number).or(in_a_row)) {
                row.state = SweepState::Paused.name().to_owned();
                row.paused_because = reason;
                let message = row.paused_because.clone();
                events.push(EventRow { message, ..sweep_event(row.number, "paused") });
            }
        }
        events.into_iter().for_each(|row| self.event(row));
        Ok(())
    }

    /// Writes everything. Results of the transaction are written before: stages choose by them.
    pub(super) async fn write<T: Tx>(mut self, tx: &mut T) -> Result<(), Error> {
        for tokens in self.dropped.chunks(BATCH) {
            leases::release(tx, tokens).await?;
        }
        let moved: Vec<_> = self.trials.values().filter(|moved| moved.before != moved.after).collect();
        for moved in moved.chunks(BATCH) {
            let changes: Vec<_> =
                moved.iter().map(|moved| TrialChange::new(&moved.before, &moved.after)).collect();
            trials::update(tx, &changes).await?;
        }
        for ends in self.ended.chunks(BATCH) {
            leases::end_attempts(tx, ends, self.now).await?;
        }
        workers::blame(tx, &self.acquitted).await?;
        for (sweep, to_come) in self.to_come() {
            super::stages::advance(tx, &mut self, sweep, &to_come).await?;
        }
        prefixes::release(tx, &self.ended_sharing()).await?;
        let alike = self.alike(tx).await?;
        self.settle(alike)?;
        for events in self.events.chunks(BATCH) {
            history::insert_events(tx, events).await?;
        }
        for (row, _) in self.sweeps.values().filter(|(row, _)| !self.untouched.contains(row)) {
            sweeps::update(tx, row).await?;
        }
        Ok(())
    }
}

/// An event of a sweep itself; its number and time are filled in when it is appended.
pub(super) fn sweep_event(sweep: i64, kind: &str) -> EventRow {
    EventRow {
        sweep,
        seq: 0,
        at: 0,
        kind: kind.to_owned(),
        trial: 0,
        attempt: 0,
        worker: String::new(),
        epoch: 0,
        metrics_json: None,
        class: None,
        message: String::new(),
    }
}

fn requeue_message(how: How, message: &str, now: Millis, state: &State) -> String {
    let wait = match state {
        State::Queued { not_before } if *not_before > now => {
            format!("; tried again in {} s", (not_before - now + 999) / 1000)
        }
        _ => String::new(),
    };
    let colon = if message.is_empty() { "" } else { ": " };
    let name = how.class().map_or(how.name(), FailureClass::name);
    format!("{name}{colon}{message}{wait}")
}
