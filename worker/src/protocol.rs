//! What agent and trainer say to each other: one JSON object a line, over the trainer's stdin and stdout.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
pub use sweeps::FailureClass;

/// From the agent. When stdin closes, the trainer exits.
#[expect(clippy::large_enum_variant, reason = "one a slot, and nearly always the large one")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToTrainer {
    /// Run one attempt. The next one is sent only after `Done` or `Failed`. To stop a run, kill the trainer.
    Run {
        /// What the trial belongs to: its artifacts are kept under this name.
        sweep: String,
        trial: i64,
        attempt: u32,
        /// The complete recipe, as in `sweep.v1.Assignment.recipe_json`.
        recipe: serde_json::Value,
        seed: i64,
        /// What the trial starts from, if not from its seed: the artifact of another trial.
        start: Option<String>,
        /// The latest checkpoint of an earlier attempt.
        from: Option<String>,
        /// A checkpoint is due this often; 0: never.
        checkpoint_every_ms: u64,
        /// The end of the training before pruning, as another trial has kept it.
        prefix: Option<String>,
        /// Others wait for this end: the run keeps it, with its values after these epochs.
        keep: Option<Vec<u32>>,
        /// Results of other trials that may be this one's, if they were trained on what is here.
        reusable: Vec<Reusable>,
    },
    /// End the run, if there is one, with a last checkpoint, and say `Left`.
    Leave,
}

/// As `sweep.v1.Reusable`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reusable {
    pub trial: i64,
    pub inputs: String,
    /// Empty: of whatever code.
    pub code: String,
}

/// From the trainer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromTrainer {
    /// Sent once, when the device is open and the first run may come.
    Ready {
        device: String,
    },
    /// An epoch (from 1) has ended.
    Epoch {
        trial: i64,
        attempt: u32,
        epoch: u32,
        metrics: BTreeMap<String, f64>,
    },
    /// Something that people should know of.
    Note {
        message: String,
    },
    /// A checkpoint is in place; the next attempt can go on from it.
    Kept {
        trial: i64,
        attempt: u32,
        url: String,
    },
    /// The end of the training before pruning is in place, for the trials that have it in common.
    Shared {
        trial: i64,
        attempt: u32,
        url: String,
    },
    /// The tuned tensors, if they were kept, are in place under a URL.
    Done {
        trial: i64,
        attempt: u32,
        metrics: BTreeMap<String, f64>,
        artifact: Option<String>,
        /// As in `sweep.v1.Success`.
        #[serde(default)]
        inputs: String,
        #[serde(default)]
        code: String,
        /// The trial of `reusable` whose result this one's is; then nothing was trained.
        #[serde(default)]
        reused: Option<i64>,
        /// As `sweep.v1.Success.pruning_json`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pruning: Option<String>,
    },
    /// The answer to `Leave`: the run has ended without a result. What it has kept, it has told before.
    Left {
        trial: i64,
        attempt: u32,
    },
    Failed {
        trial: i64,
        attempt: u32,
        class: FailureClass,
        message: String,
    },
}
