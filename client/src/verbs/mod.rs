//! The verbs: each reads its arguments, makes its calls, prints its answer.

mod control;
mod explain;
mod file;
mod plan;
mod results;
mod sweeps;
mod trials;
mod workers;

use clap::CommandFactory;

use crate::cli::{Cli, Format, Global, Verb, WorkersArgs, WorkersVerb};
use crate::connection::Connection;
use crate::error::{CliError, Outcome};
use crate::{output, watch};

/// Runs one verb.
pub(crate) async fn run(cli: Cli) -> Result<Outcome, CliError> {
    let Cli { global, verb } = cli;
    let format = global.output;
    refuse_csv(&verb, format)?;
    match verb {
        Verb::Validate(args) => file::validate(&args, format)?,
        Verb::Plan(args) => plan::plan(&args, &global).await?,
        Verb::Submit(args) => return file::submit(args, &global).await,
        Verb::List(args) => sweeps::list(open(&global).await?, args.limit, format).await?,
        Verb::Show(args) => sweeps::show(open(&global).await?, args, format).await?,
        Verb::Watch(args) => return watch::watch(&mut open(&global).await?, &args.sweep, format).await,
        Verb::Trials(args) => trials::list(open(&global).await?, args, format).await?,
        Verb::Trial(args) => trials::show(open(&global).await?, args, format).await?,
        Verb::Explain(args) => explain::explain(open(&global).await?, args.trial, format).await?,
        Verb::Capture(args) => trials::capture(open(&global).await?, args.trial).await?,
        Verb::Results(args) => results::results(open(&global).await?, args, format).await?,
        Verb::Best(args) => results::best(open(&global).await?, args, format).await?,
        Verb::Pause(args) => control::pause(open(&global).await?, args.sweep, format).await?,
        Verb::Resume(args) => control::resume(open(&global).await?, args.sweep, format).await?,
        Verb::Cancel(args) => control::cancel(open(&global).await?, args.sweep, format).await?,
        Verb::Workers(WorkersArgs { verb: None }) => workers::list(open(&global).await?, format).await?,
        Verb::Workers(WorkersArgs { verb: Some(WorkersVerb::Release { worker }) }) => {
            workers::release(open(&global).await?, worker, format).await?;
        }
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
    Connection::open(&global.server, token.as_deref()).await
}

/// CSV is for tables that are read by programs; elsewhere it is refused before anything is done.
fn refuse_csv(verb: &Verb, format: Format) -> Result<(), CliError> {
    let name = match verb {
        Verb::Results(_) | Verb::Trials(_) => return Ok(()),
        Verb::Validate(_) => "validate",
        Verb::Plan(_) => "plan",
        Verb::Submit(_) => "submit",
        Verb::List(_) => "list",
        Verb::Show(_) => "show",
        Verb::Watch(_) => "watch",
        Verb::Trial(_) => "trial",
        Verb::Explain(_) => "explain",
        Verb::Capture(_) => "capture",
        Verb::Best(_) => "best",
        Verb::Pause(_) => "pause",
        Verb::Resume(_) => "resume",
        Verb::Cancel(_) => "cancel",
        Verb::Workers(_) => "workers",
        Verb::Completions(_) => "completions",
    };
    if format == Format::Csv { Err(CliError::NoCsv { verb: name }) } else { Ok(()) }
}
