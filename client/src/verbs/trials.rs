//! `sweep trials`, `sweep trial` and `sweep capture`.

use std::collections::{BTreeMap, BTreeSet};

use proto::v1::{GetRequest, GetTrialRequest, GetTrialResponse, Origin, Point, Sweep, Trial, TrialState};
use serde::Deserialize;
use serde_json::Value;

use crate::cli::{Format, TrialArgs, TrialsArgs};
use crate::connection::Connection;
use crate::error::CliError;
use crate::filter::{Filter, FilterError};
use crate::format::{self, Settings};
use crate::output::{self, Column, Frame, Grid, Values};
use crate::records::{TrialDetail, TrialRecord, trial_file};
use crate::results::published::parse_filter;

pub(crate) async fn list(
    mut connection: Connection,
    args: TrialsArgs,
    format: Format,
) -> Result<(), CliError> {
    let reply = connection.client.get(GetRequest { sweep: args.sweep }).await;
    let sweep = reply.map_err(|status| connection.explain(&status))?.into_inner().sweep.unwrap_or_default();
    let states: Vec<TrialState> = args.state.into_iter().map(TrialState::from).collect();
    let filter = args.filter.map(|text| parse_filter("--where", &text)).transpose()?;
    let mut trials = read(connection.trials(&sweep.id, &states, 0).await?)?;
    if let Some(filter) = filter {
        keep(&mut trials, &sweep, &filter)
            .map_err(|error| CliError::InvalidFilter { flag: "--where", error })?;
    }
    let objective = sweep.objective.unwrap_or_default().metric;
    match format {
        Format::Json => {
            let records = trials.into_iter().map(|(trial, _)| TrialRecord::try_from(trial));
            output::print_json(&records.collect::<Result<Vec<_>, CliError>>()?)
        }
        Format::Csv => output::print_csv(&frame(&trials, &objective, &sweep.axes)),
        Format::Parquet => output::print_parquet(&frame(&trials, &objective, &sweep.axes)),
        _ => output::print(&grid(&trials, &objective).to_text()),
    }
}

/// A trial and its settings.
type Read = (Trial, Settings);

fn read(trials: Vec<Trial>) -> Result<Vec<Read>, CliError> {
    trials
        .into_iter()
        .map(|trial| {
            let settings = format::settings(&trial.settings_json)?;
            Ok((trial, settings))
        })
        .collect()
}

/// Keeps the trials for which an expression holds.
fn keep(trials: &mut Vec<Read>, sweep: &Sweep, filter: &Filter) -> Result<(), FilterError> {
    const NAMES: [&str; 10] = [
        "trial",
        "stage",
        "block",
        "config_hash",
        "seed",
        "state",
        "failure",
        "attempt",
        "worker",
        "objective",
    ];
    let mut known: BTreeSet<&str> = NAMES.into_iter().chain(["epoch", "epochs"]).collect();
    known.extend(sweep.axes.iter().map(String::as_str));
    known.extend(trials.iter().flat_map(|(_, settings)| settings.keys()).map(String::as_str));
    known.extend(trials.iter().flat_map(|(trial, _)| trial.metrics.keys()).map(String::as_str));
    known.extend(sweep.report.iter().chain(sweep.objective.iter().map(|o| &o.metric)).map(String::as_str));
    let known: Vec<&str> = known.into_iter().collect();
    filter.check(&known, |name| match name {
        "state" => Some(STATES.map(format::trial_state).to_vec()),
        "failure" => Some(sweeps::FailureClass::ALL.map(sweeps::FailureClass::name).to_vec()),
        _ => None,
    })?;
    trials.retain(|(trial, settings)| filter.matches(|name| named(trial, settings, name)));
    Ok(())
}

const STATES: [TrialState; 7] = [
    TrialState::Waiting,
    TrialState::Queued,
    TrialState::Running,
    TrialState::Succeeded,
    TrialState::Stopped,
    TrialState::Failed,
    TrialState::Cancelled,
];

/// A value of a trial by its name in expressions.
fn named(trial: &Trial, settings: &Settings, name: &str) -> Option<Value> {
    let text = |text: &str| Some(Value::from(text)).filter(|_| !text.is_empty());
    match name {
        "trial" => Some(trial.id.into()),
        "stage" => text(&trial.stage),
        "block" => text(&trial.block),
        "config_hash" => text(&trial.config_hash),
        "seed" => Some(trial.seed.into()),
        "state" => text(format::trial_state(trial.state())),
        "failure" => text(format::failure(trial.failure())),
        "attempt" => Some(trial.attempt.into()),
        "worker" => text(&trial.worker),
        "objective" => trial.objective.map(Value::from),
        "epoch" => Some(trial.epoch.into()),
        // As an axis it says the same.
        "epochs" => Some(trial.epochs.into()),
        _ => settings.get(name).cloned().or_else(|| trial.metrics.get(name).map(|value| (*value).into())),
    }
}

fn grid(trials: &[Read], objective: &str) -> Grid {
    let columns = vec![
        Column::number("trial"),
        Column::text("state"),
        Column::number("attempt"),
        Column::number("epoch"),
        Column::number(objective),
        Column::text("worker"),
        Column::text("settings"),
    ];
    let line = |(trial, settings): &Read| {
        let score = trial.objective.map(|score| format::metric(objective, score));
        vec![
            trial.id.to_string(),
            state(trial),
            trial.attempt.to_string(),
            format!("{}/{}", trial.epoch, trial.epochs),
            score.unwrap_or_else(|| "–".to_owned()),
            trial.worker.clone(),
            format!("{} seed={}", joined(settings), trial.seed),
        ]
    };
    Grid { columns, rows: trials.iter().map(line).collect() }
}

/// `failed: cuda_oom`, `succeeded: by trial 12`, or the state alone.
fn state(trial: &Trial) -> String {
    match (format::trial_state(trial.state()), format::failure(trial.failure()), &trial.origin) {
        (state @ "failed", class, _) if !class.is_empty() => format!("{state}: {class}"),
        (state, _, Some(origin)) => format!("{state}: by trial {}", origin.trial_id),
        (state, _, None) => state.to_owned(),
    }
}

fn joined(settings: &Settings) -> String {
    let pairs = settings.iter().map(|(name, value)| format!("{name}={}", format::setting(value)));
    pairs.collect::<Vec<_>>().join(" ")
}

/// One row per trial, a column per axis and per metric.
fn frame(trials: &[Read], objective: &str, axes: &[String]) -> Frame {
    let of = || trials.iter().map(|(trial, _)| trial);
    let metrics: BTreeSet<&String> = of().flat_map(|trial| trial.metrics.keys()).collect();
    let mut frame = Frame::default();
    frame.push("trial", Values::Int(of().map(|trial| Some(trial.id)).collect()));
    frame.push("stage", Values::text(of().map(|trial| trial.stage.as_str())));
    frame.push("block", Values::text(of().map(|trial| trial.block.as_str())));
    frame.push("config_hash", Values::text(of().map(|trial| trial.config_hash.as_str())));
    frame.push("seed", Values::Int(of().map(|trial| Some(trial.seed)).collect()));
    frame.push("state", Values::text(of().map(|trial| format::trial_state(trial.state()))));
    frame.push("failure", Values::text(of().map(|trial| format::failure(trial.failure()))));
    frame.push("attempt", Values::counts(of().map(|trial| trial.attempt)));
    frame.push("worker", Values::text(of().map(|trial| trial.worker.as_str())));
    let origin = |trial: &Trial| trial.origin.as_ref().map(|origin| origin.trial_id);
    frame.push("origin", Values::Int(of().map(origin).collect()));
    for axis in axes {
        let values = trials.iter().map(|(_, settings)| settings.get(axis).cloned());
        frame.push(axis, Values::settings(values.collect()));
    }
    let scores = of().map(|trial| trial.objective);
    frame.push(format!("objective({objective})"), Values::Float(scores.collect()));
    for metric in metrics {
        frame.push(metric, Values::Float(of().map(|trial| trial.metrics.get(metric).copied()).collect()));
    }
    frame
}

pub(crate) async fn show(
    mut connection: Connection,
    args: TrialArgs,
    format: Format,
) -> Result<(), CliError> {
    let reply = fetch(&mut connection, args.trial).await?;
    match format {
        Format::Json => output::print_json(&TrialDetail::try_from(reply)?),
        _ => output::print(&page(&reply, args.points)?),
    }
}

pub(crate) async fn capture(mut connection: Connection, trial: i64) -> Result<(), CliError> {
    output::print_json(&trial_file(&fetch(&mut connection, trial).await?)?)
}

pub(super) async fn fetch(connection: &mut Connection, trial_id: i64) -> Result<GetTrialResponse, CliError> {
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
        ("origin", trial.origin.as_ref().map(origin).unwrap_or_default()),
        ("starts at", reply.start.clone()),
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
    if let Some(pruning) = pruning(reply)? {
        text.push_str("\nprompts that were pruned, and those that stay\n");
        text.push_str(&pruning.to_text());
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

fn origin(origin: &Origin) -> String {
    format!("taken over from trial {} of sweep {}", origin.trial_id, origin.sweep_id)
}

/// What a trial that prunes says of it (`Success.pruning_json` of the protocol).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pruning {
    first: usize,
    tokens: Vec<Vec<f64>>,
    kept: Vec<Vec<usize>>,
    segments: Vec<Vec<f64>>,
    kept_segments: Vec<Vec<usize>>,
}

/// One row for the tokens of each block, or of all, and one for the segments of each token.
fn pruning(reply: &GetTrialResponse) -> Result<Option<Grid>, CliError> {
    if reply.pruning_json.is_empty() {
        return Ok(None);
    }
    let pruning: Pruning = serde_json::from_str(&reply.pruning_json)
        .map_err(|source| CliError::BadReply { what: "what was pruned", source })?;
    let columns = [Column::text("of"), Column::text("stay"), Column::text("which"), Column::text("scores")];
    let listed = |items: Vec<String>| items.join(" ");
    let row = |of: String, (scores, kept): (&Vec<f64>, &Vec<usize>)| {
        vec![
            of,
            format!("{} of {}", kept.len(), scores.len()),
            listed(kept.iter().map(usize::to_string).collect()),
            listed(scores.iter().map(|score| format!("{score:.2e}")).collect()),
        ]
    };
    let is_shared = pruning.tokens.len() == 1;
    let tokens = pruning.tokens.iter().zip(&pruning.kept).enumerate().map(|(i, lists)| {
        let of = if is_shared { "all blocks".to_owned() } else { format!("block {}", pruning.first + i) };
        row(of, lists)
    });
    let segments = pruning.segments.iter().zip(&pruning.kept_segments).enumerate();
    let segments = segments.map(|(token, lists)| row(format!("segments of {token}"), lists));
    Ok(Some(Grid { columns: columns.into(), rows: tokens.chain(segments).collect() }))
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
        let trials = read(vec![trial(), failed()]).expect("valid");
        insta::assert_snapshot!(grid(&trials, "val/top1").to_text());
    }

    #[test]
    fn trials_as_csv() {
        let axes = ["task".to_owned(), "lr".to_owned()];
        let trials = read(vec![trial(), failed()]).expect("valid");
        let csv = frame(&trials, "val/top1", &axes).to_csv().expect("written");
        insta::assert_snapshot!(String::from_utf8(csv).expect("text"));
    }

    #[test]
    fn expressions_see_settings_states_and_metrics() {
        let sweep = Sweep { axes: vec!["lr".into(), "wd".into()], ..Sweep::default() };
        let kept = |text: &str| {
            let mut trials = read(vec![trial(), failed()]).expect("valid");
            keep(&mut trials, &sweep, &Filter::parse(text).expect("valid"))?;
            Ok::<_, FilterError>(trials.iter().map(|(trial, _)| trial.id).collect::<Vec<_>>())
        };
        assert_eq!(kept("task = elpv/type and state = failed and lr > 0.1").expect("known"), [18]);
        assert_eq!(kept("failure in (diverged, timeout) or val/top1 > 90").expect("known"), [18]);
        assert_eq!(
            kept("seed = 1 and worker = gpu-03 and wd = null and objective > 87").expect("known"),
            [17]
        );
        let error = kept("state = suceeded").expect_err("no state").to_string();
        assert!(error.contains("did you mean `succeeded`?"), "{error}");
        assert!(kept("gate_init = 5").is_err());
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
            start: String::new(),
            pruning_json: r#"{"first": 3, "tokens": [[0.5, 0.00012], [1, -2]], "kept": [[0], []],
                "segments": [[1, 2, 3]], "kept_segments": [[1, 2]]}"#
                .into(),
        };
        insta::assert_snapshot!(page(&reply, true).expect("valid"));
        let origin = Some(Origin { trial_id: 3, sweep_id: "9a1b".into() });
        let reused = GetTrialResponse { trial: Some(Trial { origin, ..trial() }), ..Default::default() };
        let text = page(&reused, false).expect("valid");
        assert!(text.contains("state     succeeded: by trial 3\n"), "{text}");
        assert!(text.contains("origin    taken over from trial 3 of sweep 9a1b\n"), "{text}");
    }
}
