//! The plain results table: one row per configuration. Pure.

use super::published::{Published, Reference};
use super::{Results, Row};
use crate::error::CliError;
use crate::format::{self, Spread};
use crate::output::{Column, Grid};

/// What a table shows besides the axes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown<'a> {
    /// One metric instead of the objective's and those of `report`.
    pub(crate) metric: Option<&'a str>,
    pub(crate) spread: Spread,
    /// What was published of each row's method and task, in the metric that is compared.
    pub(crate) compared: Option<Compared>,
}

/// Published numbers beside the rows.
#[derive(Debug, Clone)]
pub(crate) struct Compared {
    pub(crate) metric: String,
    /// Of each row.
    pub(crate) references: Vec<Option<Reference>>,
}

impl Compared {
    /// What was published of each row's method and task.
    pub(crate) fn of(results: &Results, published: &Published, metric: &str) -> Result<Self, CliError> {
        let text = |row: &Row, name: &str| row.value(name).as_ref().map(format::setting).unwrap_or_default();
        let find = |row: &Row| Ok(published.find(metric, &text(row, "method"), &text(row, "task"))?.cloned());
        let references = results.rows.iter().map(find).collect::<Result<_, CliError>>()?;
        Ok(Self { metric: metric.to_owned(), references })
    }

    /// The published number, the difference of a row's mean from it, and the source.
    fn cells(&self, at: usize, results: &Results, row: &Row) -> [String; 3] {
        let dash = || "–".to_owned();
        let Some(Some(reference)) = self.references.get(at) else { return [dash(), dash(), String::new()] };
        let ours = row.summary(&self.metric, &results.objective);
        let difference = ours.map(|ours| format::difference(&self.metric, ours.mean - reference.value));
        let value = format::metric(&self.metric, reference.value);
        [value, difference.unwrap_or_else(dash), reference.source.clone()]
    }
}

/// One row per configuration: the axes on which they differ, the objective, the reported metrics (or `metric`
/// alone), how many of the seeds count, what became of the others, and what was published.
pub(crate) fn table(results: &Results, shown: &Shown<'_>) -> Grid {
    let axes = results.varying();
    let metrics = metrics(results, shown.metric);
    let has_losses = results.rows.iter().any(|row| !losses(row).is_empty());
    let mut columns = vec![Column::number("#")];
    columns.extend(axes.iter().map(|axis| axis_column(results, axis)));
    columns.extend(metrics.iter().map(Column::number));
    columns.push(Column::number("seeds"));
    if has_losses {
        columns.push(Column::text("lost"));
    }
    if let Some(compared) = &shown.compared {
        let published = Column::number(format!("published {}", compared.metric));
        columns.extend([published, Column::number("difference"), Column::text("source")]);
    }
    let line = |(at, row): (usize, &Row)| {
        let mut cells = vec![row.configuration.number.to_string()];
        cells.extend(axes.iter().map(|axis| axis_cell(row, axis)));
        let summary = |name: &String| row.summary(name, &results.objective);
        cells.extend(metrics.iter().map(|name| format::summary(name, summary(name), shown.spread)));
        cells.push(format!("{}/{}", row.configuration.succeeded, row.configuration.trials));
        if has_losses {
            cells.push(losses(row));
        }
        cells.extend(shown.compared.iter().flat_map(|compared| compared.cells(at, results, row)));
        cells
    };
    Grid { rows: results.rows.iter().enumerate().map(line).collect(), columns }
}

/// The objective's metric, then those of `report`; or the one that was asked for.
pub(crate) fn metrics(results: &Results, metric: Option<&str>) -> Vec<String> {
    if let Some(metric) = metric {
        return vec![metric.to_owned()];
    }
    let mut names = vec![results.objective.metric.clone()];
    names.extend(results.report.iter().filter(|name| **name != results.objective.metric).cloned());
    names
}

fn axis_column(results: &Results, axis: &str) -> Column {
    let is_number = results.rows.iter().filter_map(|row| row.value(axis)).all(|value| value.is_number());
    Column { name: axis.to_owned(), is_number }
}

/// A value of an axis as a cell; a dash where the configuration does not have the axis.
pub(crate) fn axis_cell(row: &Row, axis: &str) -> String {
    row.value(axis).map_or_else(|| "–".to_owned(), |value| format::setting(&value))
}

/// Trials that gave no result, by why.
fn losses(row: &Row) -> String {
    let named = |count: u32, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let parts = [named(row.configuration.diverged, "diverged"), named(row.configuration.failed, "failed")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::example::{mixed, reply};

    #[test]
    fn one_row_per_configuration() {
        insta::assert_snapshot!(table(&mixed(), &Shown::default()).to_text());
    }

    #[test]
    fn one_metric_alone() {
        insta::assert_snapshot!(
            table(&mixed(), &Shown { metric: Some("seconds/cpu"), spread: Spread::Std, ..Shown::default() })
                .to_text()
        );
    }

    #[test]
    fn without_losses_there_is_no_column_for_them() {
        let mut results = mixed();
        results.rows.truncate(2);
        insta::assert_snapshot!(table(&results, &Shown::default()).to_text());
    }

    #[test]
    fn no_configuration_gives_a_header_alone() {
        let results = Results::read(reply(Vec::new())).expect("valid");
        assert!(table(&results, &Shown::default()).rows.is_empty());
    }
}
