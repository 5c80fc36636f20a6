//! What can go wrong in the store.

use std::path::PathBuf;
use std::sync::Arc;

use crate::trial::TrialId;

/// Why an operation changed nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("there is no sweep `{0}`; `sweep list` shows those that exist")]
    NoSweep(String),
    #[error("the prefix `{prefix}` fits several sweeps: {}; give more of the id", ids.join(", "))]
    AmbiguousSweep { prefix: String, ids: Vec<String> },
    #[error("sweep {id} has only {events} events; watch from 0")]
    NoEvent { id: String, events: i64 },
    #[error(
        "worker {worker} offers backbone {backbone} with SHA-256 {sha256}, but live worker {other} offers it with \
         {other_sha256}: results would mix two backbones; give both workers the same file, or one of them another name"
    )]
    TwoBackbones { backbone: String, worker: String, sha256: String, other: String, other_sha256: String },
    #[error("there is no trial {0}")]
    NoTrial(TrialId),
    #[error(
        "sweep {id} can only be added to, and the file changes what is there: {}{}; submit it as another sweep (with `reuse`, \
         results are taken over)",
        problems.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("; "),
        if problems.len() > 5 { format!("; and {} more", problems.len() - 5) } else { String::new() }
    )]
    NoExtension { id: String, problems: Vec<String> },
    #[error("configuration #{number} cannot be changed so: {problem}; nothing was queued")]
    NoChange { number: i64, problem: String },
    #[error(
        "trial {trial} cannot take over the result of trial {origin}: it has another recipe, seed, backbone, data or code, \
         has no result, or the sweep does not say `reuse`"
    )]
    NotReusable { trial: TrialId, origin: TrialId },
    #[error("worker `{0}` is not registered here; register again")]
    NoWorker(String),
    #[error("there is no worker `{0}`; `sweep workers` shows those that are known")]
    NoSuchWorker(String),
    #[error("sweep {id} is {state}; only an active or paused sweep can be {wanted}")]
    SweepOver { id: String, state: &'static str, wanted: &'static str },
    /// Somebody else changed the rows first; harmless to try again.
    #[error("{0} changed while it was being written")]
    Conflict(&'static str),
    /// The database holds something that this program never wrote.
    #[error("table {table}, row {row}: unexpected {what}")]
    Corrupt { table: &'static str, row: String, what: String },
    #[error("the database did not answer")]
    Database(#[source] Arc<Failure>),
    /// The same again would fail again.
    #[error("the database refused what was asked of it: a defect of the coordinator, whose log says more")]
    Refused(#[source] Arc<Failure>),
    #[error("the coordinator is shutting down")]
    Closed,
}

/// What a database, or the way to it, answered instead.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Postgres(#[from] sqlx::Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let is_permanent = match &failure {
            Failure::Sqlite(error) => is_permanent_in_sqlite(error),
            Failure::Postgres(error) => is_permanent_in_postgres(error),
        };
        let failure = Arc::new(failure);
        if is_permanent { Self::Refused(failure) } else { Self::Database(failure) }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Failure::from(error).into()
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Failure::from(error).into()
    }
}

/// Whether the database said no for good: to a wrong statement, too big a value, a constraint, a wrong type, a parameter
/// out of range. What it cannot do now (the disk is full, a file cannot be read) may go well later.
fn is_permanent_in_sqlite(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as C;
    match error.sqlite_error() {
        Some(error) => matches!(
            error.code,
            C::Unknown | C::TooBig | C::ConstraintViolation | C::TypeMismatch | C::ParameterOutOfRange
        ),
        // What the library itself could not make of an answer.
        None => true,
    }
}

fn is_permanent_in_postgres(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::Encode(_) => true,
        sqlx::Error::Database(error) => is_permanent_state(&error.code().unwrap_or_default()),
        _ => false,
    }
}

/// SQLSTATE: class 22 is data, 23 constraints, 42 statements.
fn is_permanent_state(code: &str) -> bool {
    ["22", "23", "42"].iter().any(|class| code.starts_with(class))
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What is wrong with the URL. It never repeats the URL, which may hold a password.
    #[error("the database URL {0}; give sqlite:PATH or postgres://USER@HOST/NAME")]
    Url(String),
    #[error("another coordinator is using {}; stop it, or give this one another --database-url", .0.display())]
    InUse(PathBuf),
    #[error("the lock file {} cannot be made; its folder must exist and be writable", path.display())]
    LockFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} lies on a network file system, where SQLite is not safe; use a local folder or Postgres", .0.display())]
    NetworkFileSystem(PathBuf),
    #[error(
        "the database has schema version {found}, and this coordinator knows up to {known}; install a newer coordinator"
    )]
    Newer { found: i64, known: i64 },
    #[error("the database was not made by promptsweep (it holds {0}); give an empty one")]
    Foreign(String),
    #[error("the database cannot be opened")]
    Connect(#[source] Failure),
    #[error("no database answers at {host}:{port}; start it, or give another --database-url")]
    Away {
        host: String,
        port: u16,
        #[source]
        source: Failure,
    },
    #[error("there is no database {}; give the --database-url of one", .0.display())]
    Missing(PathBuf),
    #[error("the database cannot be brought to schema version {version}")]
    Migrate {
        version: i64,
        #[source]
        source: Failure,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_permanent() {
        let sqlite = |code| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        for code in [19, 2067, 787, 1] {
            assert!(is_permanent_in_sqlite(&sqlite(code)), "{code}");
        }
        for code in [5, 261, 10, 13] {
            assert!(!is_permanent_in_sqlite(&sqlite(code)), "{code}");
        }
        for code in ["23505", "22003", "42P01"] {
            assert!(is_permanent_state(code), "{code}");
        }
        for code in ["40001", "57014", "08006", "53300", ""] {
            assert!(!is_permanent_state(code), "{code}");
        }
        assert!(matches!(Error::from(sqlx::Error::PoolTimedOut), Error::Database(_)));
        assert!(matches!(Error::from(sqlx::Error::ColumnNotFound("x".to_owned())), Error::Refused(_)));
        assert!(matches!(Error::from(rusqlite::Error::InvalidColumnName("x".to_owned())), Error::Refused(_)));
    }
}
