//! `sweep results` and `sweep best`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cli::{BestArgs, Format, ResultsArgs};
use crate::connection::Connection;
use crate::error::CliError;
use crate::output;
use crate::results::pivot::{Spread, pivot};
use crate::results::record::{self, csv, records};
use crate::results::table::table;
use crate::results::{Results, Row};

pub(crate) async fn results(
    mut connection: Connection,
    args: ResultsArgs,
    format: Format,
) -> Result<(), CliError> {
    let mut results = Results::read(connection.results(&args.sweep).await?)?;
    if let Some(stage) = &args.stage {
        results = results.only_stage(stage)?;
    }
    if let Some(metric) = &args.metric {
        results.check_metric(metric)?;
    }
    if args.rows.is_some() || args.cols.is_some() {
        return print_pivot(results, &args, format);
    }
    match format {
        Format::Json => output::print_json(&records(&results)),
        Format::Csv => output::print(&csv(&results).to_csv()),
        Format::Table => output::print(&table(&results, args.metric.as_deref()).to_text()),
    }
}

fn print_pivot(mut results: Results, args: &ResultsArgs, format: Format) -> Result<(), CliError> {
    let spread = Spread { rows: args.rows.as_deref(), cols: args.cols.as_deref() };
    for axis in [spread.rows, spread.cols].into_iter().flatten() {
        results.check_axis(axis)?;
    }
    if ![spread.rows, spread.cols].contains(&Some("stage")) {
        results = results.only_last_stage();
    }
    let metric = args.metric.as_ref().or(results.report.first()).unwrap_or(&results.objective.metric);
    let pivot = pivot(&results, spread, metric);
    match format {
        Format::Json => output::print_json(&pivot),
        Format::Csv => output::print(&pivot.grid().to_csv()),
        Format::Table => {
            output::print(&format!("{}\n\n{}", pivot.caption.join("\n"), pivot.grid().to_text()))
        }
    }
}

pub(crate) async fn best(mut connection: Connection, args: BestArgs, format: Format) -> Result<(), CliError> {
    let results = Results::read(connection.results(&args.sweep).await?)?;
    let results = match &args.stage {
        Some(stage) => results.only_stage(stage)?,
        None => results.only_last_stage(),
    };
    if let Some(axis) = &args.per {
        results.check_axis(axis)?;
    }
    let best: Vec<Row> = best_per(&results, args.per.as_deref()).into_iter().cloned().collect();
    if best.is_empty() {
        return Err(CliError::NoResult { sweep: args.sweep });
    }
    if format == Format::Json {
        let records: Vec<_> = best.iter().map(|row| record::record(&results, row)).collect();
        return output::print_json(&records);
    }
    // The columns are those that tell all configurations apart, though the best may agree in some.
    let numbers: Vec<u64> = best.iter().map(|row| row.configuration.number).collect();
    let mut grid = table(&results, None);
    let lines = numbers.iter().filter_map(|number| {
        let at = results.rows.iter().position(|row| row.configuration.number == *number)?;
        grid.rows.get(at).cloned()
    });
    grid.rows = lines.collect();
    output::print(&grid.to_text())
}

/// The best configuration for each value of an axis, in the order of the file; or the best of all.
fn best_per<'a>(results: &'a Results, axis: Option<&str>) -> Vec<&'a Row> {
    let Some(axis) = axis else { return results.best(&results.rows).into_iter().collect() };
    let key = |row: &Row| row.value(axis).as_ref().map(Value::to_string);
    let mut groups: BTreeMap<Option<String>, Vec<&Row>> = BTreeMap::new();
    let mut order = Vec::new();
    for row in &results.rows {
        let group = groups.entry(key(row)).or_default();
        if group.is_empty() {
            order.push(key(row));
        }
        group.push(row);
    }
    order.iter().filter_map(|key| results.best(groups.get(key)?.iter().copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::example::mixed;

    #[test]
    fn the_best_for_each_value_of_an_axis() {
        let results = mixed();
        let numbers =
            |axis| best_per(&results, axis).iter().map(|row| row.configuration.number).collect::<Vec<_>>();
        assert_eq!(numbers(None), [8]);
        assert_eq!(numbers(Some("task")), [5, 8]);
        assert_eq!(numbers(Some("method")), [4, 8]);
    }
}
