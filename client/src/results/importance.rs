//! Which axes decide the score: PED-ANOVA (Watanabe, Bansal and Hutter, IJCAI 2023). Pure.
//!
//! The best configurations are compared with all: an axis whose values are distributed alike in both does not matter.
//! With p(b) the share of value b among all and q(b) among the best γ of them, the importance of an axis is the Pearson
//! divergence
//!
//! ```text
//! D = Σ_b (q(b) − p(b))² / p(b)
//! ```
//!
//! of which what chance alone gives, (k − 1)/n · (N − n)/(N − 1) for k values and n of N configurations, is taken off, and which
//! is shown as a share of the sum over the axes. Numbers with many values are put into ten bins of equal counts. Where tasks
//! differ, the best are taken within each task: a task that is easy would else be the most important parameter.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{Results, Row};
use crate::format;

/// Numbers with more values than this are binned.
const BINS: usize = 10;
/// Fewer of the best than this say nothing.
const FEWEST: usize = 2;

/// An axis and how much it matters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Importance {
    pub(crate) axis: String,
    /// Of the sum over the axes; all zero where nothing matters more than by chance.
    pub(crate) share: f64,
    /// The Pearson divergence beyond chance.
    pub(crate) divergence: f64,
    /// The value that is most frequent among the best, compared with all, and how many times more frequent.
    pub(crate) favours: String,
    pub(crate) lift: f64,
}

/// What was measured: how many configurations, and how many of them count as the best.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Importances {
    pub(crate) configurations: usize,
    pub(crate) best: usize,
    pub(crate) axes: Vec<Importance>,
}

/// The importance of every axis on which the configurations with a score differ, the largest first. The best share `top` is
/// taken within each value of `within`. None where there are too few configurations.
pub(crate) fn importances(results: &Results, within: &[String], top: f64) -> Option<Importances> {
    let mut groups: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    for row in results.rows.iter().filter(|row| row.objective().n > 0) {
        let key = within.iter().map(|axis| format!("{:?}|", row.value(axis))).collect();
        groups.entry(key).or_default().push(row);
    }
    let minimize = results.objective.goal == "minimize";
    let (mut all, mut best) = (Vec::new(), Vec::new());
    for mut rows in groups.into_values() {
        rows.sort_by(|a, b| {
            let by_score = a.objective().mean.total_cmp(&b.objective().mean);
            if minimize { by_score } else { by_score.reverse() }
        });
        let count = ((rows.len() as f64 * top).ceil() as usize).max(FEWEST);
        if count < rows.len() {
            best.extend(rows.iter().take(count).copied());
            all.extend(rows);
        }
    }
    if best.is_empty() {
        return None;
    }
    let axes = results.varying().into_iter().filter(|axis| !within.contains(axis));
    let mut axes: Vec<Importance> = axes.filter_map(|axis| importance(axis, &all, &best)).collect();
    let sum: f64 = axes.iter().map(|axis| axis.divergence).sum();
    for axis in &mut axes {
        axis.share = if sum > 0.0 { axis.divergence / sum } else { 0.0 };
    }
    axes.sort_by(|a, b| b.share.total_cmp(&a.share));
    Some(Importances { configurations: all.len(), best: best.len(), axes })
}

fn importance(axis: String, all: &[&Row], best: &[&Row]) -> Option<Importance> {
    let bin = binning(&axis, all);
    let count = |rows: &[&Row]| {
        let mut counts: BTreeMap<usize, f64> = BTreeMap::new();
        for row in rows {
            *counts.entry(bin.of(row.value(&axis).as_ref())).or_default() += 1.0;
        }
        counts
    };
    let (among_all, among_best) = (count(all), count(best));
    if among_all.len() < 2 {
        return None;
    }
    let (total, taken) = (all.len() as f64, best.len() as f64);
    let mut divergence = 0.0;
    let mut favoured = (0, 0.0);
    for (value, given) in &among_all {
        let p = given / total;
        let q = among_best.get(value).copied().unwrap_or(0.0) / taken;
        divergence += (q - p).powi(2) / p;
        if q / p > favoured.1 {
            favoured = (*value, q / p);
        }
    }
    let by_chance = (among_all.len() - 1) as f64 / taken * (total - taken) / (total - 1.0);
    Some(Importance {
        axis,
        share: 0.0,
        divergence: (divergence - by_chance).max(0.0),
        favours: bin.label(favoured.0),
        lift: favoured.1,
    })
}

/// The values of an axis as small numbers.
enum Binning {
    /// One bin per value.
    Values(Vec<Option<Value>>),
    /// Bins of equal counts by their upper ends, and their first and last number.
    Numbers(Vec<(f64, f64)>),
}

fn binning(axis: &str, rows: &[&Row]) -> Binning {
    let mut values: Vec<Option<Value>> = Vec::new();
    for row in rows {
        let value = row.value(axis);
        if !values.contains(&value) {
            values.push(value);
        }
        if values.len() > BINS && values.iter().all(|value| value.as_ref().is_some_and(Value::is_number)) {
            return numbers(axis, rows);
        }
    }
    Binning::Values(values)
}

fn numbers(axis: &str, rows: &[&Row]) -> Binning {
    let mut numbers: Vec<f64> = rows.iter().filter_map(|row| row.value(axis)?.as_f64()).collect();
    numbers.sort_by(f64::total_cmp);
    let mut bins: Vec<(f64, f64)> = Vec::new();
    for chunk in numbers.chunks(numbers.len().div_ceil(BINS)) {
        let (first, last) = (chunk[0], chunk[chunk.len() - 1]);
        match bins.last_mut() {
            // Equal numbers stay together.
            Some(before) if before.1 >= last => {}
            _ => bins.push((first, last)),
        }
    }
    Binning::Numbers(bins)
}

impl Binning {
    fn of(&self, value: Option<&Value>) -> usize {
        match self {
            Binning::Values(values) => {
                values.iter().position(|known| known.as_ref() == value).unwrap_or(values.len())
            }
            Binning::Numbers(bins) => {
                let number = value.and_then(Value::as_f64).unwrap_or(f64::NAN);
                bins.iter().position(|(_, last)| number <= *last).unwrap_or(bins.len())
            }
        }
    }

    fn label(&self, bin: usize) -> String {
        match self {
            Binning::Values(values) => {
                values.get(bin).and_then(Option::as_ref).map_or("–".to_owned(), format::setting)
            }
            Binning::Numbers(bins) => bins.get(bin).map_or("–".to_owned(), |(first, last)| {
                format!("{} … {}", format::metric("", *first), format::metric("", *last))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::example::{configuration, reply};

    /// A grid of 5 × 5 × 4 on two tasks, one 30 points easier: lr decides, wd a little, gate_init nothing.
    fn results() -> Results {
        let mut rows = Vec::new();
        for task in ["easy", "hard"] {
            for lr in 0..5 {
                for wd in 0..5 {
                    for gate in 0..4 {
                        let number = rows.len() as u64 + 1;
                        let settings =
                            format!(r#"{{"task":"{task}","lr":{lr},"wd":{wd},"gate_init":{gate}}}"#);
                        // Small, and without a pattern in the axes.
                        let noise = (number * 2_654_435_761 % 1_000) as f64 / 1_000.0;
                        let base = if task == "easy" { 90.0 } else { 60.0 };
                        let distance = f64::from((lr - 3i32).abs());
                        let mean = base - 10.0 * distance - 0.8 * f64::from(wd) + noise;
                        rows.push(configuration(number, &settings, mean));
                    }
                }
            }
        }
        Results::read(reply(rows)).expect("valid")
    }

    #[test]
    fn what_decides_the_score_comes_first() {
        let found = importances(&results(), &["task".to_owned()], 0.1).expect("enough");
        assert_eq!((found.configurations, found.best), (200, 20));
        let axes: Vec<&str> = found.axes.iter().map(|axis| axis.axis.as_str()).collect();
        assert_eq!(axes, ["lr", "wd", "gate_init"]);
        assert_eq!((found.axes[0].favours.as_str(), found.axes[0].lift), ("3", 5.0));
        assert_eq!(found.axes[1].favours, "0");
        let shares: Vec<f64> = found.axes.iter().map(|axis| axis.share).collect();
        assert!(shares[0] > 0.6 && shares[1] > 0.1 && shares[2] < 0.05, "{shares:?}");
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn an_easy_task_counts_only_where_it_is_not_held_fixed() {
        let found = importances(&results(), &[], 0.1).expect("enough");
        assert_eq!(found.axes[1].axis, "task");
        assert_eq!(found.axes[1].favours, "easy");
    }

    #[test]
    fn many_numbers_are_binned() {
        let row = |n: u64| configuration(n, &format!(r#"{{"lr":{}}}"#, n as f64 / 100.0), n as f64);
        let results = Results::read(reply((1..=100).map(row).collect())).expect("valid");
        let found = importances(&results, &[], 0.1).expect("enough");
        assert_eq!(found.axes[0].favours, "0.9100 … 1.000");
        assert_eq!(found.axes[0].lift, 10.0);
    }

    #[test]
    fn too_few_configurations_have_no_importance() {
        let rows = (1..=2).map(|n| configuration(n, r#"{"lr":1}"#, 1.0)).collect();
        assert_eq!(importances(&Results::read(reply(rows)).expect("valid"), &[], 0.1), None);
    }
}
