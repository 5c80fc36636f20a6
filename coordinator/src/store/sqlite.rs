//! SQLite: one writer task owns the one connection that writes, and commits in groups. Readers have a small read-only
//! pool.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{Connection, Executor};

use super::error::{Error, OpenError};
use super::group::{self, Job, Queue, Writer};
use super::{Clock, Op, migrate};
use crate::trial::Millis;

const READERS: u32 = 4;
const BUSY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(super) struct Sqlite {
    writer: Writer<SqliteConnection>,
    readers: SqlitePool,
    clock: Clock,
}

impl Sqlite {
    pub(super) async fn open(path: &str, clock: Clock, commits: Arc<AtomicU64>) -> Result<Self, OpenError> {
        if path.is_empty() || path.contains('?') || path.contains(":memory:") {
            return Err(OpenError::Url("`sqlite:…` names no plain file".to_owned()));
        }
        let path = PathBuf::from(path);
        let lock = lock(&path)?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        let mut connection =
            SqliteConnection::connect_with(&options.clone().create_if_missing(true)).await.map_err(
                |error| match error.as_database_error().and_then(|e| e.code()).as_deref() {
                    Some("26") => OpenError::Foreign("something else than tables".to_owned()),
                    _ => OpenError::Connect(error),
                },
            )?;
        migrate(&mut connection).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true))
            .await
            .map_err(OpenError::Connect)?;
        let own_clock = clock.clone();
        let writer = Writer::start(|queue| write_all(connection, queue, own_clock, lock, commits));
        Ok(Self { writer, readers, clock })
    }

    pub(super) async fn write<O: Op>(&self, op: O) -> Result<O::Output, Error> {
        self.writer.write(Arc::new(op)).await
    }

    pub(super) async fn read<O: Op>(&self, op: &O) -> Result<O::Output, Error> {
        let mut tx = self.readers.begin().await?;
        let output = op.run(&mut *tx, self.clock.local()).await;
        tx.rollback().await?;
        output
    }

    pub(super) async fn close(&self) {
        self.writer.close().await;
        self.readers.close().await;
    }
}

/// Holds the file beside the database that keeps a second coordinator out, for as long as it lives.
fn lock(database: &Path) -> Result<Flock<File>, OpenError> {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file = File::options().create(true).append(true).open(&path);
    let file = file.map_err(|source| OpenError::LockFile { path: path.clone(), source })?;
    if is_on_network(&file) {
        return Err(OpenError::NetworkFileSystem(database.to_owned()));
    }
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => OpenError::InUse(database.to_owned()),
        errno => OpenError::LockFile { path, source: errno.into() },
    })
}

/// Refuses network file systems, where locks and the write-ahead log are not safe.
#[cfg(target_os = "linux")]
fn is_on_network(file: &File) -> bool {
    let Ok(kind) = nix::sys::statfs::fstatfs(file) else { return false };
    // Its numbers have 32 bits; some machines hold them in a signed word.
    let kind = kind.filesystem_type().0 as u32;
    if kind == FUSE {
        tracing::warn!(
            "the database lies on a FUSE file system; if that is a remote one, it is not safe there"
        );
    }
    NETWORK.contains(&kind)
}

#[cfg(not(target_os = "linux"))]
fn is_on_network(_file: &File) -> bool {
    false
}

/// As `statfs` names them: NFS, SMB, CIFS, SMB2, Lustre, CephFS, 9p, AFS, GPFS, BeeGFS.
#[cfg(target_os = "linux")]
const NETWORK: [u32; 10] = [
    0x6969,
    0x517B,
    0xFF53_4D42,
    0xFE53_4D42,
    0x0BD0_0BD0,
    0x00C3_6400,
    0x0102_1997,
    0x5346_414F,
    0x4750_4653,
    0x1983_0326,
];
/// May be local or remote.
#[cfg(target_os = "linux")]
const FUSE: u32 = 0x6573_5546;

async fn migrate(connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(OpenError::Connect)?;
    for (version, script) in migrate::pending(&mut *tx).await? {
        let script = sqlx::raw_sql(script.sqlite).execute(&mut *tx).await;
        script.map_err(|source| OpenError::Migrate { version, source })?;
        migrate::reached(&mut *tx, version).await?;
        tracing::info!(version, "schema migrated");
    }
    tx.commit().await.map_err(OpenError::Connect)
}

/// The writer: ends when the queue does. Holds the lock to its end.
async fn write_all(
    mut connection: SqliteConnection,
    mut queue: Queue<SqliteConnection>,
    clock: Clock,
    lock: Flock<File>,
    commits: Arc<AtomicU64>,
) {
    while let Some((jobs, goes_on)) = queue.next().await {
        if write_group(&mut connection, jobs, clock.local()).await {
            commits.fetch_add(1, Ordering::Relaxed);
        }
        if !goes_on {
            break;
        }
    }
    queue.close().await;
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "database closed badly");
    }
    drop(lock);
}

/// Whether it was committed.
async fn write_group(
    connection: &mut SqliteConnection,
    jobs: Vec<Box<dyn Job<SqliteConnection>>>,
    now: Millis,
) -> bool {
    if let Err(error) = connection.execute("BEGIN IMMEDIATE").await {
        group::refuse(jobs, &error.into());
        return false;
    }
    let (answers, mut outcome) = group::run(connection, jobs, now).await;
    if outcome.is_ok() {
        outcome = connection.execute("COMMIT").await.map(drop).map_err(Error::from);
    }
    if outcome.is_err() {
        // The failure may have ended the transaction already.
        let _ = connection.execute("ROLLBACK").await;
    }
    group::tell(answers, &outcome);
    outcome.is_ok()
}
