//! `sweep plot`: a picture of a sweep as SVG or PNG.

use proto::v1::{GetTrialResponse, TrialState};

use super::results::narrowed;
use super::{importance, trials};
use crate::cli::{PlotArgs, PlotKind};
use crate::connection::Connection;
use crate::error::CliError;
use crate::format;
use crate::output;
use crate::plot::{self, Figure};
use crate::results::{Results, figures};

/// More lines than this cannot be told apart.
const MOST_LINES: usize = 24;

pub(crate) async fn plot(mut connection: Connection, args: PlotArgs) -> Result<(), CliError> {
    let results = Results::read(connection.results(&args.sweep, &[]).await?)?;
    let results = narrowed(results, args.stage.as_deref(), args.filter.as_deref())?;
    let results = match (&args.stage, args.kind) {
        (Some(_), _) => results,
        (None, PlotKind::Parallel | PlotKind::Importance) => results.only_first_stage(),
        (None, _) => results.only_last_stage(),
    };
    for axis in args.x.iter().chain(&args.y).chain(&args.by) {
        results.check_axis(axis)?;
    }
    if let Some(metric) = &args.metric {
        results.check_metric(metric)?;
    }
    if results.best(&results.rows).is_none() {
        return Err(CliError::NoResult { sweep: args.sweep });
    }
    let metric = args.metric.clone().unwrap_or_else(|| results.objective.metric.clone());
    let needed = |name: &'static str, axis: &Option<String>| {
        axis.clone().ok_or_else(|| CliError::InvalidRequest {
            message: format!("say by --{name} AXIS what to draw along; the axes are {}", axes(&results)),
        })
    };
    let figure = match args.kind {
        PlotKind::Curves => curves(&mut connection, &results, &args, &metric).await?,
        PlotKind::Metric => {
            let x = needed("x", &args.x)?;
            let by = by(&results, &args, &x);
            few(figures::best_at(&results, &by).len())?;
            figures::metric(&results, &metric, &x, &by)
        }
        PlotKind::Heat => figures::heat(&results, &metric, &needed("x", &args.x)?, &needed("y", &args.y)?),
        PlotKind::Parallel => figures::parallel(&results, &metric),
        PlotKind::Importance => {
            let found = importance::of(&results, &args.by, 0.1, &args.sweep)?;
            figures::importance(&found, &results.objective.metric)
        }
    };
    plot::write(&figure, &args.out)?;
    output::remark(&format!("wrote {}", args.out.display()));
    Ok(())
}

fn axes(results: &Results) -> String {
    crate::error::listed(&results.varying())
}

/// What makes a line each: what was asked for, else the tasks.
fn by(results: &Results, args: &PlotArgs, x: &str) -> Vec<String> {
    let task = "task".to_owned();
    if args.by.is_empty() && x != task && results.varying().contains(&task) {
        return vec![task];
    }
    args.by.clone()
}

fn few(lines: usize) -> Result<(), CliError> {
    if lines <= MOST_LINES {
        return Ok(());
    }
    let message =
        format!("{lines} lines are more than can be told apart ({MOST_LINES}): use --where or another --by");
    Err(CliError::InvalidRequest { message })
}

/// The learning curves of the best configuration for each of `--by`.
async fn curves(
    connection: &mut Connection,
    results: &Results,
    args: &PlotArgs,
    metric: &str,
) -> Result<Figure, CliError> {
    let by = by(results, args, "epoch");
    let best = figures::best_at(results, &by);
    few(best.len())?;
    let all = connection.trials(&args.sweep, &[TrialState::Succeeded], 0).await?;
    let mut groups: Vec<(String, Vec<GetTrialResponse>)> = Vec::new();
    for (key, row) in best {
        let own = all.iter().filter(|trial| {
            trial.config_hash == row.configuration.config_hash && trial.stage == row.configuration.stage
        });
        let mut replies = Vec::new();
        for trial in own {
            replies.push(trials::fetch(connection, trial.id).await?);
        }
        let name = key.iter().map(|value| value.as_ref().map_or("–".to_owned(), format::setting));
        groups.push((name.collect::<Vec<_>>().join(", "), replies));
    }
    let has_points = |(_, replies): &(String, Vec<GetTrialResponse>)| {
        replies.iter().flat_map(|reply| &reply.points).any(|point| point.name == metric)
    };
    if !groups.iter().any(has_points) {
        let message = format!("`{metric}` is measured once, not at every epoch: use `val/…` or `train/loss`");
        return Err(CliError::InvalidRequest { message });
    }
    Ok(figures::curves(metric, groups))
}
