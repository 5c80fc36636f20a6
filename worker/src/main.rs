//! The program `worker`: reads the command line, calls the library, prints.

mod cli;
mod commands;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let outcome = match cli.command {
        cli::Command::Start(args) => commands::start(args),
        cli::Command::Train(args) => commands::train(&args),
        cli::Command::Drain(args) => commands::drain(&args),
        cli::Command::Predict(args) => commands::predict(&args),
        cli::Command::Import(cli::Import::Backbone(args)) => commands::import_backbone(args),
        cli::Command::Import(cli::Import::Dataset(args)) => commands::import_dataset(args),
        cli::Command::Doctor(args) => commands::doctor(&args),
        cli::Command::Trainer(args) => commands::trainer(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever read our output may have gone, as `head` does.
            let broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
                cause
                    .downcast_ref::<std::io::Error>()
                    .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
            };
            if error.chain().any(broken_pipe) {
                return ExitCode::SUCCESS;
            }
            eprintln!("worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}
