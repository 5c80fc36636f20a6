//! The command line of `coordinator`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::bench::Bench;
use clap::{Args, Parser, Subcommand, ValueEnum};
use coordinator::faults::Faults;

/// What `--help` says about how the program ends.
const EXIT_CODES: &str = "\
Environment:
  SWEEP_TOKEN  the token that every call must carry; needed unless only this machine can call

Exit codes:
  0  stopped by SIGTERM or SIGINT
  1  broke off
  2  wrong arguments, an unreadable token, certificate or key, or no token on an address that other machines can reach
  3  the address cannot be listened on, for example because the port is in use
  4  the database cannot be used: away, in use by another coordinator, newer than this program, or not ours
  5  `check` found something that must never be";

/// Owns the sweeps: queues trials, leases them to workers, keeps what they report.
#[derive(Debug, Parser)]
#[command(name = "coordinator", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve people and workers.
    #[command(after_help = EXIT_CODES)]
    Serve(Serve),
    /// Look for anything in a database that must never be; a coordinator may be using it meanwhile
    Check(Check),
    /// Measure this machine: trials a second, waits, cost
    Bench(Bench),
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) database: Database,
}

#[derive(Debug, Args)]
pub(crate) struct Database {
    /// sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME
    #[arg(long, default_value = "sqlite:promptsweep.db", env = "SWEEP_DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: String,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Address and port; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7741", env = "SWEEP_LISTEN")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) database: Database,
    /// File that holds the token, instead of SWEEP_TOKEN
    #[arg(long, value_name = "PATH")]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificate chain (PEM) to serve TLS with
    #[arg(long, value_name = "PATH", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key (PEM) of the certificate
    #[arg(long, value_name = "PATH", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// How long a lease holds without being renewed
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub(crate) lease_ttl: Duration,
    /// How long after that an attempt is given up
    #[arg(long, default_value = "15s", value_parser = duration, value_name = "TIME")]
    pub(crate) lease_grace: Duration,
    /// How long workers may hold metrics back before they report them
    #[arg(long, default_value = "2s", value_parser = duration, value_name = "TIME")]
    pub(crate) report_every: Duration,
    /// Answer this share of calls badly, to test those who call: 0.05 or 0.05:SEED
    #[arg(long, env = "SWEEP_FAULTS", hide = true, value_name = "RATE")]
    pub(crate) faults: Option<Faults>,
    /// Form of the log on stderr
    #[arg(long, value_enum, default_value_t = LogFormat::Pretty)]
    pub(crate) log_format: LogFormat,
    /// Write the address that is listened on to this file
    #[arg(long, value_name = "PATH")]
    pub(crate) address_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Pretty,
    Json,
}

/// A whole number and a unit: `500ms`, `60s`, `5m`.
fn duration(text: &str) -> Result<Duration, String> {
    match any_duration(text)?.as_millis() {
        100..=86_400_000 => any_duration(text),
        _ => Err("must be from 100ms to 24 hours (1440m)".to_owned()),
    }
}

/// As [`duration`], of any length.
pub(crate) fn any_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err("write a whole number and ms, s or m, such as 60s".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write a number before the unit, such as 60s".to_owned())?;
    Ok(Duration::from_millis(number.saturating_mul(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for wrong in ["", "5", "s", "-5s", "1h", "1ms", "9999999m", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
