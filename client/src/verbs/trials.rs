//! `sweep trials`, `sweep trial` and `sweep capture`.

use std::collections::BTreeMap;

use proto::v1::{GetRequest, GetTrialRequest, GetTrialResponse, Point, Trial, TrialState};

use crate::cli::{Format, TrialArgs, TrialsArgs};
use crate::connection::Connection;
use crate::error::CliError;
use crate::format::{self, Settings};
use crate::output;
use crate::output::{Column, Grid};
use crate::records::{TrialDetail, TrialRecord, trial_file};

pub(crate) async fn list(
    mut connection: Connection,
    args: TrialsArgs,
    format: Format,
) -> Result<(), CliError> {
    let reply = connection.client.get(GetRequest { sweep: args.sweep }).await;
    let sweep = reply.map_err(|status| connection.explain(&status))?.into_inner().sweep.unwrap_or_default();
    let states: Vec<TrialState> = args.state.into_iter().map(TrialState::from).collect();
    let trials = connection.trials(&sweep.id, &states, 0).await?;
    let objective = sweep.objective.unwrap_or_default().metric;
    match format {
        Format::Json => {
            let records: Result<Vec<TrialRecord>, CliError> =
                trials.into_iter().map(TrialRecord::try_from).collect();
            output::print_json(&records?)
        }
        Format::Table => output::print(&grid(&trials, &objective)?.to_text()),
        Format::Csv => output::print(&csv(&trials, &objective, &sweep.axes)?.to_csv()),
    }
}

fn grid(trials: &[Trial], objective: &str) -> Result<Grid, CliError> {
    let columns = vec![
        Column::number("trial"),
        Column::text("state"),
        Column::number("attempt"),
        Column::number("epoch"),
        Column::number(objective),
        Column::text("worker"),
        Column::text("settings"),
    ];
    let mut rows = Vec::with_capacity(trials.len());
    for trial in trials {
        let score = trial.objective.map(|score| format::metric(objective, score));
        rows.push(vec![
            trial.id.to_string(),
            state(trial),
            trial.attempt.to_string(),
            format!("{}/{}", trial.epoch, trial.epochs),
            score.unwrap_or_else(|| "–".to_owned()),
            trial.worker.clone(),
            format!("{} seed={}", joined(&format::settings(&trial.settings_json)?), trial.seed),
        ]);
    }
    Ok(Grid { columns, rows })
}

/// `failed: cuda_oom`, or the state alone.
fn state(trial: &Trial) -> String {
    match (format::trial_state(trial.state()), format::failure(trial.failure())) {
        (state @ "failed", class) if !class.is_empty() => format!("{state}: {class}"),
        (state, _) => state.to_owned(),
    }
}

fn joined(settings: &Settings) -> String {
    let pairs = settings.iter().map(|(name, value)| format!("{name}={}", format::setting(value)));
    pairs.collect::<Vec<_>>().join(" ")
}

/// One line per trial, a column per axis and per metric.
fn csv(trials: &[Trial], objective: &str, axes: &[String]) -> Result<Grid, CliError> {
    let mut settings = Vec::with_capacity(trials.len());
    for trial in trials {
        settings.push(format::settings(&trial.settings_json)?);
    }
    let mut metrics: Vec<&String> = trials.iter().flat_map(|trial| trial.metrics.keys()).collect();
    metrics.sort();
    metrics.dedup();
    let fixed = ["trial", "stage", "block", "config_hash", "seed", "state", "failure", "attempt", "worker"];
    let mut names: Vec<String> = fixed.map(str::to_owned).to_vec();
    names.extend(axes.iter().cloned());
    names.push(format!("objective({objective})"));
    names.extend(metrics.iter().map(|name| (*name).clone()));
    let line = |(trial, settings): (&Trial, &Settings)| {
        let mut cells = vec![
            trial.id.to_string(),
            trial.stage.clone(),
            trial.block.clone(),
            trial.config_hash.clone(),
            trial.seed.to_string(),
            format::trial_state(trial.state()).to_owned(),
            format::failure(trial.failure()).to_owned(),
            trial.attempt.to_string(),
            trial.worker.clone(),
        ];
        cells.extend(axes.iter().map(|axis| settings.get(axis).map(format::setting).unwrap_or_default()));
        let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        cells.push(number(trial.objective));
        cells.extend(metrics.iter().map(|name| number(trial.metrics.get(*name).copied())));
        cells
    };
    let rows = trials.iter().zip(&settings).map(line).collect();
    Ok(Grid { columns: names.into_iter().map(Column::text).collect(), rows })
}

pub(crate) async fn show(
    mut connection: Connection,
    args: TrialArgs,
    format: Format,
) -> Result<(), CliError> {
    let reply = fetch(&mut connection, args.trial).await?;
    match format {
        Format::Json => output::print_json(&TrialDetail::try_from(reply)?),
        Format::Table | Format::Csv => output::print(&page(&reply, args.points)?),
    }
}

pub(crate) async fn capture(mut connection: Connection, trial: i64) -> Result<(), CliError> {
    output::print_json(&trial_file(&fetch(&mut connection, trial).await?)?)
}

async fn fetch(connection: &mut Connection, trial_id: i64) -> Result<GetTrialResponse, CliError> {
    let reply = connection.client.get_trial(GetTrialRequest { trial_id }).await;
    Ok(reply.map_err(|status| connection.explain(&status))?.into_inner())
}

/// A trial as a page: what it is, its metrics, its attempts.
fn page(reply: &GetTrialResponse, with_points: bool) -> Result<String, CliError> {
    let trial = reply.trial.clone().unwrap_or_default();
    let facts = [
        ("trial", trial.id.to_string()),
        ("sweep", trial.sweep_id.clone()),
        ("stage", trial.stage.clone()),
        ("block", trial.block.clone()),
        ("state", state(&trial)),
        ("message", trial.message.clone()),
        ("settings", joined(&format::settings(&trial.settings_json)?)),
        ("seed", trial.seed.to_string()),
        ("config", trial.config_hash.clone()),
        ("epoch", format!("{}/{}", trial.epoch, trial.epochs)),
        ("artifact", reply.artifact.clone()),
        ("continues", reply.checkpoint.clone()),
    ];
    let mut text = String::new();
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("{name:<10}{value}\n"));
    }
    let metrics: BTreeMap<&String, &f64> = trial.metrics.iter().collect();
    if !metrics.is_empty() {
        text.push_str("\nmetrics\n");
        for (name, value) in metrics {
            text.push_str(&format!("  {name:<24}{:>10}\n", format::metric(name, *value)));
        }
    }
    if !reply.attempts.is_empty() {
        text.push('\n');
        text.push_str(&attempts(reply).to_text());
    }
    if !reply.orphans.is_empty() {
        text.push_str("\nresults that came too late, and count nowhere\n");
        text.push_str(&orphans(reply).to_text());
    }
    if with_points && !reply.points.is_empty() {
        text.push('\n');
        text.push_str(&points(&reply.points).to_text());
    }
    Ok(text)
}

fn attempts(reply: &GetTrialResponse) -> Grid {
    let columns = vec![
        Column::number("attempt"),
        Column::text("worker"),
        Column::text("started"),
        Column::text("ended"),
        Column::text("end"),
        Column::text("why"),
    ];
    let line = |attempt: &proto::v1::Attempt| {
        let class = format::failure(attempt.failure());
        let why = [class, &attempt.message].into_iter().filter(|part| !part.is_empty());
        vec![
            attempt.number.to_string(),
            attempt.worker.clone(),
            format::moment(attempt.started.as_ref()),
            format::moment(attempt.ended.as_ref()),
            attempt.end.clone(),
            why.collect::<Vec<_>>().join(": "),
        ]
    };
    Grid { columns, rows: reply.attempts.iter().map(line).collect() }
}

fn orphans(reply: &GetTrialResponse) -> Grid {
    let columns = vec![
        Column::number("attempt"),
        Column::text("worker"),
        Column::text("at"),
        Column::text("refused"),
        Column::text("metrics"),
    ];
    let line = |orphan: &proto::v1::Orphan| {
        let metrics: BTreeMap<&String, &f64> = orphan.metrics.iter().collect();
        let metrics =
            metrics.into_iter().map(|(name, value)| format!("{name}={}", format::metric(name, *value)));
        vec![
            orphan.attempt.to_string(),
            orphan.worker.clone(),
            format::moment(orphan.at.as_ref()),
            orphan.reason.clone(),
            metrics.collect::<Vec<_>>().join(" "),
        ]
    };
    Grid { columns, rows: reply.orphans.iter().map(line).collect() }
}

/// Metrics by epoch: one row an epoch, one column a metric.
fn points(points: &[Point]) -> Grid {
    let mut epochs: BTreeMap<u32, BTreeMap<&str, f64>> = BTreeMap::new();
    for point in points {
        epochs.entry(point.epoch).or_default().insert(&point.name, point.value);
    }
    let mut names: Vec<&str> = points.iter().map(|point| point.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let columns = std::iter::once("epoch").chain(names.iter().copied()).map(Column::number).collect();
    let line = |(epoch, values): (&u32, &BTreeMap<&str, f64>)| {
        let cell =
            |name: &&str| values.get(name).map_or("–".to_owned(), |value| format::metric(name, *value));
        std::iter::once(epoch.to_string()).chain(names.iter().map(cell)).collect()
    };
    Grid { columns, rows: epochs.iter().map(line).collect() }
}

#[cfg(test)]
mod tests {
    use proto::v1::{Attempt, FailureClass};

    use super::*;

    fn trial() -> Trial {
        Trial {
            id: 17,
            sweep_id: "3f2a9c01".into(),
            block: "deep".into(),
            config_hash: "ab".repeat(32),
            seed: 1,
            settings_json: r#"{"lr":0.5,"method":"vpt_deep","task":"elpv/type"}"#.into(),
            state: TrialState::Succeeded as i32,
            attempt: 2,
            worker: "gpu-03".into(),
            objective: Some(87.25),
            metrics: [("val/top1".to_owned(), 87.25), ("train/loss".to_owned(), 0.4321)].into(),
            epoch: 2,
            epochs: 2,
            ..Trial::default()
        }
    }

    fn failed() -> Trial {
        Trial {
            id: 18,
            state: TrialState::Failed as i32,
            failure: FailureClass::Diverged as i32,
            objective: None,
            metrics: Default::default(),
            ..trial()
        }
    }

    #[test]
    fn trials_as_a_table() {
        insta::assert_snapshot!(grid(&[trial(), failed()], "val/top1").expect("valid").to_text());
    }

    #[test]
    fn trials_as_csv() {
        let axes = ["task".to_owned(), "lr".to_owned()];
        insta::assert_snapshot!(csv(&[trial(), failed()], "val/top1", &axes).expect("valid").to_csv());
    }

    #[test]
    fn a_trial_with_its_attempts_and_points() {
        let attempt = |number, end: &str, failure: FailureClass, message: &str| Attempt {
            number,
            worker: format!("gpu-0{number}"),
            started: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            ended: None,
            end: end.into(),
            failure: failure as i32,
            message: message.into(),
        };
        let point = |name: &str, epoch, value| Point { name: name.into(), epoch, value };
        let reply = GetTrialResponse {
            trial: Some(trial()),
            attempts: vec![
                attempt(1, "failed", FailureClass::CudaOom, "out of memory"),
                attempt(2, "succeeded", FailureClass::Unspecified, ""),
            ],
            points: vec![
                point("train/loss", 1, 0.9),
                point("train/loss", 2, 0.4321),
                point("val/top1", 2, 87.25),
            ],
            orphans: vec![proto::v1::Orphan {
                attempt: 1,
                worker: "gpu-01".into(),
                at: Some(prost_types::Timestamp { seconds: 1_700_000_100, nanos: 0 }),
                reason: "leased again as attempt 2".into(),
                metrics: [("val/top1".to_owned(), 86.5)].into(),
            }],
            recipe_json: "{}".into(),
            artifact: "file:///data/artifacts/3f2a9c01/17/attempt-2.safetensors".into(),
            checkpoint: String::new(),
        };
        insta::assert_snapshot!(page(&reply, true).expect("valid"));
    }
}
