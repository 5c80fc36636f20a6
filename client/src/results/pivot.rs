//! Results as a table of one axis against another. Axes that are neither are resolved by taking the best
//! configuration of each cell by the objective; the caption says so. Pure.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use super::{Results, Row};
use crate::format;
use crate::output::{Column, Grid};

/// The axes to spread; `None` makes a single row or column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread<'a> {
    pub(crate) rows: Option<&'a str>,
    pub(crate) cols: Option<&'a str>,
}

/// A cell for each value of the row axis and each of the column axis, in the order of the file.
#[derive(Debug, Serialize)]
pub(crate) struct Pivot {
    pub(crate) caption: Vec<String>,
    metric: String,
    row_axis: Option<String>,
    col_axis: Option<String>,
    #[serde(skip)]
    row_keys: Vec<Option<Value>>,
    #[serde(skip)]
    col_keys: Vec<Option<Value>>,
    cells: Vec<Cell>,
}

/// The best configuration of a cell.
#[derive(Debug, Serialize)]
struct Cell {
    row: Option<Value>,
    col: Option<Value>,
    /// Number of the configuration.
    number: u64,
    mean: Option<f64>,
    std: Option<f64>,
    n: u32,
    trials: u32,
}

impl Cell {
    fn text(&self, metric: &str) -> String {
        let (mean, std) = (self.mean.unwrap_or(f64::NAN), self.std.unwrap_or(f64::NAN));
        let text = format::statistic(metric, &proto::v1::Statistic { mean, std, n: self.n });
        if self.n < self.trials { format!("{text} *") } else { text }
    }
}

/// Spreads the results over two axes and shows `metric` of the best configuration in each cell.
pub(crate) fn pivot(results: &Results, spread: Spread<'_>, metric: &str) -> Pivot {
    let row_keys = keys(results, spread.rows);
    let col_keys = keys(results, spread.cols);
    let mut cells = Vec::new();
    for row_key in &row_keys {
        for col_key in &col_keys {
            let inside = results
                .rows
                .iter()
                .filter(|row| value(row, spread.rows) == *row_key && value(row, spread.cols) == *col_key);
            if let Some(best) = results.best(inside) {
                let shown = best.metric(metric, &results.objective);
                cells.push(Cell {
                    row: row_key.clone(),
                    col: col_key.clone(),
                    number: best.configuration.number,
                    mean: Some(shown.mean).filter(|_| shown.n > 0),
                    std: Some(shown.std).filter(|_| shown.n > 0),
                    n: shown.n,
                    trials: best.configuration.trials,
                });
            }
        }
    }
    let caption = caption(results, spread, metric, &cells);
    let (row_axis, col_axis) = (spread.rows.map(str::to_owned), spread.cols.map(str::to_owned));
    Pivot { caption, metric: metric.to_owned(), row_axis, col_axis, row_keys, col_keys, cells }
}

impl Pivot {
    /// One line per value of the row axis, one column per value of the column axis.
    pub(crate) fn grid(&self) -> Grid {
        let corner = self.row_axis.clone().unwrap_or_default();
        let mut columns = vec![Column::text(corner)];
        columns.extend(self.col_keys.iter().map(|key| match self.col_axis {
            Some(_) => Column::number(key_text(key)),
            None => Column::number(&self.metric),
        }));
        let line = |row_key: &Option<Value>| {
            let head = if self.row_axis.is_some() { key_text(row_key) } else { self.metric.clone() };
            let cells = self.col_keys.iter().map(|col_key| {
                let cell = self.cells.iter().find(|cell| cell.row == *row_key && cell.col == *col_key);
                cell.map_or_else(|| "–".to_owned(), |cell| cell.text(&self.metric))
            });
            std::iter::once(head).chain(cells).collect()
        };
        Grid { columns, rows: self.row_keys.iter().map(line).collect() }
    }
}

/// The value on an axis; one value for all where there is no axis.
fn value(row: &Row, axis: Option<&str>) -> Option<Value> {
    axis.and_then(|axis| row.value(axis))
}

fn key_text(key: &Option<Value>) -> String {
    key.as_ref().map_or_else(|| "–".to_owned(), format::setting)
}

/// Values of an axis in the order of the file, a missing one last.
fn keys(results: &Results, axis: Option<&str>) -> Vec<Option<Value>> {
    let mut seen = BTreeSet::new();
    let mut keys: Vec<Option<Value>> = Vec::new();
    for row in &results.rows {
        let key = value(row, axis);
        if seen.insert(key.as_ref().map(Value::to_string)) {
            keys.push(key);
        }
    }
    keys.sort_by_key(Option::is_none);
    keys
}

/// What the table shows and how each cell was chosen.
fn caption(results: &Results, spread: Spread<'_>, metric: &str, cells: &[Cell]) -> Vec<String> {
    let objective = &results.objective;
    let shown = |axis: &String| Some(axis.as_str()) == spread.rows || Some(axis.as_str()) == spread.cols;
    let chosen: Vec<String> = results.varying().into_iter().filter(|axis| !shown(axis)).collect();
    let stages = results.stages();
    let mut first = format!("{metric}, mean ± std over seeds");
    if let [stage] = stages.as_slice()
        && !stage.is_empty()
    {
        first.push_str(&format!(", stage {stage}"));
    }
    let mut lines = vec![first];
    if !chosen.is_empty() {
        let best = if objective.goal == "minimize" { "lowest" } else { "highest" };
        lines.push(format!(
            "each cell: the configuration ({}) with the {best} {}",
            chosen.join(", "),
            objective.metric
        ));
    }
    if cells.iter().any(|cell| cell.n < cell.trials) {
        lines.push("* not every seed of the configuration has a result".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::example::mixed;

    fn drawn(spread: Spread<'_>, metric: &str) -> String {
        let pivot = pivot(&mixed(), spread, metric);
        format!("{}\n{}", pivot.caption.join("\n"), pivot.grid().to_text())
    }

    #[test]
    fn methods_by_tasks() {
        let spread = Spread { rows: Some("method"), cols: Some("task") };
        insta::assert_snapshot!(drawn(spread, "test/top1"));
    }

    #[test]
    fn rows_alone_make_one_column_and_columns_alone_one_row() {
        let rows = Spread { rows: Some("method"), cols: None };
        let cols = Spread { rows: None, cols: Some("lr") };
        insta::assert_snapshot!(format!("{}\n{}", drawn(rows, "val/top1"), drawn(cols, "val/top1")));
    }

    #[test]
    fn a_cell_without_a_result_is_a_dash() {
        let mut results = mixed();
        results.rows.remove(3);
        let pivot = pivot(&results, Spread { rows: Some("method"), cols: Some("task") }, "val/top1");
        assert_eq!(pivot.grid().rows[0], ["linear", "71.50 ± 0.50", "–"]);
        assert_eq!(pivot.cells.len(), 3);
    }
}
