//! Results for programs: JSON records, CSV and Parquet, every setting and metric, columns in a stable order. Pure.
//!
//! `docs/results.md` describes the columns: add some, rename none.

use std::collections::BTreeMap;

use serde::Serialize;

use super::published::Reference;
use super::statistics::Summary;
use super::table::Compared;
use super::{Results, Row};
use crate::format::Settings;
use crate::output::{Frame, Values};

/// A configuration as `--output json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    number: u64,
    stage: String,
    block: Option<String>,
    config_hash: String,
    parameters: Settings,
    /// Trials with a result.
    n: u32,
    trials: u32,
    diverged: u32,
    failed: u32,
    /// Of those with a result, how many took over that of an earlier trial.
    reused: u32,
    /// Whether its stage has chosen again since, and not this one.
    superseded: bool,
    objective: Objective,
    metrics: BTreeMap<String, Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<Published>,
}

#[derive(Debug, Serialize)]
struct Objective {
    metric: String,
    mean: Option<f64>,
    std: Option<f64>,
    ci95: Option<f64>,
    n: u32,
}

#[derive(Debug, Serialize)]
struct Published {
    metric: String,
    #[serde(flatten)]
    reference: Reference,
    difference: Option<f64>,
}

/// One record per configuration.
pub(crate) fn records(results: &Results, compared: Option<&Compared>) -> Vec<Record> {
    let published = |at: usize, row: &Row| {
        let compared = compared?;
        let reference = compared.references.get(at)?.clone()?;
        let ours = row.summary(&compared.metric, &results.objective);
        let difference = ours.map(|ours| ours.mean - reference.value);
        Some(Published { metric: compared.metric.clone(), reference, difference })
    };
    let record = |(at, row)| Record { published: published(at, row), ..record(results, row) };
    results.rows.iter().enumerate().map(record).collect()
}

/// The record of one configuration.
pub(crate) fn record(results: &Results, row: &Row) -> Record {
    let configuration = &row.configuration;
    let score = Summary::of(&row.objective());
    let metrics = configuration.metrics.iter();
    Record {
        number: configuration.number,
        stage: configuration.stage.clone(),
        block: Some(configuration.block.clone()).filter(|block| !block.is_empty()),
        config_hash: configuration.config_hash.clone(),
        parameters: row.settings.clone(),
        n: configuration.succeeded,
        trials: configuration.trials,
        diverged: configuration.diverged,
        failed: configuration.failed,
        reused: configuration.reused,
        superseded: configuration.superseded,
        objective: Objective {
            metric: results.objective.metric.clone(),
            mean: score.map(|score| score.mean),
            std: score.and_then(|score| score.std),
            ci95: score.and_then(|score| score.ci95),
            n: score.map_or(0, |score| score.n),
        },
        metrics: metrics.filter_map(|(name, value)| Some((name.clone(), Summary::of(value)?))).collect(),
        published: None,
    }
}

/// One row per configuration: numbers in full precision, nothing left out.
pub(crate) fn frame(results: &Results, compared: Option<&Compared>) -> Frame {
    let rows = &results.rows;
    let configurations = || rows.iter().map(|row| &row.configuration);
    let mut frame = Frame::default();
    let number = |row: &Row| i64::try_from(row.configuration.number).ok();
    frame.push("number", Values::Int(rows.iter().map(number).collect()));
    frame.push("stage", Values::text(configurations().map(|row| row.stage.as_str())));
    frame.push("block", Values::text(configurations().map(|row| row.block.as_str())));
    frame.push("config_hash", Values::text(configurations().map(|row| row.config_hash.as_str())));
    for axis in &results.axes {
        let values = rows.iter().map(|row| row.settings.get(axis).cloned());
        frame.push(axis, Values::settings(values.collect()));
    }
    frame.push("n", Values::counts(configurations().map(|row| row.succeeded)));
    frame.push("trials", Values::counts(configurations().map(|row| row.trials)));
    frame.push("diverged", Values::counts(configurations().map(|row| row.diverged)));
    frame.push("failed", Values::counts(configurations().map(|row| row.failed)));
    frame.push("reused", Values::counts(configurations().map(|row| row.reused)));
    let superseded = configurations().map(|row| Some(serde_json::Value::from(row.superseded)));
    frame.push("superseded", Values::settings(superseded.collect()));
    let scores: Vec<_> = rows.iter().map(|row| Summary::of(&row.objective())).collect();
    push_summaries(&mut frame, &format!("objective({})", results.objective.metric), &scores);
    for metric in results.metrics() {
        let given = |row: &Row| row.configuration.metrics.get(&metric).and_then(Summary::of);
        let summaries: Vec<_> = rows.iter().map(given).collect();
        push_summaries(&mut frame, &metric, &summaries);
        frame.push(format!("{metric}.n"), Values::counts(summaries.iter().map(|s| s.map_or(0, |s| s.n))));
    }
    if let Some(compared) = compared {
        let references = || compared.references.iter().map(Option::as_ref);
        let values = references().map(|reference| reference.map(|reference| reference.value));
        frame.push(format!("published({})", compared.metric), Values::Float(values.collect()));
        let sources = references().map(|reference| reference.map_or("", |reference| &reference.source));
        frame.push("published_source", Values::text(sources));
        let difference = |(row, reference): (&Row, Option<&Reference>)| {
            Some(row.summary(&compared.metric, &results.objective)?.mean - reference?.value)
        };
        let differences = rows.iter().zip(references()).map(difference);
        frame.push("difference", Values::Float(differences.collect()));
    }
    frame
}

fn push_summaries(frame: &mut Frame, name: &str, summaries: &[Option<Summary>]) {
    let part = |of: fn(&Summary) -> Option<f64>| {
        Values::Float(summaries.iter().map(|summary| summary.as_ref().and_then(of)).collect())
    };
    frame.push(format!("{name}.mean"), part(|summary| Some(summary.mean)));
    frame.push(format!("{name}.std"), part(|summary| summary.std));
    frame.push(format!("{name}.ci95"), part(|summary| summary.ci95));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::example::mixed;

    fn csv(results: &Results, compared: Option<&Compared>) -> String {
        String::from_utf8(frame(results, compared).to_csv().expect("written")).expect("text")
    }

    #[test]
    fn json_has_every_setting_and_metric() {
        let mut results = mixed();
        results.rows.drain(3..);
        results.rows.remove(0);
        insta::assert_snapshot!(serde_json::to_string_pretty(&records(&results, None)).expect("json"));
    }

    #[test]
    fn csv_columns_do_not_depend_on_what_varies() {
        let results = mixed();
        let whole = csv(&results, None);
        insta::assert_snapshot!(whole);
        let mut fewer = results;
        fewer.rows.truncate(1);
        assert_eq!(csv(&fewer, None).lines().next(), whole.lines().next());
    }

    #[test]
    fn published_numbers_come_last() {
        let mut results = mixed();
        results.rows.truncate(2);
        let reference = Some(Reference { value: 66.0, source: "table 1".into() });
        let compared = Compared { metric: "test/top1".into(), references: vec![None, reference] };
        let text = csv(&results, Some(&compared));
        let ends: Vec<Vec<&str>> = text.lines().map(|line| line.rsplitn(4, ',').take(3).collect()).collect();
        assert_eq!(ends[0], ["difference", "published_source", "published(test/top1)"]);
        assert_eq!(ends[1], ["", "", ""]);
        assert_eq!(ends[2], ["0.5", "table 1", "66"]);
    }
}
