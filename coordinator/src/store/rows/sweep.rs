//! Rows of sweeps, of their stages, and of what was submitted.

use serde::{Deserialize, Serialize};
use sweeps::spec::EarlyStop;

use super::{corrupt, from_json};
use crate::score::Objective;
use crate::store::error::Error;
use crate::store::tx::record;
use crate::trial::{Policy, State};

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
    pub(in crate::store) fn count_mut(&mut self, state: &State) -> &mut i64 {
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
        is_scored_on_test: i64,
        sampler_json: Option<String>,
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
    /// A study, which makes configurations while results come in.
    pub struct StudyRow {
        sweep: i64,
        number: i64,
        key_json: String,
        study_json: String,
        size: i64,
        made: i64,
        seeds: i64,
        need: i64,
        varies: i64,
        strategy_json: Option<String>,
        state: String,
    }
}

record! {
    /// A configuration of a study, and what became of its trials.
    pub struct SuggestionRow {
        point_json: String,
        generation: Option<i64>,
        open: i64,
        scored: i64,
        mean: Option<f64>,
        /// Trials without a score of their own that says how good the configuration is: stopped early, or failed by it.
        stopped: i64,
        bad: i64,
        trials: i64,
        /// When the last of them ended.
        ended: Option<i64>,
    }
}

record! {
    /// What studies of a sweep have made, and are to make.
    pub struct StudyCountRow { studies: i64, open: i64, made: i64, size: i64 }
}
