//! The command `sweep`. `main` decides the exit code and nothing else.

mod cli;
mod connection;
mod error;
mod export;
mod filter;
mod format;
mod import;
mod output;
mod plot;
mod provenance;
mod records;
mod results;
mod verbs;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::error::{CliError, Outcome};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(error) => {
            if !error.is_silent() {
                output::print_error(&error);
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<Outcome, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::Runtime { source })?;
    runtime.block_on(verbs::run(cli))
}
