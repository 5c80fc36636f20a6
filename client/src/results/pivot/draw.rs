//! A table of cells, drawn for people and for programs.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{Cell, Head, Pivot};
use crate::format;
use crate::output::{Column, Frame, Grid, Values};

impl Head {
    fn text(&self) -> String {
        match self {
            Head::Values(values) => {
                let text = |value: &Option<Value>| value.as_ref().map_or("–".to_owned(), format::setting);
                values.iter().map(text).collect::<Vec<_>>().join(", ")
            }
            Head::Mean(mean) => mean.name.to_owned(),
        }
    }

    /// The values of the axes by name; none of a mean.
    fn values(&self, axes: &[String]) -> BTreeMap<String, Option<Value>> {
        match self {
            Head::Values(values) => axes.iter().cloned().zip(values.iter().cloned()).collect(),
            Head::Mean(_) => BTreeMap::new(),
        }
    }

    fn mean(&self) -> Option<&'static str> {
        match self {
            Head::Values(_) => None,
            Head::Mean(mean) => Some(mean.name),
        }
    }
}

/// A cell as `--output json` prints it.
#[derive(Debug, Serialize)]
struct Record<'a> {
    row: BTreeMap<String, Option<Value>>,
    col: BTreeMap<String, Option<Value>>,
    /// Name of the mean over tasks that this is; the configuration's own values otherwise.
    mean_of: Option<&'static str>,
    number: Option<u64>,
    config_hash: Option<&'a str>,
    mean: Option<f64>,
    std: Option<f64>,
    ci95: Option<f64>,
    n: u32,
    trials: u32,
    candidates: u32,
    selection: &'a str,
    published: Option<f64>,
    published_source: Option<&'a str>,
    difference: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    caption: &'a [String],
    metric: &'a str,
    rows: &'a [String],
    cols: &'a [String],
    cells: Vec<Record<'a>>,
}

impl Cell {
    fn difference(&self) -> Option<f64> {
        Some(self.summary?.mean - self.reference.as_ref()?.value)
    }
}

impl Pivot {
    /// For people: one line per row, one column per column, and published numbers beside or below.
    pub(crate) fn grid(&self) -> Grid {
        let corner = self.row_axes.join(", ");
        let mut columns = vec![Column::text(corner)];
        columns.extend(self.cols.iter().map(|col| match self.col_axes.as_slice() {
            [] => Column::number(&self.metric),
            _ => Column::number(col.text()),
        }));
        let is_narrow = self.cols.len() == 1;
        if self.is_compared && is_narrow {
            let names = ["published", "difference"].map(Column::number);
            columns.extend(names.into_iter().chain([Column::text("source")]));
        }
        let mut rows = Vec::new();
        for (row, cells) in self.rows.iter().zip(&self.cells) {
            let head = if self.row_axes.is_empty() { self.metric.clone() } else { row.text() };
            let mut line = vec![head];
            line.extend(cells.iter().map(|cell| self.shown(cell.as_ref())));
            if self.is_compared && is_narrow {
                let cell = cells.first().and_then(Option::as_ref);
                let source = cell.and_then(|cell| Some(cell.reference.as_ref()?.source.clone()));
                line.extend([self.published(cell), self.compared(cell), source.unwrap_or_default()]);
            }
            rows.push(line);
            if self.is_compared && !is_narrow {
                let named = |name: &str, text: fn(&Self, Option<&Cell>) -> String| {
                    let texts = cells.iter().map(|cell| text(self, cell.as_ref()));
                    std::iter::once(name.to_owned()).chain(texts).collect()
                };
                rows.push(named("  published", Self::published));
                rows.push(named("  difference", Self::compared));
            }
        }
        Grid { columns, rows }
    }

    fn shown(&self, cell: Option<&Cell>) -> String {
        let Some(cell) = cell else { return "–".to_owned() };
        let text = format::summary(&self.metric, cell.summary, self.spread);
        let is_short = cell.summary.is_some_and(|summary| summary.n < cell.trials);
        if is_short { format!("{text} *") } else { text }
    }

    fn published(&self, cell: Option<&Cell>) -> String {
        let reference = cell.and_then(|cell| cell.reference.as_ref());
        reference.map_or("–".to_owned(), |reference| format::metric(&self.metric, reference.value))
    }

    fn compared(&self, cell: Option<&Cell>) -> String {
        let difference = cell.and_then(Cell::difference);
        difference.map_or("–".to_owned(), |difference| format::difference(&self.metric, difference))
    }

    /// For programs: one record per cell that has a configuration.
    fn records(&self) -> Vec<Record<'_>> {
        let mut records = Vec::new();
        for (row, cells) in self.rows.iter().zip(&self.cells) {
            for (col, cell) in self.cols.iter().zip(cells) {
                records.extend(cell.as_ref().map(|cell| self.record(row, col, cell)));
            }
        }
        records
    }

    fn record<'a>(&'a self, row: &Head, col: &Head, cell: &'a Cell) -> Record<'a> {
        Record {
            row: row.values(&self.row_axes),
            col: col.values(&self.col_axes),
            mean_of: row.mean().or(col.mean()),
            number: cell.chosen.as_ref().map(|(number, _)| *number),
            config_hash: cell.chosen.as_ref().map(|(_, hash)| hash.as_str()),
            mean: cell.summary.map(|summary| summary.mean),
            std: cell.summary.and_then(|summary| summary.std),
            ci95: cell.summary.and_then(|summary| summary.ci95),
            n: cell.summary.map_or(0, |summary| summary.n),
            trials: cell.trials,
            candidates: cell.candidates,
            selection: if cell.candidates > 1 { &self.selection } else { "single" },
            published: cell.reference.as_ref().map(|reference| reference.value),
            published_source: cell.reference.as_ref().map(|reference| reference.source.as_str()),
            difference: cell.difference(),
        }
    }

    /// As JSON.
    pub(crate) fn document(&self) -> impl Serialize + '_ {
        Document {
            caption: &self.caption,
            metric: &self.metric,
            rows: &self.row_axes,
            cols: &self.col_axes,
            cells: self.records(),
        }
    }

    /// One row per cell, as in [`Pivot::records`].
    pub(crate) fn frame(&self) -> Frame {
        let records = self.records();
        let mut frame = Frame::default();
        for (axes, is_row) in [(&self.row_axes, true), (&self.col_axes, false)] {
            for axis in axes {
                let side = |record: &Record<'_>| {
                    let values = if is_row { &record.row } else { &record.col };
                    values.get(axis).cloned().flatten()
                };
                frame.push(axis, Values::settings(records.iter().map(side).collect()));
            }
        }
        frame.push("mean_of", Values::text(records.iter().map(|record| record.mean_of.unwrap_or_default())));
        let number = |record: &Record<'_>| record.number.and_then(|number| i64::try_from(number).ok());
        frame.push("number", Values::Int(records.iter().map(number).collect()));
        frame.push("config_hash", Values::text(records.iter().map(|r| r.config_hash.unwrap_or_default())));
        frame.push("metric", Values::text(records.iter().map(|_| self.metric.as_str())));
        let float = |of: fn(&Record<'_>) -> Option<f64>| Values::Float(records.iter().map(of).collect());
        frame.push("mean", float(|record| record.mean));
        frame.push("std", float(|record| record.std));
        frame.push("ci95", float(|record| record.ci95));
        frame.push("n", Values::counts(records.iter().map(|record| record.n)));
        frame.push("trials", Values::counts(records.iter().map(|record| record.trials)));
        frame.push("candidates", Values::counts(records.iter().map(|record| record.candidates)));
        frame.push("selection", Values::text(records.iter().map(|record| record.selection)));
        if self.is_compared {
            frame.push("published", float(|record| record.published));
            let sources = records.iter().map(|record| record.published_source.unwrap_or_default());
            frame.push("published_source", Values::text(sources));
            frame.push("difference", float(|record| record.difference));
        }
        frame
    }
}
