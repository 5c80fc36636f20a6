//! What agent and trainer say to each other: one JSON object a line, over the trainer's stdin and stdout.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
pub use sweeps::FailureClass;

/// From the agent. When stdin closes, the trainer exits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToTrainer {
    /// Run one attempt. The next one is sent only after `Done` or `Failed`. To stop a run, kill the trainer.
    Run {
        trial: i64,
        attempt: u32,
        /// The complete recipe, as in `sweep.v1.Assignment.recipe_json`.
        recipe: serde_json::Value,
        seed: i64,
    },
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
    Done {
        trial: i64,
        attempt: u32,
        metrics: BTreeMap<String, f64>,
    },
    Failed {
        trial: i64,
        attempt: u32,
        class: FailureClass,
        message: String,
    },
}
