//! A sweep file, decoded and checked. The only way to a [`Spec`] is [`Spec::parse`], so a `Spec` in hand is valid.

mod axes;
mod duration;
mod early_stop;
mod error;
mod fields;
mod metrics;
mod overrides;
mod plan_stages;
mod search;
mod sections;
mod stages;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::early_stop::{EarlyStop, Rule, Scope};
pub use self::error::{SpecError, SpecErrors};
pub(crate) use self::fields::Problems;
pub use self::metrics::{COST_METRICS, SCORE_METRICS};
pub use self::sections::KEYS as FILE_KEYS;

use crate::FailureClass;
use crate::space::Space;
use crate::stage::Stage;
use crate::study::{Algorithm, Studies};

/// The largest number of trials that one file may ask for, counted before anything is expanded.
pub const MAX_TRIALS: u64 = 1_000_000;
/// The largest number of comparisons between entries of `exclude` and configurations.
pub const MAX_COMPARISONS: u64 = 100_000_000;

/// A valid sweep: every configuration of it resolves to a complete recipe.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: String,
    pub project: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub objective: Objective,
    /// Metrics that tables show besides the objective; never used to choose.
    pub report: Vec<String>,
    pub search: Search,
    /// Of a sampler that chooses while results come in.
    pub studies: Option<Studies>,
    /// Replicates: every configuration of the first stage is run once with each of them.
    pub seeds: Vec<i64>,
    /// In the order of the file, the first running its axes; never empty.
    pub stages: Vec<Stage>,
    /// Whether test images may choose, which every table must say then.
    pub allow_test_selection: bool,
    /// `None`: every trial runs to its end.
    pub early_stop: Option<EarlyStop>,
    pub limits: Limits,
    pub resources: Resources,
    pub retry: Retry,
    pub checkpoint: Checkpoint,
    /// Sweeps of higher priority are served first.
    pub priority: i32,
    /// Whether results of earlier trials are taken over.
    pub reuse: Reuse,
    /// Whether trials that differ only in what comes after pruning share the training before it.
    pub share_prefix: bool,
    /// Every key that some configuration sets beyond `base`, in the order of the file.
    pub axes: Vec<String>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<String>,
    pub(crate) space: Space,
}

/// Which results of earlier trials with the same recipe and seed, trained on the same backbone and images, are taken over
/// instead of training again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    Never,
    /// Those of the same version of the worker.
    SameCode,
    /// Those of any version.
    SameConfig,
}

/// What a trial's score is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objective {
    /// One of [`SCORE_METRICS`]; of the test images only where the file allows it.
    pub metric: String,
    pub goal: Goal,
    pub at: At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    Maximize,
    Minimize,
}

/// Which epoch's value is the score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Last,
    Best,
}

/// How configurations are chosen and in which order trials are queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Search {
    pub sampler: Sampler,
    pub order: Order,
    /// Of the sampler and of the order; a trial's own seed is a replicate.
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampler {
    Grid,
    /// This many configurations, drawn without repeats.
    Random {
        configurations: u32,
    },
    /// This many configurations, spread evenly by a scrambled Sobol sequence.
    Sobol {
        configurations: u32,
    },
    /// This many configurations of each study, chosen while results come in; the first few without any.
    Adaptive {
        algorithm: Algorithm,
        configurations: u32,
        startup: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Shuffled,
    AsWritten,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At most this many trials of the sweep run at once.
    pub max_running: Option<u32>,
    /// A run that takes longer is killed and counts as failed.
    pub trial_timeout: Option<Duration>,
    /// The coordinator pauses the sweep when this many trials in a row failed for good, with no success between
    /// them; diverged trials are results and are not counted. `None` (`null`): never.
    pub pause_after_failures: Option<u32>,
    /// The coordinator pauses the sweep when this many trials failed by `code_error`s that read alike. `None` (`null`):
    /// never.
    pub pause_after_code_errors: Option<u32>,
}

/// What a worker must have to run the sweep's trials, besides the backbone, the task and the method.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// Of every GPU, in MiB; 0: any device will do.
    pub gpu_memory_mib: u64,
    /// Labels that the worker was started with.
    pub labels: BTreeMap<String, String>,
}

/// When a run writes down where it stands, so that the trial's next attempt goes on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// `None` (`null`): not by time.
    pub every: Option<Duration>,
    /// When its worker leaves.
    pub on_drain: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Attempts that may fail before the trial has failed. Interrupted attempts are not counted.
    pub max_attempts: u32,
    pub backoff: Backoff,
    /// Failures that are final at once.
    pub never: Vec<FailureClass>,
    /// The trial is parked when this many workers were lost while they ran it. `None` (`null`): never.
    pub poison_after: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    pub first: Duration,
    pub factor: f64,
    pub max: Duration,
}

impl Spec {
    /// Reads a sweep file. `file_name` is for messages alone; `overrides` are `path=value` pairs that are applied
    /// in order before anything is decoded.
    ///
    /// # Errors
    /// Every mistake that can be told apart, each with its place in the file and the mend.
    pub fn parse(file_name: &str, text: &str, overrides: &[String]) -> Result<Spec, SpecErrors> {
        sections::parse(file_name, text, overrides)
    }
}

impl Goal {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Goal::Maximize => "maximize",
            Goal::Minimize => "minimize",
        }
    }
}

impl Reuse {
    pub(crate) const NAMES: [(&'static str, Reuse); 3] =
        [("never", Reuse::Never), ("same_code", Reuse::SameCode), ("same_config", Reuse::SameConfig)];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reuse::Never => "never",
            Reuse::SameCode => "same_code",
            Reuse::SameConfig => "same_config",
        }
    }
}

impl At {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            At::Last => "last",
            At::Best => "best",
        }
    }
}
