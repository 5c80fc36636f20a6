//! Results spread over rows and columns: `--rows method --cols task`. Each cell is the best of its configurations by the
//! objective, and says how it was chosen; a table over the tasks of a benchmark ends in its means. Pure.

mod draw;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde_json::Value;

use super::groups::{self, Mean};
use super::published::{Published, Reference};
use super::statistics::Summary;
use super::{Results, Row};
use crate::error::CliError;
use crate::format::{self, Spread};

/// The axes to spread; none makes a single row or column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axes<'a> {
    pub(crate) rows: &'a [String],
    pub(crate) cols: &'a [String],
}

/// Values of the axes of a row or a column.
type Key = Vec<Option<Value>>;

/// What stands at a row or a column.
#[derive(Debug, Clone, PartialEq)]
enum Head {
    Values(Key),
    /// A mean over the tasks that are the other heads.
    Mean(Mean),
}

/// The best configuration of a place, or a mean of such cells.
#[derive(Debug, Clone, PartialEq)]
struct Cell {
    /// Number and hash of the configuration; none of a mean.
    chosen: Option<(u64, String)>,
    method: Option<String>,
    summary: Option<Summary>,
    trials: u32,
    /// Configurations with a result among which it was chosen.
    candidates: u32,
    reference: Option<Reference>,
}

/// A table of cells.
#[derive(Debug)]
pub(crate) struct Pivot {
    pub(crate) caption: Vec<String>,
    metric: String,
    spread: Spread,
    /// How a cell's configuration was chosen where there were several.
    selection: String,
    row_axes: Vec<String>,
    col_axes: Vec<String>,
    rows: Vec<Head>,
    cols: Vec<Head>,
    /// By row, then by column.
    cells: Vec<Vec<Option<Cell>>>,
    is_compared: bool,
}

/// Spreads the results over axes and shows `metric` of the best configuration at each place.
pub(crate) fn pivot(
    results: &Results,
    axes: Axes<'_>,
    metric: &str,
    spread: Spread,
    published: Option<&Published>,
) -> Result<Pivot, CliError> {
    let (rows, cols) = (keys(results, axes.rows), keys(results, axes.cols));
    let mut groups: HashMap<(Key, Key), Vec<&Row>> = HashMap::new();
    for row in &results.rows {
        groups.entry((key(row, axes.rows), key(row, axes.cols))).or_default().push(row);
    }
    let cell = |row: &Key, col: &Key| match groups.get(&(row.clone(), col.clone())) {
        Some(group) => cell(results, group, metric, published),
        None => Ok(None),
    };
    let line = |row: &Key| cols.iter().map(|col| cell(row, col)).collect::<Result<Vec<_>, CliError>>();
    let cells = rows.iter().map(line).collect::<Result<Vec<_>, CliError>>()?;
    let mut pivot = Pivot {
        caption: Vec::new(),
        metric: metric.to_owned(),
        spread,
        selection: results.selection(),
        row_axes: axes.rows.to_vec(),
        col_axes: axes.cols.to_vec(),
        rows: rows.into_iter().map(Head::Values).collect(),
        cols: cols.into_iter().map(Head::Values).collect(),
        cells,
        is_compared: published.is_some(),
    };
    pivot.add_means(published)?;
    pivot.caption = pivot.describe(results);
    Ok(pivot)
}

/// The best of some configurations, as a cell.
fn cell(
    results: &Results,
    group: &[&Row],
    metric: &str,
    published: Option<&Published>,
) -> Result<Option<Cell>, CliError> {
    let Some(best) = results.best(group.iter().copied()) else { return Ok(None) };
    let text = |name| best.value(name).as_ref().map(format::setting);
    let reference = match (published, text("method"), text("task")) {
        (Some(published), Some(method), Some(task)) => published.find(metric, &method, &task)?.cloned(),
        _ => None,
    };
    Ok(Some(Cell {
        chosen: Some((best.configuration.number, best.configuration.config_hash.clone())),
        method: text("method"),
        summary: best.summary(metric, &results.objective),
        trials: best.configuration.trials,
        candidates: group.iter().filter(|row| row.objective().n > 0 && !row.configuration.superseded).count()
            as u32,
        reference,
    }))
}

impl Pivot {
    /// Adds the means of a benchmark behind its tasks, where the tasks are all columns or all rows.
    fn add_means(&mut self, published: Option<&Published>) -> Result<(), CliError> {
        let is_task = |axes: &[String]| matches!(axes, [axis] if axis == "task");
        if is_task(&self.col_axes) {
            for mean in means(&self.cols) {
                for line in &mut self.cells {
                    let cell = average(&mean, line, &self.metric, &self.cols, published)?;
                    line.push(cell);
                }
                self.cols.push(Head::Mean(mean));
            }
        } else if is_task(&self.row_axes) {
            for mean in means(&self.rows) {
                let mut line = Vec::new();
                for col in 0..self.cols.len() {
                    let column: Vec<_> = self.cells.iter().map(|line| line[col].clone()).collect();
                    line.push(average(&mean, &column, &self.metric, &self.rows, published)?);
                }
                self.cells.push(line);
                self.rows.push(Head::Mean(mean));
            }
        }
        Ok(())
    }

    /// What the table shows and how each cell was chosen.
    fn describe(&self, results: &Results) -> Vec<String> {
        let shown = |axis: &String| self.row_axes.contains(axis) || self.col_axes.contains(axis);
        let chosen: Vec<String> = results.varying().into_iter().filter(|axis| !shown(axis)).collect();
        let mut first = format!("{}, {}", self.metric, self.spread.describe());
        if let [stage] = results.stages().as_slice()
            && !stage.is_empty()
        {
            first.push_str(&format!(", stage {stage}"));
        }
        let mut lines = vec![first];
        let cells = || self.cells.iter().flatten().flatten();
        if cells().any(|cell| cell.candidates > 1) {
            let objective = &results.objective;
            lines.push(format!(
                "each cell: the configuration ({}) with the {} {}, {} epoch [{}]",
                chosen.join(", "),
                if objective.goal == "minimize" { "lowest" } else { "highest" },
                objective.metric,
                objective.at,
                self.selection
            ));
        }
        if cells().any(|cell| cell.summary.is_some_and(|summary| summary.n < cell.trials)) {
            lines.push("* not every seed of the configuration has a result".to_owned());
        }
        lines.extend(results.notices());
        if self.is_compared {
            let mut sources: Vec<&str> =
                cells().filter_map(|cell| Some(cell.reference.as_ref()?.source.as_str())).collect();
            sources.sort_unstable();
            sources.dedup();
            lines.push(match sources.as_slice() {
                [] => "published: nothing of these methods on these tasks in this metric".to_owned(),
                sources => format!("published: {}", sources.join("; ")),
            });
        }
        lines
    }
}

/// The means for which the heads are complete.
fn means(heads: &[Head]) -> Vec<Mean> {
    let tasks = tasks(heads);
    groups::means(&tasks.iter().map(String::as_str).collect::<Vec<_>>())
}

fn tasks(heads: &[Head]) -> Vec<String> {
    let task = |head: &Head| match head {
        Head::Values(values) => values.first().and_then(Option::as_ref).map(format::setting),
        Head::Mean(_) => None,
    };
    heads.iter().map_while(|head| Some(task(head).unwrap_or_default())).collect()
}

/// The mean of the cells of the tasks, beside the published mean of their method.
fn average(
    mean: &Mean,
    cells: &[Option<Cell>],
    metric: &str,
    heads: &[Head],
    published: Option<&Published>,
) -> Result<Option<Cell>, CliError> {
    let summaries: Vec<Option<Summary>> = cells.iter().map(|cell| cell.as_ref()?.summary).collect();
    let Some(summary) = mean.of(&summaries) else { return Ok(None) };
    let parts = || mean.parts.iter().filter_map(|(index, _)| cells.get(*index)?.as_ref());
    let method = parts().next().and_then(|cell| cell.method.clone());
    let method = method.filter(|method| parts().all(|cell| cell.method.as_ref() == Some(method)));
    let reference = match (published, &method) {
        (Some(published), Some(method)) => {
            let tasks = tasks(heads);
            let tasks: Vec<&str> = tasks.iter().map(String::as_str).collect();
            published.mean(metric, method, mean, &tasks)?
        }
        _ => None,
    };
    let trials = parts().map(|cell| cell.trials).max().unwrap_or_default();
    Ok(Some(Cell { chosen: None, method, summary: Some(summary), trials, candidates: 1, reference }))
}

/// The values of a row on some axes.
fn key(row: &Row, axes: &[String]) -> Key {
    axes.iter().map(|axis| row.value(axis)).collect()
}

/// Values of the axes in the order of the file, missing ones last.
fn keys(results: &Results, axes: &[String]) -> Vec<Key> {
    let mut seen = std::collections::HashSet::new();
    let mut keys: Vec<Key> = results.rows.iter().map(|row| key(row, axes)).collect();
    keys.retain(|key| seen.insert(key.clone()));
    keys.sort_by_key(|key| key.iter().map(Option::is_none).collect::<Vec<_>>());
    keys
}
