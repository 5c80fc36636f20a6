//! Results for programs: JSON records and CSV, every setting and metric, columns in a stable order. Pure.

use std::collections::{BTreeMap, BTreeSet};

use proto::v1::Statistic;
use serde::Serialize;

use super::{Results, Row};
use crate::format::{self, Settings};
use crate::output::{Column, Grid};

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
    objective: Objective,
    metrics: BTreeMap<String, Summary>,
}

#[derive(Debug, Serialize)]
struct Objective {
    metric: String,
    mean: Option<f64>,
    std: Option<f64>,
    n: u32,
}

#[derive(Debug, Serialize)]
struct Summary {
    mean: Option<f64>,
    std: Option<f64>,
    n: u32,
}

impl From<&Statistic> for Summary {
    fn from(value: &Statistic) -> Self {
        let known = value.n > 0;
        Self { mean: known.then_some(value.mean), std: known.then_some(value.std), n: value.n }
    }
}

/// One record per configuration.
pub(crate) fn records(results: &Results) -> Vec<Record> {
    results.rows.iter().map(|row| record(results, row)).collect()
}

/// The record of one configuration.
pub(crate) fn record(results: &Results, row: &Row) -> Record {
    let configuration = &row.configuration;
    let Summary { mean, std, n } = Summary::from(&row.objective());
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
        objective: Objective { metric: results.objective.metric.clone(), mean, std, n },
        metrics: configuration.metrics.iter().map(|(name, value)| (name.clone(), value.into())).collect(),
    }
}

/// One line per configuration: numbers in full precision, nothing left out.
pub(crate) fn csv(results: &Results) -> Grid {
    let metrics: BTreeSet<&String> =
        results.rows.iter().flat_map(|row| row.configuration.metrics.keys()).collect();
    let objective = &results.objective.metric;
    let mut names: Vec<String> = ["number", "stage", "block", "config_hash"].map(str::to_owned).to_vec();
    names.extend(results.axes.iter().cloned());
    names.extend(["n", "trials", "diverged", "failed"].map(str::to_owned));
    names.extend(["mean", "std"].map(|part| format!("objective({objective}).{part}")));
    for metric in &metrics {
        names.extend(["mean", "std", "n"].map(|part| format!("{metric}.{part}")));
    }
    let line = |row: &Row| {
        let configuration = &row.configuration;
        let mut cells = vec![
            configuration.number.to_string(),
            configuration.stage.clone(),
            configuration.block.clone(),
            configuration.config_hash.clone(),
        ];
        let setting = |axis: &String| row.settings.get(axis).map(format::setting).unwrap_or_default();
        cells.extend(results.axes.iter().map(setting));
        let counts =
            [configuration.succeeded, configuration.trials, configuration.diverged, configuration.failed];
        cells.extend(counts.map(|count| count.to_string()));
        cells.extend(parts(&row.objective()).into_iter().take(2));
        for metric in &metrics {
            cells.extend(parts(&configuration.metrics.get(*metric).copied().unwrap_or_default()));
        }
        cells
    };
    Grid {
        rows: results.rows.iter().map(line).collect(),
        columns: names.into_iter().map(Column::text).collect(),
    }
}

/// Mean, standard deviation and n; empty where nothing was measured.
fn parts(value: &Statistic) -> [String; 3] {
    let number = |number: f64| if value.n > 0 { number.to_string() } else { String::new() };
    [number(value.mean), number(value.std), value.n.to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::example::mixed;

    #[test]
    fn json_has_every_setting_and_metric() {
        let mut results = mixed();
        results.rows.drain(3..);
        results.rows.remove(0);
        insta::assert_snapshot!(serde_json::to_string_pretty(&records(&results)).expect("json"));
    }

    #[test]
    fn csv_columns_do_not_depend_on_what_varies() {
        let results = mixed();
        let whole = csv(&results).to_csv();
        insta::assert_snapshot!(whole);
        let mut fewer = results;
        fewer.rows.truncate(1);
        assert_eq!(csv(&fewer).to_csv().lines().next(), whole.lines().next());
    }
}
