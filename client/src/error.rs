//! Everything that can go wrong in the command `sweep`, what it says and which exit code it gives.
//!
//! Two exhaustive matches: a new variant does not compile before it has both.

use std::fmt;
use std::io;
use std::path::PathBuf;

use proto::dial::DialError;
use sweeps::spec::SpecErrors;

use crate::cli::Format;
use crate::filter::FilterError;

/// How a verb that went through ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// The sweep that was watched ended with failures.
    SweepFailed,
    /// The user stopped watching; the sweep goes on.
    Interrupted,
}

impl Outcome {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::SweepFailed => 10,
            Outcome::Interrupted => 130,
        }
    }
}

/// What a user can cause, or meet.
#[derive(Debug)]
pub(crate) enum CliError {
    ReadFile { file: PathBuf, source: io::Error },
    FileTooLarge { file: PathBuf, bound: u64 },
    InvalidFile { file: PathBuf, errors: SpecErrors },
    Dial(DialError),
    UnknownAxis { name: String, known: Vec<String> },
    UnknownMetric { name: String, known: Vec<String> },
    UnknownStage { name: String, known: Vec<String> },
    NoFormat { format: Format, known: &'static [Format] },
    BinaryToTerminal,
    InvalidFilter { flag: &'static str, error: FilterError },
    NoFont { reason: String },
    WriteFile { file: PathBuf, reason: String },
    InvalidWarmStart { file: PathBuf, message: String },
    ReadPublished { file: PathBuf, source: io::Error },
    InvalidPublished { file: PathBuf, message: String },
    AmbiguousPublished { what: String, places: [String; 2] },
    NoResult { sweep: String },
    InvalidRequest { message: String },
    NotFound { message: String },
    Refused { message: String },
    Unauthenticated { server: String, had_token: bool },
    Unreachable { server: String, reason: String },
    Lost { server: String, minutes: u64, reason: String },
    Coordinator { code: tonic::Code, message: String },
    BadReply { what: &'static str, source: serde_json::Error },
    Write { source: io::Error },
    Runtime { source: io::Error },
}

impl From<DialError> for CliError {
    fn from(error: DialError) -> Self {
        Self::Dial(error)
    }
}

impl CliError {
    /// What they mean is said by `--help`.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            CliError::ReadFile { .. }
            | CliError::FileTooLarge { .. }
            | CliError::InvalidFile { .. }
            | CliError::Dial(_)
            | CliError::UnknownAxis { .. }
            | CliError::UnknownMetric { .. }
            | CliError::UnknownStage { .. }
            | CliError::NoFormat { .. }
            | CliError::BinaryToTerminal
            | CliError::InvalidFilter { .. }
            | CliError::InvalidWarmStart { .. }
            | CliError::ReadPublished { .. }
            | CliError::InvalidPublished { .. }
            | CliError::AmbiguousPublished { .. }
            | CliError::InvalidRequest { .. } => 2,
            CliError::NotFound { .. } | CliError::NoResult { .. } => 3,
            CliError::Refused { .. } | CliError::Unauthenticated { .. } => 4,
            CliError::Unreachable { .. } | CliError::Lost { .. } => 5,
            CliError::Coordinator { .. }
            | CliError::BadReply { .. }
            | CliError::WriteFile { .. }
            | CliError::NoFont { .. }
            | CliError::Runtime { .. } => 1,
            CliError::Write { source } if source.kind() == io::ErrorKind::BrokenPipe => 0,
            CliError::Write { .. } => 1,
        }
    }

    /// Nobody reads our output any more: that is no fault, and there is nobody to tell.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, CliError::Write { source } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CliError::ReadFile { file, source } => {
                write!(f, "failed to read the sweep file `{}`: {source}", file.display())
            }
            CliError::FileTooLarge { file, bound } => {
                write!(f, "`{}` has more than {bound} bytes: is it a sweep file?", file.display())
            }
            CliError::InvalidFile { file, errors } => {
                write!(f, "`{}` is no valid sweep file\n{errors}", file.display())
            }
            CliError::Dial(error) => error.fmt(f),
            CliError::UnknownAxis { name, known } => {
                write!(f, "`{name}` is no axis of this sweep; it has {}", listed(known))
            }
            CliError::UnknownMetric { name, known } => {
                write!(f, "no result has a metric `{name}`; there are {}", listed(known))
            }
            CliError::UnknownStage { name, known } => {
                write!(f, "`{name}` is no stage of this sweep; it has {}", listed(known))
            }
            CliError::NoFormat { format, known } => {
                let name = |format: &Format| format!("{format:?}").to_lowercase();
                let known: Vec<String> = known.iter().map(name).collect();
                write!(f, "this verb has no output as {}; there are {}", name(format), listed(&known))
            }
            CliError::BinaryToTerminal => f.write_str(
                "a Parquet file is not for a terminal: send it to a file, as in `> results.parquet`",
            ),
            CliError::InvalidFilter { flag, error } => write!(f, "{flag}, {error}"),
            CliError::NoFont { reason } => write!(
                f,
                "no font to write with ({reason}): set SWEEP_FONT to a .ttf file, or install the package fonts-dejavu-core"
            ),
            CliError::WriteFile { file, reason } => {
                write!(f, "failed to write `{}`: {reason}", file.display())
            }
            CliError::InvalidWarmStart { file, message } => write!(
                f,
                "`{}` is no list of settings as `sweep best S --settings` prints them: {message}",
                file.display()
            ),
            CliError::ReadPublished { file, source } => {
                write!(f, "failed to read the published results `{}`: {source}", file.display())
            }
            CliError::InvalidPublished { file, message } => {
                write!(f, "published results `{}`: {message}", file.display())
            }
            CliError::AmbiguousPublished { what, places: [first, second] } => write!(
                f,
                "two published numbers of {what}, at {first} and {second}: choose by \
                 --compare-where, as in \"pretraining = MAE\""
            ),
            CliError::NoResult { sweep } => {
                write!(f, "no trial of sweep `{sweep}` has a result yet; see `sweep show {sweep}`")
            }
            CliError::InvalidRequest { message }
            | CliError::NotFound { message }
            | CliError::Refused { message } => f.write_str(message),
            CliError::Unauthenticated { server, had_token: true } => {
                write!(f, "the coordinator at {server} does not accept this token; check SWEEP_TOKEN")
            }
            CliError::Unauthenticated { server, had_token: false } => {
                write!(f, "the coordinator at {server} asks for a token; set SWEEP_TOKEN")
            }
            CliError::Unreachable { server, reason } => write!(
                f,
                "coordinator at {server} is unreachable ({reason}); is it running? \
                 set SWEEP_SERVER or --server to its address"
            ),
            CliError::Lost { server, minutes, reason } => write!(
                f,
                "coordinator at {server} has been unreachable for {minutes} minutes ({reason}); \
                 the sweep is kept there: watch again when it is back"
            ),
            CliError::Coordinator { code, message } => {
                write!(f, "the coordinator failed ({code:?}): {message}")
            }
            CliError::BadReply { what, source } => {
                write!(f, "the coordinator sent {what} that cannot be read: {source}")
            }
            CliError::Write { source } => write!(f, "failed to write the output: {source}"),
            CliError::Runtime { source } => write!(f, "failed to start the runtime: {source}"),
        }
    }
}

impl std::error::Error for CliError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        None
    }
}

/// Names in backticks.
pub(crate) fn listed(names: &[impl fmt::Display]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
