//! Rows as they lie in the tables, and how they become what the rest of the program speaks of.

mod sweep;
mod trial;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::tx::record;
use crate::health::Health;
use crate::offer::{Need, Offer};
use crate::trial::{FailureClass, Millis};

pub use sweep::*;
pub use trial::*;

record! {
    /// An active sweep.
    pub struct CandidateRow {
        number: i64,
        project: String,
        priority: i64,
        running: i64,
        /// Trials that its limits allow now.
        room: i64,
        served: i64,
        /// Needs of its due trials, of those that were asked for.
        needs_json: String,
        asks: i64,
        studies_json: String,
    }
}

record! {
    /// A due trial, as far as it decides who gets it.
    pub struct QueuedRow { id: i64, sweep: i64, need: i64, not_before: i64, failed_on: Option<String> }
}

record! {
    /// A worker's request that has leased something.
    pub struct RequestRow { worker: String, request: String }
}

record! {
    /// A configuration of a sweep.
    pub struct ConfigurationRow {
        number: i64,
        hash: String,
        stage: String,
        block: String,
        settings_json: String,
        superseded: i64,
    }
}

record! {
    /// A configuration with all that others are made from.
    pub struct WholeConfigurationRow {
        number: i64,
        stage: String,
        block: String,
        hash: String,
        settings_json: String,
        recipe_json: String,
        is_lr_scaled: i64,
        parent: Option<i64>,
        changed_from: Option<i64>,
    }
}

record! {
    /// A configuration that a stage has opened.
    pub struct OpenedRow { number: i64, parent: Option<i64>, prefix: Option<String>, need: i64 }
}

record! {
    /// A group that a configuration belongs to.
    pub struct MembershipRow { config: i64, stage: i64, choice: i64, key_json: String, state: String }
}

record! {
    /// A complete recipe.
    pub struct RecipeRow {
        recipe_json: String,
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

record! { pub(super) struct SamplerRow { sampler_json: String } }

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
