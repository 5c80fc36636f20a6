//! `sweep importance`.

use super::results::narrowed;
use crate::cli::{Format, ImportanceArgs};
use crate::connection::Connection;
use crate::error::CliError;
use crate::output::{self, Column, Grid};
use crate::results::Results;
use crate::results::importance::{Importances, importances};

pub(crate) async fn importance(
    mut connection: Connection,
    args: ImportanceArgs,
    format: Format,
) -> Result<(), CliError> {
    let results = Results::read(connection.results(&args.sweep, &[]).await?)?;
    let results = narrowed(results, args.stage.as_deref(), args.filter.as_deref())?;
    let results = if args.stage.is_some() { results } else { results.only_first_stage() };
    let found = of(&results, &args.within, args.top, &args.sweep)?;
    match format {
        Format::Json => output::print_json(&found),
        _ => output::print(&page(&found, &results.objective.metric)),
    }
}

/// The importance of the axes; the tasks are held apart where nothing else was asked for.
pub(super) fn of(
    results: &Results,
    within: &[String],
    top: f64,
    sweep: &str,
) -> Result<Importances, CliError> {
    for axis in within {
        results.check_axis(axis)?;
    }
    let task = ["task".to_owned()];
    let within = if within.is_empty() && results.varying().contains(&task[0]) { &task } else { within };
    importances(results, within, top).ok_or_else(|| CliError::NotFound {
        message: format!("sweep `{sweep}` has too few configurations with a result to tell what matters"),
    })
}

fn page(found: &Importances, metric: &str) -> String {
    let columns = vec![
        Column::text("axis"),
        Column::number("importance"),
        Column::text("favours"),
        Column::number("times as often"),
    ];
    let line = |axis: &crate::results::importance::Importance| {
        vec![
            axis.axis.clone(),
            format!("{:.1} %", 100.0 * axis.share),
            axis.favours.clone(),
            format!("{:.1}", axis.lift),
        ]
    };
    let grid = Grid { columns, rows: found.axes.iter().map(line).collect() };
    format!(
        "{metric}: the best {} of {} configurations against all (PED-ANOVA)\n\n{}",
        found.best,
        found.configurations,
        grid.to_text()
    )
}
