//! The truth, in SQLite or Postgres. Every change is an [`Op`]: it loads rows, lets [`crate::trial::apply`] decide, and
//! writes what was decided, in one transaction that commits before anybody is told.
//!
//! Locks are taken in one order: worker, sweep, then what belongs to the sweep. Whoever changes a trial holds its sweep,
//! so the sweep's counters, limits and event numbers are exact, whatever number of coordinators there are.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::sync::watch;

use crate::trial::Millis;

mod ask;
pub mod check;
mod error;
pub mod explain;
mod group;
mod migrate;
pub mod ops;
mod postgres;
pub mod reads;
pub mod rows;
mod sql;
mod sqlite;
mod tx;

pub use error::{Error, Failure, OpenError};
pub use sql::leases::Token;
pub use tx::{Arg, Sql, Tx};

/// A unit of work on the database, written once for both.
pub trait Op: Send + Sync + 'static {
    /// What the caller is told.
    type Output: Send + 'static;

    /// Does the work. It may be run again from the start when the transaction has to be repeated.
    fn run<T: Tx>(&self, tx: &mut T, now: Millis)
    -> impl Future<Output = Result<Self::Output, Error>> + Send;

    /// Whether this call can be done in one with others that wait at the same time.
    fn joins(&self, _others: &[&Self]) -> bool {
        false
    }

    /// Does the work of calls that join, as if one after the other. After an error nothing of it may stay.
    fn run_all<T: Tx>(
        calls: &[&Self],
        tx: &mut T,
        now: Millis,
    ) -> impl Future<Output = Result<Vec<Result<Self::Output, Error>>, Error>> + Send {
        async move {
            let mut outputs = Vec::with_capacity(calls.len());
            for call in calls {
                outputs.push(Ok(call.run(tx, now).await?));
            }
            Ok(outputs)
        }
    }

    /// Whether the work is small, so that it may share a transaction with others: nobody waits long for it.
    const IS_SMALL: bool = true;

    /// Whether this outcome may be what a lease or a watch is waiting for.
    fn wakes(_output: &Self::Output) -> bool {
        true
    }
}

/// Where the time of a transaction comes from.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The database server's clock on Postgres, this machine's on SQLite.
    #[default]
    System,
    /// Set by hand, for tests.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The time set by hand, if it is.
    fn manual(&self) -> Option<Millis> {
        match self {
            Self::System => None,
            Self::Manual(now) => Some(now.load(Ordering::SeqCst)),
        }
    }

    /// The time on this machine.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn local(&self) -> Millis {
        self.manual().unwrap_or_else(|| {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            since.map_or(0, |since| since.as_millis() as Millis)
        })
    }
}

/// An open database.
#[derive(Debug, Clone)]
pub struct Store {
    database: Database,
    changes: Arc<watch::Sender<u64>>,
    commits: Arc<AtomicU64>,
}

#[derive(Debug, Clone)]
enum Database {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

impl Store {
    /// Opens `sqlite:PATH` (made if missing) or `postgres://…`, and brings its schema up to date.
    ///
    /// # Errors
    /// When the database is away, in use by another SQLite coordinator, newer than this program, or not ours.
    pub async fn open(url: &str, clock: Clock) -> Result<Self, OpenError> {
        let commits = Arc::new(AtomicU64::new(0));
        let database = if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.trim_start_matches("//");
            Database::Sqlite(sqlite::Sqlite::open(path, clock, Arc::clone(&commits)).await?)
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Database::Postgres(postgres::Postgres::open(url, clock, Arc::clone(&commits)).await?)
        } else {
            let wrong = url.split_once(':').map(|(scheme, _)| format!("has the unknown scheme `{scheme}`"));
            return Err(OpenError::Url(wrong.unwrap_or_else(|| "has no scheme".to_owned())));
        };
        Ok(Self { database, changes: Arc::new(watch::Sender::new(0)), commits })
    }

    /// Runs an operation that may change something, and answers after its commit.
    ///
    /// # Errors
    /// The operation's own, or [`Error::Database`].
    pub async fn write<O: Op>(&self, op: O) -> Result<O::Output, Error> {
        let output = match &self.database {
            Database::Sqlite(sqlite) => sqlite.write(op).await,
            Database::Postgres(postgres) => postgres.write(op).await,
        }?;
        if O::wakes(&output) {
            self.changes.send_modify(|count| *count = count.wrapping_add(1));
        }
        Ok(output)
    }

    /// Runs an operation that only reads, on one consistent snapshot.
    ///
    /// # Errors
    /// The operation's own, or [`Error::Database`].
    pub async fn read<O: Op>(&self, op: O) -> Result<O::Output, Error> {
        match &self.database {
            Database::Sqlite(sqlite) => sqlite.read(op).await,
            Database::Postgres(postgres) => postgres.read(op).await,
        }
    }

    /// Signals changes made through this process. Others may write the same Postgres, so poll as well.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How many transactions this process has committed.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Finishes what was accepted and closes the connections.
    pub async fn close(&self) {
        match &self.database {
            Database::Sqlite(sqlite) => sqlite.close().await,
            Database::Postgres(postgres) => postgres.close().await,
        }
    }
}
