//! `sweep results` and `sweep best`.

use std::collections::HashMap;

use serde::Serialize;

use super::warm_start;
use crate::cli::{BestArgs, Format, ResultsArgs};
use crate::connection::Connection;
use crate::error::CliError;
use crate::output;
use crate::output::{Column, Grid};
use crate::results::pivot::{Axes, pivot};
use crate::results::published::{Published, parse_filter};
use crate::results::record::{self, Record, frame, records};
use crate::results::table::{Compared, Shown, table};
use crate::results::{Results, Row};

pub(crate) async fn results(
    mut connection: Connection,
    args: ResultsArgs,
    format: Format,
) -> Result<(), CliError> {
    let published = match args.compare.as_slice() {
        [] => None,
        files => Some(Published::read(files, args.compare_where.as_deref())?),
    };
    let results = Results::read(connection.results(&args.sweep, &[]).await?)?;
    let results = narrowed(results, args.stage.as_deref(), args.filter.as_deref())?;
    if let Some(metric) = &args.metric {
        results.check_metric(metric)?;
    }
    if !args.rows.is_empty() || !args.cols.is_empty() {
        return print_pivot(results, &args, published.as_ref(), format);
    }
    let compare = |published| Compared::of(&results, published, default_metric(&results, &args));
    let compared = published.as_ref().map(compare).transpose()?;
    match format {
        Format::Json => output::print_json(&records(&results, compared.as_ref())),
        Format::Csv => output::print_csv(&frame(&results, compared.as_ref())),
        Format::Parquet => output::print_parquet(&frame(&results, compared.as_ref())),
        Format::Table | Format::Markdown | Format::Latex => {
            let shown = Shown { metric: args.metric.as_deref(), spread: args.spread, compared };
            let mut caption = vec![args.spread.describe().to_owned()];
            caption.extend(results.notices());
            print_grid(&caption, &table(&results, &shown), format)
        }
    }
}

/// The results of a stage for which an expression holds.
pub(super) fn narrowed(
    mut results: Results,
    stage: Option<&str>,
    filter: Option<&str>,
) -> Result<Results, CliError> {
    if let Some(filter) = filter {
        let filter = parse_filter("--where", filter)?;
        let kept = results.only_where(&filter);
        results = kept.map_err(|error| CliError::InvalidFilter { flag: "--where", error })?;
    }
    match stage {
        Some(stage) => results.only_stage(stage),
        None => Ok(results),
    }
}

/// The metric to show where one alone is shown.
fn default_metric<'a>(results: &'a Results, args: &'a ResultsArgs) -> &'a str {
    args.metric.as_ref().or(results.report.first()).unwrap_or(&results.objective.metric)
}

fn print_pivot(
    mut results: Results,
    args: &ResultsArgs,
    published: Option<&Published>,
    format: Format,
) -> Result<(), CliError> {
    let axes = Axes { rows: &args.rows, cols: &args.cols };
    for axis in axes.rows.iter().chain(axes.cols) {
        results.check_axis(axis)?;
    }
    if !axes.rows.iter().chain(axes.cols).any(|axis| axis == "stage") {
        results = results.only_last_stage();
    }
    let metric = default_metric(&results, args).to_owned();
    let pivot = pivot(&results, axes, &metric, args.spread, published)?;
    match format {
        Format::Json => output::print_json(&pivot.document()),
        Format::Csv => output::print_csv(&pivot.frame()),
        Format::Parquet => output::print_parquet(&pivot.frame()),
        Format::Table | Format::Markdown | Format::Latex => print_grid(&pivot.caption, &pivot.grid(), format),
    }
}

/// A table for people under its caption.
fn print_grid(caption: &[String], grid: &Grid, format: Format) -> Result<(), CliError> {
    let text = match format {
        Format::Markdown => format!("{}\n\n{}", caption.join("  \n"), grid.to_markdown()),
        Format::Latex => {
            let comments: String = caption.iter().map(|line| format!("% {line}\n")).collect();
            format!("{comments}{}", grid.to_latex())
        }
        _ => format!("{}\n\n{}", caption.join("\n"), grid.to_text()),
    };
    output::print(&text)
}

/// A chosen configuration, and among how many.
struct Chosen<'a> {
    row: &'a Row,
    candidates: usize,
}

/// A record with how it was chosen.
#[derive(Serialize)]
struct ChosenRecord {
    selection: String,
    candidates: usize,
    #[serde(flatten)]
    record: Record,
}

pub(crate) async fn best(mut connection: Connection, args: BestArgs, format: Format) -> Result<(), CliError> {
    let results = Results::read(connection.results(&args.sweep, &[]).await?)?;
    let mut results = narrowed(results, args.stage.as_deref(), args.filter.as_deref())?;
    if args.stage.is_none() {
        results = results.only_last_stage();
    }
    for axis in &args.per {
        results.check_axis(axis)?;
    }
    let best = best_per(&results, &args.per);
    if best.is_empty() {
        return Err(CliError::NoResult { sweep: args.sweep });
    }
    if args.settings {
        let rows: Vec<&Row> = best.iter().map(|chosen| chosen.row).collect();
        return output::print_json(&warm_start::settings(&mut connection, &args.sweep, &rows).await?);
    }
    if format == Format::Json {
        let record = |chosen: &Chosen<'_>| ChosenRecord {
            selection: results.selection(),
            candidates: chosen.candidates,
            record: record::record(&results, chosen.row),
        };
        return output::print_json(&best.iter().map(record).collect::<Vec<_>>());
    }
    // The columns are those that tell all configurations apart, though the best may agree in some.
    let whole = table(&results, &Shown { spread: args.spread, ..Shown::default() });
    let mut grid = Grid { columns: whole.columns, rows: Vec::new() };
    grid.columns.push(Column::number("of"));
    for chosen in &best {
        let number = chosen.row.configuration.number;
        let at = results.rows.iter().position(|row| row.configuration.number == number);
        let mut line = at.and_then(|at| whole.rows.get(at)).cloned().unwrap_or_default();
        line.push(chosen.candidates.to_string());
        grid.rows.push(line);
    }
    let objective = &results.objective;
    let which = if objective.goal == "minimize" { "lowest" } else { "highest" };
    let chosen = format!(
        "the {which} {}, {} epoch, of so many configurations [{}]",
        objective.metric,
        objective.at,
        results.selection()
    );
    let mut caption = vec![args.spread.describe().to_owned(), chosen];
    caption.extend(results.notices());
    print_grid(&caption, &grid, format)
}

/// The best configuration for each value of some axes, in the order of the file; or the best of all.
fn best_per<'a>(results: &'a Results, axes: &[String]) -> Vec<Chosen<'a>> {
    let key = |row: &Row| axes.iter().map(|axis| row.value(axis)).collect::<Vec<_>>();
    let mut groups: HashMap<_, Vec<&Row>> = HashMap::new();
    let mut order = Vec::new();
    for row in &results.rows {
        let group = groups.entry(key(row)).or_default();
        if group.is_empty() {
            order.push(key(row));
        }
        group.push(row);
    }
    let chosen = |key| {
        let group: &Vec<&Row> = groups.get(key)?;
        let is_candidate = |row: &&&Row| row.objective().n > 0 && !row.configuration.superseded;
        let candidates = group.iter().filter(is_candidate).count();
        Some(Chosen { row: results.best(group.iter().copied())?, candidates })
    };
    order.iter().filter_map(chosen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::example::mixed;

    #[test]
    fn the_best_for_each_value_of_an_axis() {
        let results = mixed();
        let numbers = |axes: &[&str]| {
            let axes: Vec<String> = axes.iter().map(|axis| (*axis).to_owned()).collect();
            let best = best_per(&results, &axes);
            best.iter().map(|chosen| (chosen.row.configuration.number, chosen.candidates)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&[]), [(8, 7)]);
        assert_eq!(numbers(&["task"]), [(5, 4), (8, 3)]);
        assert_eq!(numbers(&["method"]), [(4, 3), (8, 4)]);
        assert_eq!(numbers(&["method", "task"]), [(2, 2), (4, 1), (5, 2), (8, 2)]);
    }
}
