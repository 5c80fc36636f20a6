//! Rows of trials, of their attempts, and of what these brought.

use super::{Checkpoints, class, corrupt, from_json, to_u32};
use crate::store::error::Error;
use crate::store::tx::record;
use crate::trial::{FailureClass, Millis, State, Trial, TrialId, WorkerId};

record! {
    /// A trial as the lifecycle needs it.
    pub struct TrialRow {
        id: i64,
        sweep: i64,
        config: i64,
        seed: i64,
        need: i64,
        state: String,
        attempt: i64,
        failures: i64,
        interruptions: i64,
        lost: i64,
        failed_on: Option<String>,
        epoch: i64,
        not_before: Option<i64>,
        worker: Option<String>,
        class: Option<String>,
        message: Option<String>,
        ended: Option<i64>,
    }
}

impl TrialRow {
    /// The trial in this row.
    pub fn trial(&self) -> Result<Trial, Error> {
        let wrong = |what: &str| corrupt("trial", self.id, what);
        let state = match self.state.as_str() {
            "queued" => State::Queued { not_before: self.not_before.ok_or_else(|| wrong("not_before"))? },
            "running" => {
                State::Running { worker: WorkerId(self.worker.clone().ok_or_else(|| wrong("worker"))?) }
            }
            "succeeded" => State::Succeeded { at: self.ended.ok_or_else(|| wrong("ended"))? },
            "stopped" => State::Stopped { at: self.ended.ok_or_else(|| wrong("ended"))? },
            "failed" => State::Failed {
                class: class("trial", self.id, self.class.as_deref())?.ok_or_else(|| wrong("class"))?,
                message: self.message.clone().unwrap_or_default(),
                at: self.ended.ok_or_else(|| wrong("ended"))?,
            },
            "cancelled" => State::Cancelled { at: self.ended.ok_or_else(|| wrong("ended"))? },
            other => return Err(wrong(&format!("state {other}"))),
        };
        Ok(Trial {
            id: TrialId(self.id),
            attempt: to_u32(self.attempt),
            failures: to_u32(self.failures),
            interruptions: to_u32(self.interruptions),
            lost: to_u32(self.lost),
            failed_on: self.failed_on.clone().map(WorkerId),
            epoch: to_u32(self.epoch),
            state,
        })
    }
}

/// A change of a trial: the columns that a state owns, and what must still be there for it to count.
#[derive(Debug)]
pub(in crate::store) struct TrialChange {
    pub id: TrialId,
    pub was_attempt: u32,
    pub was_state: &'static str,
    pub state: &'static str,
    pub attempt: u32,
    pub failures: u32,
    pub interruptions: u32,
    pub lost: u32,
    pub failed_on: Option<WorkerId>,
    pub epoch: u32,
    pub not_before: Option<Millis>,
    pub worker: Option<WorkerId>,
    pub class: Option<FailureClass>,
    pub message: Option<String>,
    pub ended: Option<Millis>,
}

impl TrialChange {
    pub(in crate::store) fn new(before: &Trial, after: &Trial) -> Self {
        let mut change = Self {
            id: after.id,
            was_attempt: before.attempt,
            was_state: before.state.name(),
            state: after.state.name(),
            attempt: after.attempt,
            failures: after.failures,
            interruptions: after.interruptions,
            lost: after.lost,
            failed_on: after.failed_on.clone(),
            epoch: after.epoch,
            not_before: None,
            worker: None,
            class: None,
            message: None,
            ended: None,
        };
        match after.state.clone() {
            State::Queued { not_before } => change.not_before = Some(not_before),
            State::Running { worker } => change.worker = Some(worker),
            State::Succeeded { at } | State::Stopped { at } | State::Cancelled { at } => {
                change.ended = Some(at)
            }
            State::Failed { class, message, at } => {
                change.class = Some(class);
                change.message = Some(message);
                change.ended = Some(at);
            }
        }
        change
    }
}

record! {
    /// A trial as tables show it.
    pub struct TrialView {
        id: i64,
        sweep_id: String,
        stage: String,
        block: String,
        hash: String,
        settings_json: String,
        seed: i64,
        state: String,
        attempt: i64,
        worker: Option<String>,
        objective: Option<f64>,
        metrics_json: Option<String>,
        class: Option<String>,
        message: Option<String>,
        epoch: i64,
        epochs: i64,
        started: Option<i64>,
        ended: Option<i64>,
        origin: Option<i64>,
        origin_sweep: Option<String>,
    }
}

record! {
    /// What a claimed trial is to run.
    pub struct AssignmentRow {
        trial: i64,
        attempt: i64,
        sweep_id: String,
        recipe_json: String,
        seed: i64,
        timeout_ms: Option<i64>,
        checkpoint_json: String,
        checkpoint: Option<String>,
        start: Option<String>,
        reuse: String,
        /// Stands for the training before pruning, if trials may share it, and where one has kept it.
        prefix: Option<String>,
        prefix_url: Option<String>,
    }
}

impl AssignmentRow {
    /// When the run is to write checkpoints.
    pub fn checkpoints(&self) -> Result<Checkpoints, Error> {
        from_json("sweep", &self.sweep_id, &self.checkpoint_json)
    }
}

record! {
    /// A result that a trial may take over, if it fits what its worker has.
    pub struct ReusableRow { trial: i64, origin: i64, inputs: String, code: String }
}

record! {
    /// A trial that others wait for to train what they have in common, and an epoch that some of them go back to.
    pub struct LeaderRow { trial: i64, rewind: Option<i64> }
}

record! {
    /// Trials that have the training before pruning in common.
    pub struct PrefixRow { hash: String, seed: i64, start_from: i64, has_result: i64 }
}

record! {
    /// A result that a trial takes over.
    pub struct OriginRow {
        trial: i64,
        sweep_id: String,
        attempt: i64,
        metrics_json: String,
        artifact: Option<String>,
        pruning_json: Option<String>,
    }
}

record! {
    /// An execution of a trial.
    pub struct AttemptRow {
        trial: i64,
        number: i64,
        worker: String,
        started: i64,
        ended: Option<i64>,
        how: Option<String>,
        class: Option<String>,
        message: Option<String>,
        digest: Option<String>,
    }
}

record! {
    /// A running attempt's right to its trial.
    pub struct LeaseRow { trial: i64, attempt: i64, worker: String, until: i64 }
}

record! {
    /// A metric's value at the end of an epoch.
    pub struct PointRow { trial: i64, attempt: i64, name: String, epoch: i64, value: Option<f64> }
}

record! {
    /// A result that was refused.
    pub struct OrphanRow {
        trial: i64,
        attempt: i64,
        digest: String,
        worker: String,
        at: i64,
        reason: String,
        metrics_json: String,
    }
}

record! {
    /// Something that happened.
    pub struct EventRow {
        sweep: i64,
        seq: i64,
        at: i64,
        kind: String,
        trial: i64,
        attempt: i64,
        worker: String,
        epoch: i64,
        metrics_json: Option<String>,
        class: Option<String>,
        message: String,
    }
}

record! {
    /// What became of the trials of a configuration, for its statistics.
    pub struct OutcomesRow {
        config: i64,
        trials: i64,
        succeeded: i64,
        stopped: i64,
        failed: i64,
        diverged: i64,
        reused: i64,
        /// Scores, separated by commas.
        objectives: Option<String>,
        /// Metrics as stored, separated by commas.
        metrics_json: Option<String>,
    }
}
