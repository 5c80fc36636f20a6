//! Rows as they lie in the tables, and how they become what the rest of the program speaks of.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sweeps::spec::EarlyStop;

use super::error::Error;
use super::tx::record;
use crate::health::Health;
use crate::offer::{Need, Offer};
use crate::score::Objective;
use crate::trial::{FailureClass, Millis, Policy, State, Trial, TrialId, WorkerId};

record! {
    /// A sweep without its file.
    pub struct SweepRow {
        number: i64,
        id: String,
        name: String,
        project: String,
        labels_json: String,
        state: String,
        created: i64,
        priority: i64,
        objective_json: String,
        report_json: String,
        axes_json: String,
        allow_test_selection: i64,
        early_stop_json: Option<String>,
        share_prefix: i64,
        reuse: String,
        retry_json: String,
        checkpoint_json: String,
        max_running: Option<i64>,
        timeout_ms: Option<i64>,
        pause_after_failures: Option<i64>,
        pause_after_code_errors: Option<i64>,
        paused_because: String,
        configurations: i64,
        trials: i64,
        waiting: i64,
        queued: i64,
        running: i64,
        succeeded: i64,
        stopped: i64,
        failed: i64,
        cancelled: i64,
        failures: i64,
        last_seq: i64,
        served: i64,
    }
}

/// Where a sweep stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepState {
    Active,
    Paused,
    Ended,
    Cancelled,
}

impl SweepState {
    /// The state's name in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Ended => "ended",
            Self::Cancelled => "cancelled",
        }
    }
}

impl SweepRow {
    /// Where the sweep stands.
    pub fn state(&self) -> Result<SweepState, Error> {
        [SweepState::Active, SweepState::Paused, SweepState::Ended, SweepState::Cancelled]
            .into_iter()
            .find(|state| state.name() == self.state)
            .ok_or_else(|| corrupt("sweep", &self.id, format!("state {}", self.state)))
    }

    /// The sweep's objective.
    pub fn objective(&self) -> Result<Objective, Error> {
        from_json("sweep", &self.id, &self.objective_json)
    }

    /// The sweep's retry policy.
    pub fn policy(&self) -> Result<Policy, Error> {
        from_json("sweep", &self.id, &self.retry_json)
    }

    /// The rule that ends trials early.
    pub fn early_stop(&self) -> Result<Option<EarlyStop>, Error> {
        self.early_stop_json.as_deref().map(|json| from_json("sweep", &self.id, json)).transpose()
    }

    /// The counter of the trials in a state.
    pub(super) fn count_mut(&mut self, state: &State) -> &mut i64 {
        match state {
            State::Queued { .. } => &mut self.queued,
            State::Running { .. } => &mut self.running,
            State::Succeeded { .. } => &mut self.succeeded,
            State::Stopped { .. } => &mut self.stopped,
            State::Failed { .. } => &mut self.failed,
            State::Cancelled { .. } => &mut self.cancelled,
        }
    }
}

/// When the runs of a sweep write checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoints {
    /// `None`: not by time.
    pub every_ms: Option<u64>,
    pub on_drain: bool,
}

record! {
    /// A stage of a sweep.
    pub struct StageRow {
        sweep: i64,
        number: i64,
        name: String,
        seeds_json: String,
        parent: Option<i64>,
        opening_json: Option<String>,
    }
}

record! {
    /// A group of configurations among which a stage chooses.
    pub struct ChoiceRow {
        sweep: i64,
        stage: i64,
        number: i64,
        key_json: String,
        pending: i64,
        configurations: i64,
        trials: i64,
        state: String,
    }
}

record! {
    /// A stage with its groups by state.
    pub struct StageCountRow { name: String, parent: Option<String>, waiting: i64, opened: i64, failed: i64 }
}

record! {
    /// A group of which nothing could be chosen.
    pub struct FailedGroupRow { stage: String, key_json: String }
}

record! {
    /// A trial of a configuration that may be chosen.
    pub struct MemberRow {
        number: i64,
        block: String,
        hash: String,
        settings_json: String,
        lr: f64,
        is_lr_scaled: i64,
        trial: i64,
        seed: i64,
        need: i64,
        state: String,
        objective: Option<f64>,
    }
}

record! {
    /// With what a trial is compared by early stopping.
    pub struct ScopeRow { trial: i64, sweep: i64, scope: String, bracket: i64, epochs: i64 }
}

record! {
    /// A submitted file.
    pub struct SourceRow {
        file: String,
        overrides_json: String,
        client_version: String,
        git_commit: String,
        git_dirty: i64,
    }
}

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
#[derive(Debug, Serialize)]
pub(super) struct TrialChange {
    id: TrialId,
    was_attempt: u32,
    was_state: &'static str,
    state: &'static str,
    attempt: u32,
    failures: u32,
    interruptions: u32,
    lost: u32,
    failed_on: Option<WorkerId>,
    epoch: u32,
    not_before: Option<Millis>,
    worker: Option<WorkerId>,
    class: Option<FailureClass>,
    message: Option<String>,
    ended: Option<Millis>,
}

impl TrialChange {
    pub(super) fn new(before: &Trial, after: &Trial) -> Self {
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
    /// An active sweep, and whether the worker at hand could run one of its trials now.
    pub struct CandidateRow {
        number: i64,
        project: String,
        priority: i64,
        running: i64,
        room: i64,
        served: i64,
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
    /// A configuration of a sweep.
    pub struct ConfigurationRow {
        number: i64,
        hash: String,
        stage: String,
        block: String,
        settings_json: String,
    }
}

record! {
    /// A complete recipe.
    pub struct RecipeRow {
        recipe_json: String,
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

record! {
    /// A registered worker.
    pub struct WorkerRow {
        id: String,
        instance: String,
        name: String,
        capabilities_json: String,
        slots: i64,
        registered: i64,
        last_seen: i64,
        state: String,
        strikes: i64,
        failing_since: Option<i64>,
        rests_until: i64,
        quarantined: Option<String>,
    }
}

impl WorkerRow {
    /// What the worker offers.
    pub fn offer(&self) -> Result<Offer, Error> {
        from_json("worker", &self.id, &self.capabilities_json)
    }

    /// What the worker's latest attempts say about it.
    pub fn health(&self) -> Health {
        let strikes = to_u32(self.strikes);
        Health { strikes, failing_since: self.failing_since, rests_until: self.rests_until }
    }

    /// Whether the worker may be given trials at `now`.
    pub(super) fn may_lease(&self, now: Millis) -> bool {
        self.state == "live" && self.quarantined.is_none() && self.rests_until <= now
    }
}

record! {
    /// A need and its key.
    pub struct NeedRow {
        id: i64,
        backbone: String,
        task: String,
        splits_json: String,
        method: String,
        gpu_memory_mib: i64,
        labels_json: String,
    }
}

impl NeedRow {
    /// The need in this row.
    pub fn need(&self) -> Result<Need, Error> {
        Ok(Need {
            backbone: self.backbone.clone(),
            task: self.task.clone(),
            splits: from_json("need", self.id, &self.splits_json)?,
            method: self.method.clone(),
            gpu_memory_mib: u64::try_from(self.gpu_memory_mib).unwrap_or_default(),
            labels: from_json("need", self.id, &self.labels_json)?,
        })
    }
}

record! {
    /// Failed trials of a sweep by class.
    pub struct FailureRow { class: String, trials: i64, example: Option<String> }
}

record! {
    /// A number by a key.
    pub struct CountRow { key: i64, count: i64 }
}

record! {
    /// Leases by worker.
    pub struct LeaseCountRow { worker: String, count: i64 }
}

record! { pub(super) struct KeyRow { key: i64 } }

record! { pub(super) struct HashRow { hash: String } }

/// A column of numbers that are never negative and always small.
pub fn to_u32(value: i64) -> u32 {
    u32::try_from(value).unwrap_or_default()
}

/// A failure class in a row.
pub fn class(
    table: &'static str,
    row: impl ToString,
    name: Option<&str>,
) -> Result<Option<FailureClass>, Error> {
    name.map(|name| FailureClass::from_name(name).ok_or_else(|| corrupt(table, row, format!("class {name}"))))
        .transpose()
}

/// A JSON column.
pub fn from_json<V: DeserializeOwned>(
    table: &'static str,
    row: impl ToString,
    text: &str,
) -> Result<V, Error> {
    serde_json::from_str(text).map_err(|error| corrupt(table, row, error.to_string()))
}

/// JSON text of something that always has one: maps with string keys, lists, plain structs.
pub(super) fn to_json<V: Serialize + ?Sized>(value: &V) -> String {
    serde_json::to_string(value).expect("plain data is always JSON")
}

pub(crate) fn corrupt(table: &'static str, row: impl ToString, what: impl Into<String>) -> Error {
    Error::Corrupt { table, row: row.to_string(), what: what.into() }
}
