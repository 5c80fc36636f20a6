//! `sweep diff A B`: what two configurations or sweeps set differently, and whether that made a difference.
//!
//! Two configurations are compared over the seeds that both have results for, two sweeps over the pairs of
//! configuration (by its settings) and seed. Each metric is tested by a paired t-test.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use proto::v1::{GetRequest, Objective, Trial, TrialState};
use serde::Serialize;
use serde_json::Value;

use super::trials;
use crate::cli::{DiffArgs, Format};
use crate::connection::Connection;
use crate::error::CliError;
use crate::format::{self, Settings, Spread};
use crate::output::{self, Column, Grid};
use crate::results::statistics::{self, Summary};

/// A sweep, or one configuration of it: `SWEEP` or `SWEEP:NUMBER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Side {
    sweep: String,
    number: Option<u64>,
}

impl FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((sweep, number)) = text.rsplit_once(':') else {
            return Ok(Self { sweep: text.to_owned(), number: None });
        };
        match number.parse() {
            Ok(number) if number > 0 => Ok(Self { sweep: sweep.to_owned(), number: Some(number) }),
            _ => Err(format!(
                "`{number}` is no number of a configuration, as `sweep results {sweep}` shows them"
            )),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(f, "{}:{number}", self.sweep),
            None => f.write_str(&self.sweep),
        }
    }
}

/// What is compared: the trials of a side that have a result, by what pairs them.
#[derive(Debug, Default)]
struct Trials {
    objective: Objective,
    by_key: BTreeMap<Key, Trial>,
}

/// Stage and settings (empty where one configuration is compared with another), and the seed.
type Key = (String, String, i64);

pub(crate) async fn diff(mut connection: Connection, args: DiffArgs, format: Format) -> Result<(), CliError> {
    let (a, b) = (&args.a, &args.b);
    if a.number.is_some() != b.number.is_some() {
        let message = "compare two sweeps, or two configurations written SWEEP:NUMBER".to_owned();
        return Err(CliError::InvalidRequest { message });
    }
    let (first, second) = (trials_of(&mut connection, a).await?, trials_of(&mut connection, b).await?);
    let pairs: Vec<(&Trial, &Trial)> =
        first.by_key.iter().filter_map(|(key, trial)| Some((trial, second.by_key.get(key)?))).collect();
    let Some((one, other)) = pairs.first().copied() else {
        let shared = if a.number.is_some() { "seed" } else { "configuration and seed" };
        let message = format!("`{a}` and `{b}` have no {shared} with a result in common");
        return Err(CliError::NotFound { message });
    };
    let one = trials::fetch(&mut connection, one.id).await?.recipe_json;
    let other = trials::fetch(&mut connection, other.id).await?.recipe_json;
    let report = Report {
        a: a.to_string(),
        b: b.to_string(),
        recipe: recipe_differences(&format::settings(&one)?, &format::settings(&other)?),
        metrics: compare(&pairs, &first.objective, &second.objective),
    };
    match format {
        Format::Json => output::print_json(&report),
        _ => output::print(&report.page()),
    }
}

/// The trials of a side that have a result.
async fn trials_of(connection: &mut Connection, side: &Side) -> Result<Trials, CliError> {
    let reply = connection.client.get(GetRequest { sweep: side.sweep.clone() }).await;
    let sweep = reply.map_err(|status| connection.explain(&status))?.into_inner().sweep.unwrap_or_default();
    let mut trials = connection.trials(&sweep.id, &[TrialState::Succeeded], 0).await?;
    if let Some(number) = side.number {
        let configurations = connection.results(&sweep.id, &[]).await?.configurations;
        let count = configurations.len();
        let wanted = configurations.into_iter().find(|configuration| configuration.number == number);
        let wanted = wanted.ok_or_else(|| CliError::NotFound {
            message: format!("sweep `{}` has no configuration {number}: it has {count}", side.sweep),
        })?;
        trials.retain(|trial| trial.config_hash == wanted.config_hash && trial.stage == wanted.stage);
    }
    let key = |trial: &Trial| match side.number {
        Some(_) => (String::new(), String::new(), trial.seed),
        None => (trial.stage.clone(), trial.settings_json.clone(), trial.seed),
    };
    let by_key = trials.into_iter().map(|trial| (key(&trial), trial)).collect();
    Ok(Trials { objective: sweep.objective.unwrap_or_default(), by_key })
}

#[derive(Debug, Serialize)]
struct Report {
    a: String,
    b: String,
    /// Keys of the complete recipes that differ: of two sweeps, in their first pair.
    recipe: Vec<RecipeDifference>,
    metrics: Vec<MetricDifference>,
}

#[derive(Debug, PartialEq, Serialize)]
struct RecipeDifference {
    key: String,
    a: Option<Value>,
    b: Option<Value>,
}

#[derive(Debug, PartialEq, Serialize)]
struct MetricDifference {
    metric: String,
    a: f64,
    b: f64,
    /// b − a over the pairs.
    difference: Summary,
    /// Two-sided, of the paired t-test; none of a single pair.
    p: Option<f64>,
}

fn recipe_differences(a: &Settings, b: &Settings) -> Vec<RecipeDifference> {
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let difference =
        |key: &String| RecipeDifference { key: key.clone(), a: a.get(key).cloned(), b: b.get(key).cloned() };
    keys.into_iter().filter(|key| a.get(*key) != b.get(*key)).map(difference).collect()
}

/// Every metric that some pair has on both sides: the objective first, then in the order of the alphabet.
fn compare(pairs: &[(&Trial, &Trial)], first: &Objective, second: &Objective) -> Vec<MetricDifference> {
    let value = |trial: &Trial, objective: &Objective, metric: &String| {
        let score = trial.objective.filter(|_| *metric == objective.metric);
        score.or_else(|| trial.metrics.get(metric).copied()).filter(|value| value.is_finite())
    };
    let mut names: BTreeSet<&String> = pairs.iter().flat_map(|(a, _)| a.metrics.keys()).collect();
    names.remove(&first.metric);
    let mut rows = Vec::new();
    for metric in std::iter::once(&first.metric).chain(names) {
        let both = |(a, b): &(&Trial, &Trial)| Some((value(a, first, metric)?, value(b, second, metric)?));
        let values: Vec<(f64, f64)> = pairs.iter().filter_map(both).collect();
        let differences: Vec<f64> = values.iter().map(|(a, b)| b - a).collect();
        let Some(test) = statistics::paired(&differences) else { continue };
        let n = values.len() as f64;
        rows.push(MetricDifference {
            metric: metric.clone(),
            a: values.iter().map(|(a, _)| a).sum::<f64>() / n,
            b: values.iter().map(|(_, b)| b).sum::<f64>() / n,
            difference: test.difference,
            p: test.p,
        });
    }
    rows
}

impl Report {
    fn page(&self) -> String {
        let (a, b) = (&self.a, &self.b);
        let mut text = String::new();
        if self.recipe.is_empty() {
            text.push_str("the recipes are the same\n");
        } else {
            let cell = |value: &Option<Value>| value.as_ref().map_or("–".to_owned(), format::setting);
            let rows = self.recipe.iter().map(|row| vec![row.key.clone(), cell(&row.a), cell(&row.b)]);
            let columns = vec![Column::text("parameter"), Column::text(a), Column::text(b)];
            text.push_str(&Grid { columns, rows: rows.collect() }.to_text());
        }
        let number = Column::number;
        let grid = Grid {
            columns: vec![
                Column::text("metric"),
                number(a.clone()),
                number(b.clone()),
                number("difference ± 95 %".into()),
                number("p".into()),
                number("pairs".into()),
            ],
            rows: self.metrics.iter().map(MetricDifference::line).collect(),
        };
        text.push_str("\npaired t-test over what both share\n\n");
        text.push_str(&grid.to_text());
        text
    }
}

impl MetricDifference {
    fn line(&self) -> Vec<String> {
        let name = &self.metric;
        let sign = if self.difference.mean > 0.0 { "+" } else { "" };
        let p = match self.p {
            None => "–".to_owned(),
            Some(p) if p < 0.001 => "< 0.001".to_owned(),
            Some(p) => format!("{p:.3}"),
        };
        vec![
            name.clone(),
            format::metric(name, self.a),
            format::metric(name, self.b),
            format!("{sign}{}", format::summary(name, Some(self.difference), Spread::Ci)),
            p,
            self.difference.n.to_string(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(seed: i64, top1: f64, seconds: f64) -> Trial {
        let metrics = [("val/top1".to_owned(), top1 - 1.0), ("seconds/cpu".to_owned(), seconds)];
        Trial { seed, objective: Some(top1), metrics: metrics.into(), ..Trial::default() }
    }

    #[test]
    fn sides_are_sweeps_or_configurations() {
        assert_eq!("last".parse(), Ok(Side { sweep: "last".into(), number: None }));
        assert_eq!("3f2a:12".parse(), Ok(Side { sweep: "3f2a".into(), number: Some(12) }));
        for wrong in ["last:", "last:0", "last:x"] {
            assert!(wrong.parse::<Side>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn pairs_are_tested_metric_by_metric_the_objective_by_its_score() {
        let objective = Objective { metric: "val/top1".into(), ..Objective::default() };
        let a = [trial(0, 80.0, 10.0), trial(1, 82.0, 10.0), trial(2, 84.0, f64::NAN)];
        let b = [trial(0, 81.0, 10.0), trial(1, 83.5, 10.0), trial(2, 84.5, 9.0)];
        let pairs: Vec<(&Trial, &Trial)> = a.iter().zip(&b).collect();
        let metrics = compare(&pairs, &objective, &objective);
        let recipe = |text: &str| format::settings(text).expect("json");
        let report = Report {
            a: "last:1".into(),
            b: "last:2".into(),
            recipe: recipe_differences(
                &recipe(r#"{"lr":0.1,"method":"linear"}"#),
                &recipe(r#"{"lr":0.1,"method":"gated","gate_init":5}"#),
            ),
            metrics,
        };
        insta::assert_snapshot!(report.page());
    }
}
