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
    #[error("there is no trial {0}")]
    NoTrial(TrialId),
    #[error("worker `{0}` is not registered here; register again")]
    NoWorker(String),
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
    #[error("the coordinator is shutting down")]
    Closed,
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("database URL `{0}` is neither sqlite:PATH nor postgres://USER@HOST/NAME")]
    Url(String),
    #[error("another coordinator is using {}; stop it, or give this one another --database-url", .0.display())]
    InUse(PathBuf),
    #[error("the lock file {} cannot be taken", path.display())]
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
    #[error("the database cannot be brought to schema version {version}")]
    Migrate {
        version: i64,
        #[source]
        source: sqlx::Error,
    },
}
