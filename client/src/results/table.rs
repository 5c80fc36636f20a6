//! The plain results table: one row per configuration. Pure.

use super::{Results, Row};
use crate::format;
use crate::output::{Column, Grid};

/// One row per configuration: the axes on which they differ, the objective, the reported metrics (or `metric`
/// alone), how many of the seeds count, and what became of the others.
pub(crate) fn table(results: &Results, metric: Option<&str>) -> Grid {
    let axes = results.varying();
    let metrics = metrics(results, metric);
    let has_losses = results.rows.iter().any(|row| !losses(row).is_empty());
    let mut columns = vec![Column::number("#")];
    columns.extend(axes.iter().map(|axis| axis_column(results, axis)));
    columns.extend(metrics.iter().map(Column::number));
    columns.push(Column::number("seeds"));
    if has_losses {
        columns.push(Column::text("lost"));
    }
    let line = |row: &Row| {
        let mut cells = vec![row.configuration.number.to_string()];
        cells.extend(axes.iter().map(|axis| axis_cell(row, axis)));
        cells.extend(
            metrics.iter().map(|name| format::statistic(name, &row.metric(name, &results.objective))),
        );
        cells.push(format!("{}/{}", row.configuration.succeeded, row.configuration.trials));
        if has_losses {
            cells.push(losses(row));
        }
        cells
    };
    Grid { rows: results.rows.iter().map(line).collect(), columns }
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
        insta::assert_snapshot!(table(&mixed(), None).to_text());
    }

    #[test]
    fn one_metric_alone() {
        insta::assert_snapshot!(table(&mixed(), Some("seconds/cpu")).to_text());
    }

    #[test]
    fn without_losses_there_is_no_column_for_them() {
        let mut results = mixed();
        results.rows.truncate(2);
        insta::assert_snapshot!(table(&results, None).to_text());
    }

    #[test]
    fn no_configuration_gives_a_header_alone() {
        let results = Results::read(reply(Vec::new())).expect("valid");
        assert!(table(&results, None).rows.is_empty());
    }
}
