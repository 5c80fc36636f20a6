//! The statements, a file per group of tables, each function one statement.
//!
//! Rows that every call writes go as a [`crate::store::tx::Batch`]; `json_each($1)` and `json_to_recordset($1::json)` unfold
//! those that come rarely: one parameter, one round trip, however many rows.

pub(super) mod configurations;
pub(super) mod history;
pub(super) mod leases;
pub(super) mod needs;
pub(super) mod prefixes;
pub(super) mod reuse;
pub(super) mod rungs;
pub(super) mod stages;
pub(super) mod studies;
pub(super) mod sweeps;
pub(super) mod trials;
pub(super) mod workers;
