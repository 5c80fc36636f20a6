//! SQLite: one thread owns the one connection that writes, and commits in groups. Readers have a few connections of their
//! own, each used by one thread at a time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, OpenFlags};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::error::{Error, OpenError};
use super::group::{self, Job, Queue, Writer};
use super::{Clock, Op, migrate};
use crate::trial::Millis;

const READERS: usize = 4;
const BUSY: Duration = Duration::from_secs(10);
/// Statements that a connection keeps ready: more than there are.
const STATEMENTS: usize = 256;
/// Pages of the log after which a commit writes them back into the database: 16 MiB.
const CHECKPOINT: i64 = 4_096;

#[derive(Debug, Clone)]
pub(super) struct Sqlite {
    writer: Writer<Connection>,
    readers: Arc<Readers>,
    clock: Clock,
}

/// Connections that only read.
#[derive(Debug)]
struct Readers {
    path: PathBuf,
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Sqlite {
    pub(super) async fn open(path: &str, clock: Clock, commits: Arc<AtomicU64>) -> Result<Self, OpenError> {
        if path.is_empty() || path.contains('?') || path.contains(":memory:") {
            return Err(OpenError::Url("`sqlite:…` names no plain file".to_owned()));
        }
        let path = PathBuf::from(path);
        let lock = lock(&path)?;
        let mut connection = connect_to_write(&path).map_err(|error| migrate::opening(error.into()))?;
        migrate(&mut connection).await?;
        let own_clock = clock.clone();
        let writer = Writer::start(|queue| {
            let run = write_all(connection, queue, own_clock, lock, commits);
            spawn_blocking(|| Handle::current().block_on(run))
        });
        let readers = Readers { path, permits: Semaphore::new(READERS), idle: Mutex::new(Vec::new()) };
        Ok(Self { writer, readers: Arc::new(readers), clock })
    }

    pub(super) async fn write<O: Op>(&self, op: O) -> Result<O::Output, Error> {
        self.writer.write(Arc::new(op)).await
    }

    pub(super) async fn read<O: Op>(&self, op: O) -> Result<O::Output, Error> {
        let readers = Arc::clone(&self.readers);
        let now = self.clock.local();
        let _permit = self.readers.permits.acquire().await.map_err(|_| Error::Closed)?;
        spawn_blocking(move || readers.read(&op, now)).await.map_err(|_| Error::Closed)?
    }

    pub(super) async fn close(&self) {
        self.writer.close().await;
        self.readers.permits.close();
        self.readers.idle().clear();
    }
}

impl Readers {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// One that has failed is not used again.
    fn read<O: Op>(&self, op: &O, now: Millis) -> Result<O::Output, Error> {
        let idle = self.idle().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        };
        connection.execute_batch("BEGIN")?;
        let output = Handle::current().block_on(op.run(&mut connection, now));
        connection.execute_batch("ROLLBACK")?;
        self.idle().push(connection);
        output
    }
}

/// A connection with the settings that every one has.
pub(super) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, rusqlite::Error> {
    // No thread shares a connection with another, so it needs no lock of its own.
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "cache_size", -16_384)?;
    Ok(connection)
}

fn connect_to_write(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT)?;
    Ok(connection)
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

async fn migrate(connection: &mut Connection) -> Result<(), OpenError> {
    connection.execute_batch("BEGIN IMMEDIATE").map_err(|error| migrate::opening(error.into()))?;
    for (version, script) in migrate::pending(connection).await? {
        let script = connection.execute_batch(script.sqlite);
        script.map_err(|error| OpenError::Migrate { version, source: error.into() })?;
        migrate::reached(connection, version).await?;
        tracing::info!(version, "schema migrated");
    }
    connection.execute_batch("COMMIT").map_err(|error| OpenError::Connect(error.into()))
}

/// The writer: ends when the queue does. Holds the lock to its end.
async fn write_all(
    mut connection: Connection,
    mut queue: Queue<Connection>,
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
    if let Err((_, error)) = connection.close() {
        tracing::warn!(%error, "database closed badly");
    }
    drop(lock);
}

/// Whether it was committed.
async fn write_group(connection: &mut Connection, jobs: Vec<Box<dyn Job<Connection>>>, now: Millis) -> bool {
    if let Err(error) = connection.execute_batch("BEGIN IMMEDIATE") {
        group::refuse(jobs, &error.into());
        return false;
    }
    let (answers, mut outcome) = group::run(connection, jobs, now).await;
    if outcome.is_ok() {
        outcome = connection.execute_batch("COMMIT").map_err(Error::from);
    }
    if outcome.is_err() {
        // The failure may have ended the transaction already.
        let _ = connection.execute_batch("ROLLBACK");
    }
    group::tell(answers, &outcome);
    outcome.is_ok()
}
