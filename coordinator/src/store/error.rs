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
    Database(#[source] Arc<sqlx::Error>),
    /// The same again would fail again.
    #[error("the database refused what was asked of it: a defect of the coordinator, whose log says more")]
    Refused(#[source] Arc<sqlx::Error>),
    #[error("the coordinator is shutting down")]
    Closed,
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if is_permanent(&error) { Self::Refused(Arc::new(error)) } else { Self::Database(Arc::new(error)) }
    }
}

/// Whether a database answered, and said no for good.
fn is_permanent(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::Encode(_) => true,
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
                is_permanent_in_sqlite(&code)
            } else {
                is_permanent_in_postgres(&code)
            }
        }
        _ => false,
    }
}

/// SQLSTATE: class 22 is data, 23 constraints, 42 statements.
fn is_permanent_in_postgres(code: &str) -> bool {
    ["22", "23", "42"].iter().any(|class| code.starts_with(class))
}

/// The low byte of a result code: 1 is a wrong statement, 18 too big a value, 19 a constraint, 20 a wrong type, 25 a
/// parameter out of range.
fn is_permanent_in_sqlite(code: &str) -> bool {
    code.parse().is_ok_and(|code: i32| matches!(code & 0xff, 1 | 18 | 19 | 20 | 25))
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
    Connect(#[source] sqlx::Error),
    #[error("no database answers at {host}:{port}; start it, or give another --database-url")]
    Away {
        host: String,
        port: u16,
        #[source]
        source: sqlx::Error,
    },
    #[error("there is no database {}; give the --database-url of one", .0.display())]
    Missing(PathBuf),
    #[error("the database cannot be brought to schema version {version}")]
    Migrate {
        version: i64,
        #[source]
        source: sqlx::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_permanent() {
        for code in ["19", "2067", "787", "1"] {
            assert!(is_permanent_in_sqlite(code), "{code}");
        }
        for code in ["5", "261", "10", "13", "", "x"] {
            assert!(!is_permanent_in_sqlite(code), "{code}");
        }
        for code in ["23505", "22003", "42P01"] {
            assert!(is_permanent_in_postgres(code), "{code}");
        }
        for code in ["40001", "57014", "08006", "53300", ""] {
            assert!(!is_permanent_in_postgres(code), "{code}");
        }
        assert!(matches!(Error::from(sqlx::Error::PoolTimedOut), Error::Database(_)));
        assert!(matches!(Error::from(sqlx::Error::ColumnNotFound("x".to_owned())), Error::Refused(_)));
    }
}
