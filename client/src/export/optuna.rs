//! An Optuna study in an SQLite file: the tables of Optuna's RDB storage at its schema version 12 (revision v3.2.0.a),
//! which Optuna 3.2 and later read.
//!
//! Each trial of the sweep is a trial of the study, its seed a user attribute. Axes of numbers are Int or Float
//! distributions over the span of their values, on a log scale where that spans a factor of 100; others are categorical. Scores
//! of epochs are intermediate values. Stopped trials are PRUNED; cancelled ones, and such without a score, FAIL.

use std::collections::BTreeMap;
use std::path::Path;

use proto::v1::{Trial, TrialState};
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::{Export, Exported};
use crate::format;

const SCHEMA: &str = "
CREATE TABLE studies (study_id INTEGER NOT NULL PRIMARY KEY, study_name VARCHAR(512) NOT NULL);
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE TABLE version_info (version_info_id INTEGER NOT NULL PRIMARY KEY CHECK (version_info_id = 1),
    schema_version INTEGER, library_version VARCHAR(256));
CREATE TABLE study_directions (study_direction_id INTEGER NOT NULL PRIMARY KEY, direction VARCHAR(8) NOT NULL,
    study_id INTEGER NOT NULL REFERENCES studies (study_id), objective INTEGER NOT NULL, UNIQUE (study_id, objective));
CREATE TABLE study_user_attributes (study_user_attribute_id INTEGER NOT NULL PRIMARY KEY,
    study_id INTEGER REFERENCES studies (study_id), \"key\" VARCHAR(512), value_json TEXT, UNIQUE (study_id, \"key\"));
CREATE TABLE study_system_attributes (study_system_attribute_id INTEGER NOT NULL PRIMARY KEY,
    study_id INTEGER REFERENCES studies (study_id), \"key\" VARCHAR(512), value_json TEXT, UNIQUE (study_id, \"key\"));
CREATE TABLE trials (trial_id INTEGER NOT NULL PRIMARY KEY, number INTEGER,
    study_id INTEGER REFERENCES studies (study_id), state VARCHAR(8) NOT NULL, datetime_start DATETIME,
    datetime_complete DATETIME);
CREATE INDEX ix_trials_study_id ON trials (study_id);
CREATE TABLE trial_user_attributes (trial_user_attribute_id INTEGER NOT NULL PRIMARY KEY,
    trial_id INTEGER REFERENCES trials (trial_id), \"key\" VARCHAR(512), value_json TEXT, UNIQUE (trial_id, \"key\"));
CREATE TABLE trial_system_attributes (trial_system_attribute_id INTEGER NOT NULL PRIMARY KEY,
    trial_id INTEGER REFERENCES trials (trial_id), \"key\" VARCHAR(512), value_json TEXT, UNIQUE (trial_id, \"key\"));
CREATE TABLE trial_params (param_id INTEGER NOT NULL PRIMARY KEY, trial_id INTEGER REFERENCES trials (trial_id),
    param_name VARCHAR(512), param_value FLOAT, distribution_json TEXT, UNIQUE (trial_id, param_name));
CREATE TABLE trial_values (trial_value_id INTEGER NOT NULL PRIMARY KEY,
    trial_id INTEGER NOT NULL REFERENCES trials (trial_id), objective INTEGER NOT NULL, value FLOAT,
    value_type VARCHAR(7) NOT NULL, UNIQUE (trial_id, objective));
CREATE TABLE trial_intermediate_values (trial_intermediate_value_id INTEGER NOT NULL PRIMARY KEY,
    trial_id INTEGER NOT NULL REFERENCES trials (trial_id), step INTEGER NOT NULL, intermediate_value FLOAT,
    intermediate_value_type VARCHAR(7) NOT NULL, UNIQUE (trial_id, step));
CREATE TABLE trial_heartbeats (trial_heartbeat_id INTEGER NOT NULL PRIMARY KEY,
    trial_id INTEGER NOT NULL UNIQUE REFERENCES trials (trial_id), heartbeat DATETIME NOT NULL);
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('v3.2.0.a');
INSERT INTO version_info VALUES (1, 12, '3.2.0');
";

/// Writes the study into a new SQLite file.
pub(crate) fn write(export: &Export, file: &Path) -> Result<(), rusqlite::Error> {
    let mut connection = Connection::open(file)?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    let objective = export.objective();
    transaction.execute(
        "INSERT INTO studies VALUES (1, ?1)",
        params![format!("{}-{}", export.sweep.name, export.sweep.id)],
    )?;
    transaction.execute(
        "INSERT INTO study_directions VALUES (1, ?1, 1, 0)",
        params![objective.goal.to_uppercase()],
    )?;
    let facts = [("metric", &objective.metric), ("at", &objective.at), ("sweep", &export.sweep.id)];
    for (name, value) in facts {
        transaction.execute(
            "INSERT INTO study_user_attributes (study_id, \"key\", value_json) VALUES (1, ?1, ?2)",
            params![name, json!(value).to_string()],
        )?;
    }
    let distributions = distributions(&export.trials);
    for (number, exported) in (0i64..).zip(&export.trials) {
        let trial = exported.reply.trial.clone().unwrap_or_default();
        write_trial(&transaction, number, &trial)?;
        write_parameters(&transaction, number + 1, exported, &distributions)?;
        let points = exported.reply.points.iter().filter(|point| point.name == objective.metric);
        for point in points {
            let is_finite = point.value.is_finite();
            transaction.execute(
                "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
                 VALUES (?1, ?2, ?3, ?4)",
                params![
                    number + 1,
                    point.epoch,
                    is_finite.then_some(point.value),
                    if is_finite { "FINITE" } else { "NAN" }
                ],
            )?;
        }
    }
    transaction.commit()
}

fn write_trial(connection: &Connection, number: i64, trial: &Trial) -> Result<(), rusqlite::Error> {
    let moment = |at: Option<&prost_types::Timestamp>| {
        let text = format::moment(at).replace('T', " ").replace('Z', ".000000");
        Some(text).filter(|text| !text.is_empty())
    };
    connection.execute(
        "INSERT INTO trials VALUES (?1, ?2, 1, ?3, ?4, ?5)",
        params![
            number + 1,
            number,
            state(trial),
            moment(trial.started.as_ref()),
            moment(trial.ended.as_ref())
        ],
    )?;
    if let Some(score) = trial.objective.filter(|_| state(trial) == "COMPLETE") {
        connection.execute(
            "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?1, 0, ?2, 'FINITE')",
            params![number + 1, score],
        )?;
    }
    let mut attributes = BTreeMap::from([
        ("trial", json!(trial.id)),
        ("seed", json!(trial.seed)),
        ("config_hash", json!(trial.config_hash)),
    ]);
    let texts = [("stage", &trial.stage), ("block", &trial.block), ("message", &trial.message)];
    attributes
        .extend(texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(k, text)| (k, json!(text))));
    let metrics = trial.metrics.iter().map(|(name, value)| (name.as_str(), json!(value)));
    for (name, value) in attributes.into_iter().chain(metrics) {
        connection.execute(
            "INSERT INTO trial_user_attributes (trial_id, \"key\", value_json) VALUES (?1, ?2, ?3)",
            params![number + 1, name, value.to_string()],
        )?;
    }
    Ok(())
}

/// A trial's state in Optuna's words.
fn state(trial: &Trial) -> &'static str {
    match trial.state() {
        TrialState::Succeeded if trial.objective.is_some() => "COMPLETE",
        TrialState::Stopped => "PRUNED",
        TrialState::Running => "RUNNING",
        TrialState::Waiting | TrialState::Queued | TrialState::Unspecified => "WAITING",
        TrialState::Succeeded | TrialState::Failed | TrialState::Cancelled => "FAIL",
    }
}

fn write_parameters(
    connection: &Connection,
    trial: i64,
    exported: &Exported,
    distributions: &BTreeMap<String, Distribution>,
) -> Result<(), rusqlite::Error> {
    for (name, value) in &exported.settings {
        let Some(distribution) = distributions.get(name) else { continue };
        let Some(number) = distribution.internal(value) else { continue };
        connection.execute(
            "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?1, ?2, ?3, ?4)",
            params![trial, name, number, distribution.json().to_string()],
        )?;
    }
    Ok(())
}

/// Where an axis's values come from, in Optuna's words.
#[derive(Debug, PartialEq)]
enum Distribution {
    Int { low: f64, high: f64 },
    Float { low: f64, high: f64, log: bool },
    Categorical(Vec<Value>),
}

fn distributions(trials: &[Exported]) -> BTreeMap<String, Distribution> {
    let mut values: BTreeMap<&String, Vec<Value>> = BTreeMap::new();
    for (name, value) in trials.iter().flat_map(|exported| &exported.settings) {
        let known = values.entry(name).or_default();
        if !known.contains(value) {
            known.push(value.clone());
        }
    }
    values.into_iter().map(|(name, values)| (name.clone(), Distribution::over(values))).collect()
}

impl Distribution {
    fn over(values: Vec<Value>) -> Self {
        let numbers: Option<Vec<f64>> = values.iter().map(Value::as_f64).collect();
        match numbers {
            Some(numbers) => {
                let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
                let high = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                if values.iter().all(Value::is_i64) {
                    Self::Int { low, high }
                } else {
                    Self::Float { low, high, log: low > 0.0 && high / low >= 100.0 }
                }
            }
            None => Self::Categorical(values.iter().map(choice).collect()),
        }
    }

    /// The number that stands for a value: itself, or its place among the choices.
    fn internal(&self, value: &Value) -> Option<f64> {
        match self {
            Self::Int { .. } | Self::Float { .. } => value.as_f64(),
            Self::Categorical(choices) => {
                choices.iter().position(|known| *known == choice(value)).map(|at| at as f64)
            }
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Int { low, high } => json!({
                "name": "IntDistribution",
                "attributes": {"log": false, "step": 1, "low": *low as i64, "high": *high as i64},
            }),
            Self::Float { low, high, log } => json!({
                "name": "FloatDistribution",
                "attributes": {"step": null, "low": low, "high": high, "log": log},
            }),
            Self::Categorical(choices) => {
                json!({"name": "CategoricalDistribution", "attributes": {"choices": choices}})
            }
        }
    }
}

/// Optuna's choices are scalars: maps and lists are their JSON.
fn choice(value: &Value) -> Value {
    match value {
        Value::Array(_) | Value::Object(_) => value.to_string().into(),
        scalar => scalar.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::example::export;

    #[test]
    fn a_study_has_states_values_parameters_and_curves() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("study.db");
        write(&export(), &file).expect("written");
        let connection = Connection::open(&file).expect("opened");
        let lines = |sql: &str| {
            let mut statement = connection.prepare(sql).expect("a query");
            let rows = statement.query_map([], |row| row.get::<_, String>(0)).expect("rows");
            rows.collect::<Result<Vec<_>, _>>().expect("texts").join("\n")
        };
        insta::assert_snapshot!([
            lines("SELECT study_name || ' ' || direction FROM studies JOIN study_directions USING (study_id)"),
            lines("SELECT number || ' ' || state || ' ' || datetime_start || ' ' || coalesce(datetime_complete, '') FROM trials"),
            lines("SELECT trial_id || ' ' || value FROM trial_values"),
            lines("SELECT trial_id || ' ' || param_name || ' ' || param_value || ' ' || distribution_json FROM trial_params"),
            lines("SELECT trial_id || ' ' || step || ' ' || coalesce(intermediate_value, '') || ' ' || intermediate_value_type FROM trial_intermediate_values"),
            lines("SELECT trial_id || ' ' || \"key\" || ' ' || value_json FROM trial_user_attributes WHERE trial_id = 1 ORDER BY 1"),
        ].join("\n\n"));
    }
}
