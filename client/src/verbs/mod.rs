//! The verbs: each reads its arguments, makes its calls, prints its answer.

mod control;
pub(crate) mod diff;
mod explain;
mod export;
mod file;
mod import;
mod importance;
mod methods;
mod plan;
mod plot;
mod results;
mod sweeps;
mod trials;
mod warm_start;
mod workers;

use clap::CommandFactory;

use crate::cli::{Cli, Format, Global, Origin, Verb, WorkersArgs, WorkersVerb};
use crate::connection::Connection;
use crate::error::{CliError, Outcome};
use crate::{output, watch};

/// Runs one verb.
pub(crate) async fn run(cli: Cli) -> Result<Outcome, CliError> {
    let Cli { global, verb } = cli;
    let format = global.output;
    check_format(&verb, format)?;
    match verb {
        Verb::Validate(args) => file::validate(&args, format)?,
        Verb::Methods => methods::matrix(format)?,
        Verb::Plan(args) => plan::plan(&args, &global).await?,
        Verb::Submit(args) => return file::submit(args, &global).await,
        Verb::List(args) => sweeps::list(open(&global).await?, args.limit, format).await?,
        Verb::Show(args) => sweeps::show(open(&global).await?, args, format).await?,
        Verb::Watch(args) => return watch::watch(&mut open(&global).await?, &args.sweep, format).await,
        Verb::Trials(args) => trials::list(open(&global).await?, args, format).await?,
        Verb::Trial(args) => trials::show(open(&global).await?, args, format).await?,
        Verb::Explain(args) => explain::explain(open(&global).await?, &args.trial_or_sweep, format).await?,
        Verb::Capture(args) => trials::capture(open(&global).await?, args.trial).await?,
        Verb::Results(args) => results::results(open(&global).await?, args, format).await?,
        Verb::Best(args) => results::best(open(&global).await?, args, format).await?,
        Verb::Importance(args) => importance::importance(open(&global).await?, args, format).await?,
        Verb::Export(args) => export::export(open(&global).await?, args).await?,
        Verb::Plot(args) => plot::plot(open(&global).await?, args).await?,
        Verb::Diff(args) => diff::diff(open(&global).await?, args, format).await?,
        Verb::Pause(args) => control::pause(open(&global).await?, args.sweep, format).await?,
        Verb::Resume(args) => control::resume(open(&global).await?, args.sweep, format).await?,
        Verb::Cancel(args) => control::cancel(open(&global).await?, args.sweep, format).await?,
        Verb::Extend(args) => file::extend(args, &global).await?,
        Verb::Requeue(args) => control::requeue(open(&global).await?, args, format).await?,
        Verb::Workers(WorkersArgs { verb: None }) => workers::list(open(&global).await?, format).await?,
        Verb::Workers(WorkersArgs { verb: Some(WorkersVerb::Release { worker }) }) => {
            workers::release(open(&global).await?, worker, format).await?;
        }
        Verb::Import(args) => match args.from {
            Origin::Wandb => import::import(&args)?,
        },
        Verb::Schema => output::print_json(&::sweeps::schema::sweep_file())?,
        Verb::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "sweep", &mut script);
            output::print(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(Outcome::Done)
}

async fn open(global: &Global) -> Result<Connection, CliError> {
    let token = std::env::var("SWEEP_TOKEN").ok();
    Connection::open(&global.server, global.ca.as_deref(), token.as_deref()).await
}

/// Formats other than table and json are for verbs that print tables; elsewhere they are refused before anything is
/// done.
fn check_format(verb: &Verb, format: Format) -> Result<(), CliError> {
    let known: &'static [Format] = match verb {
        Verb::Results(_) => {
            &[Format::Table, Format::Json, Format::Csv, Format::Parquet, Format::Markdown, Format::Latex]
        }
        Verb::Trials(_) => &[Format::Table, Format::Json, Format::Csv, Format::Parquet],
        Verb::Best(_) => &[Format::Table, Format::Json, Format::Markdown, Format::Latex],
        _ => &[Format::Table, Format::Json],
    };
    if known.contains(&format) { Ok(()) } else { Err(CliError::NoFormat { format, known }) }
}
