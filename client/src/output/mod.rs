//! Where output goes: data to stdout, the rest to stderr. A reader that went away is no error.

mod frame;
mod grid;

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

pub(crate) use self::frame::{Frame, Values};
pub(crate) use self::grid::{Column, Grid};
use crate::error::CliError;

/// Writes text to stdout.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    print_bytes(text.as_bytes())
}

fn print_bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|source| CliError::Write { source })
}

/// Writes a table for programs to stdout.
pub(crate) fn print_csv(frame: &Frame) -> Result<(), CliError> {
    let failed = |error: csv::Error| CliError::Write { source: error.into() };
    print_bytes(&frame.to_csv().map_err(failed)?)
}

/// Writes a table as a Parquet file to stdout, which must not be a terminal.
pub(crate) fn print_parquet(frame: &Frame) -> Result<(), CliError> {
    if io::stdout().is_terminal() {
        return Err(CliError::BinaryToTerminal);
    }
    let failed = |error| CliError::Write { source: io::Error::other(error) };
    print_bytes(&frame.to_parquet().map_err(failed)?)
}

/// Writes one JSON document to stdout.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let mut text =
        serde_json::to_string_pretty(value).map_err(|source| CliError::Write { source: source.into() })?;
    text.push('\n');
    print(&text)
}

/// Writes one JSON document as one line to stdout.
pub(crate) fn print_json_line(value: &impl Serialize) -> Result<(), CliError> {
    let mut text =
        serde_json::to_string(value).map_err(|source| CliError::Write { source: source.into() })?;
    text.push('\n');
    print(&text)
}

/// Tells the user what was refused or broke.
pub(crate) fn print_error(error: &CliError) {
    let colored =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let label = if colored { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
    // Nothing is left to do when stderr is gone as well.
    let _ = writeln!(io::stderr(), "{label} {error}");
}

/// Tells the user something that is not data: a warning or a remark.
pub(crate) fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
