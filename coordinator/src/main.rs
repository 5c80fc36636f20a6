//! `coordinator`: arguments, log and exit code; the rest is in the library.

mod bench;
mod cli;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use coordinator::server::{self, Options, ServerError};
use coordinator::service::Token;
use coordinator::store::check::CheckError;
use coordinator::store::{self, Clock, OpenError, Store};
use tokio_util::sync::CancellationToken;
use tonic::transport::Identity;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli::Cli { command } = cli::Cli::parse();
    start_log(match &command {
        cli::Command::Serve(arguments) => arguments.log_format,
        cli::Command::Check(_) | cli::Command::Bench(_) => cli::LogFormat::Pretty,
    });
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let ended = match command {
        cli::Command::Serve(arguments) => runtime.block_on(serve(arguments)).map(|()| ExitCode::SUCCESS),
        cli::Command::Bench(arguments) => runtime.block_on(bench::run(arguments)).map(|()| ExitCode::SUCCESS),
        cli::Command::Check(arguments) => runtime.block_on(check(&arguments.database.database_url)),
    };
    ended.unwrap_or_else(|error| fail(&error))
}

async fn serve(arguments: cli::Serve) -> anyhow::Result<()> {
    let options = Options {
        token: token(arguments.token_file.as_deref())?,
        tls: identity(arguments.tls_cert.as_deref(), arguments.tls_key.as_deref())?,
        faults: arguments.faults,
        lease_ttl: arguments.lease_ttl,
        lease_grace: arguments.lease_grace,
        report_every: arguments.report_every,
    };
    if options.tls.is_none() && !arguments.listen.ip().is_loopback() {
        tracing::warn!(
            "traffic and token go unencrypted; --tls-cert and --tls-key encrypt them, and 127.0.0.1 keeps them here"
        );
    }
    let listener = server::bind(arguments.listen, &options).await?;
    let address = listener.local_addr().context("the listener has no address")?;
    let store = Store::open(&arguments.database.database_url, Clock::System).await?;
    if let Some(path) = &arguments.address_file {
        write_address(path, &address.to_string())?;
    }
    tracing::info!(%address, "listening");
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone()));
    server::serve(listener, store.clone(), options, shutdown).await?;
    tracing::info!(commits = store.commits(), "stopped");
    Ok(())
}

/// Says what does not hold in a database; the exit code is 5 if there is anything.
async fn check(url: &str) -> anyhow::Result<ExitCode> {
    use std::io::Write;
    let violations = store::check::check(url).await?;
    let mut out = std::io::stdout().lock();
    for violation in &violations {
        writeln!(out, "violated {} times: {}", violation.count, violation.invariant)?;
    }
    let (found, all) = (violations.len(), store::check::INVARIANT_COUNT);
    writeln!(out, "{} of {all} invariants hold", all - found)?;
    Ok(if found == 0 { ExitCode::SUCCESS } else { ExitCode::from(5) })
}

/// A token that was meant and is not there.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("token file {} cannot be read", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("SWEEP_TOKEN is not text")]
    NotText,
    #[error("{0} is empty; put a token there, or leave it out to serve this machine alone")]
    Empty(String),
}

/// A certificate or key that was meant and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{what} {} cannot be read", path.display())]
struct UnreadableTls {
    what: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

/// What the coordinator shows of itself over TLS; the arguments come in pairs.
fn identity(cert: Option<&Path>, key: Option<&Path>) -> Result<Option<Identity>, UnreadableTls> {
    let (Some(cert), Some(key)) = (cert, key) else { return Ok(None) };
    let read = |what, path: &Path| {
        std::fs::read(path).map_err(|source| UnreadableTls { what, path: path.to_owned(), source })
    };
    Ok(Some(Identity::from_pem(read("certificate", cert)?, read("key", key)?)))
}

fn token(file: Option<&Path>) -> Result<Option<Token>, TokenError> {
    let (text, place) = match file {
        Some(path) => {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|source| TokenError::File { path: path.to_owned(), source })?;
            (text, format!("token file {}", path.display()))
        }
        None => match std::env::var("SWEEP_TOKEN") {
            Ok(text) => (text, "SWEEP_TOKEN".to_owned()),
            Err(std::env::VarError::NotPresent) => return Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => return Err(TokenError::NotText),
        },
    };
    Token::new(&text).ok_or(TokenError::Empty(place)).map(Some)
}

/// Writes the file whole: who waits for it never reads half an address.
fn write_address(path: &Path, address: &str) -> anyhow::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, address)
        .and_then(|()| std::fs::rename(&partial, path))
        .with_context(|| format!("address file {} cannot be written", path.display()))
}

async fn cancel_on_signal(shutdown: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            tracing::warn!(%error, "SIGTERM cannot be handled");
            return;
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("stopping");
    shutdown.cancel();
}

fn start_log(format: cli::LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    match format {
        cli::LogFormat::Pretty => log.init(),
        cli::LogFormat::Json => log.json().init(),
    }
}

/// One line on stderr, and the documented code.
fn fail(error: &anyhow::Error) -> ExitCode {
    use std::io::Write;
    // Nobody is left to be told when stderr is closed.
    let _ = writeln!(std::io::stderr(), "coordinator: {error:#}");
    if error.is::<TokenError>() || error.is::<UnreadableTls>() {
        return ExitCode::from(2);
    }
    if let Some(CheckError::Read(_)) = error.downcast_ref() {
        return ExitCode::from(4);
    }
    let opening = match error.downcast_ref() {
        Some(CheckError::Open(error)) => Some(error),
        _ => error.downcast_ref(),
    };
    let code = match (error.downcast_ref(), opening) {
        (Some(ServerError::NoToken(_) | ServerError::Tls(_)), _) => 2,
        (Some(ServerError::Bind { .. }), _) => 3,
        (_, Some(OpenError::Url(_))) => 2,
        (_, Some(_)) => 4,
        _ => 1,
    };
    ExitCode::from(code)
}
