//! SQLite: one writer task owns the one connection that writes. It groups what is waiting into a transaction, gives
//! each operation a savepoint of its own, and answers after the commit. Readers have a small read-only pool.

use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{Connection, Executor};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::error::{Error, OpenError};
use super::{Clock, Op, migrate};
use crate::trial::Millis;

/// Operations committed together at most.
const GROUP: usize = 64;
/// Operations that may wait for the writer before callers have to.
const WAITING: usize = 1024;
const READERS: u32 = 4;
const BUSY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(super) struct Sqlite {
    jobs: mpsc::Sender<Box<dyn Job>>,
    readers: SqlitePool,
    clock: Clock,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
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
        let (jobs, queue) = mpsc::channel(WAITING);
        let writer = tokio::spawn(write_all(connection, queue, clock.clone(), lock, commits));
        Ok(Self { jobs, readers, clock, writer: Arc::new(Mutex::new(Some(writer))) })
    }

    pub(super) async fn write<O: Op>(&self, op: O) -> Result<O::Output, Error> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Box::new(Queued { op, reply })).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    pub(super) async fn read<O: Op>(&self, op: &O) -> Result<O::Output, Error> {
        let mut tx = self.readers.begin().await?;
        let output = op.run(&mut *tx, self.clock.local()).await;
        tx.rollback().await?;
        output
    }

    pub(super) async fn close(&self) {
        let writer = self.writer.lock().ok().and_then(|mut writer| writer.take());
        if let Some(writer) = writer {
            // A full queue is drained first: the writer takes messages in order.
            let _ = self.jobs.send(Box::new(Stop)).await;
            let _ = writer.await;
        }
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

/// An operation whose type the writer does not know.
trait Job: Send {
    fn run<'a>(
        self: Box<Self>,
        connection: &'a mut SqliteConnection,
        now: Millis,
    ) -> Pin<Box<dyn Future<Output = Done> + Send + 'a>>;

    /// Answers without having run.
    fn refuse(self: Box<Self>, error: Error);

    fn is_stop(&self) -> bool {
        false
    }
}

/// A job that has run: whether to keep its writes, and the answer that is sent after the commit.
struct Done {
    keep: bool,
    answer: Box<dyn FnOnce(Option<Error>) + Send>,
}

struct Queued<O: Op> {
    op: O,
    reply: oneshot::Sender<Result<O::Output, Error>>,
}

impl<O: Op> Job for Queued<O> {
    fn run<'a>(
        self: Box<Self>,
        connection: &'a mut SqliteConnection,
        now: Millis,
    ) -> Pin<Box<dyn Future<Output = Done> + Send + 'a>> {
        Box::pin(async move {
            let Self { op, reply } = *self;
            let output = op.run(connection, now).await;
            Done {
                keep: output.is_ok(),
                // Nobody listens when the caller went away; the commit stands, and its repetition is harmless.
                answer: Box::new(move |error| drop(reply.send(error.map_or(output, Err)))),
            }
        })
    }

    fn refuse(self: Box<Self>, error: Error) {
        drop(self.reply.send(Err(error)));
    }
}

/// The last job.
struct Stop;

impl Job for Stop {
    fn run<'a>(
        self: Box<Self>,
        _connection: &'a mut SqliteConnection,
        _now: Millis,
    ) -> Pin<Box<dyn Future<Output = Done> + Send + 'a>> {
        Box::pin(async { Done { keep: false, answer: Box::new(|_| ()) } })
    }

    fn refuse(self: Box<Self>, _error: Error) {}

    fn is_stop(&self) -> bool {
        true
    }
}

/// The writer: ends after `Stop`, or when nobody can send any more. Holds the lock to its end.
async fn write_all(
    mut connection: SqliteConnection,
    mut queue: mpsc::Receiver<Box<dyn Job>>,
    clock: Clock,
    lock: Flock<File>,
    commits: Arc<AtomicU64>,
) {
    let mut group = Vec::with_capacity(GROUP);
    let mut stopping = false;
    while !stopping && queue.recv_many(&mut group, GROUP).await > 0 {
        stopping = group.iter().any(|job| job.is_stop());
        if write_group(&mut connection, group.drain(..), clock.local()).await {
            commits.fetch_add(1, Ordering::Relaxed);
        }
    }
    queue.close();
    while let Some(job) = queue.recv().await {
        job.refuse(Error::Closed);
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "database closed badly");
    }
    drop(lock);
}

/// Whether it was committed.
async fn write_group(
    connection: &mut SqliteConnection,
    group: impl Iterator<Item = Box<dyn Job>>,
    now: Millis,
) -> bool {
    if let Err(error) = connection.execute("BEGIN IMMEDIATE").await {
        let error = Error::from(error);
        group.for_each(|job| job.refuse(error.clone()));
        return false;
    }
    let mut answers = Vec::new();
    let mut broken: Option<Error> = None;
    for job in group {
        if let Some(error) = &broken {
            job.refuse(error.clone());
            continue;
        }
        match write_one(connection, job, now).await {
            Ok(done) => answers.push(done.answer),
            Err((answer, error)) => {
                answers.extend(answer);
                broken = Some(error);
            }
        }
    }
    if broken.is_none() {
        broken = connection.execute("COMMIT").await.err().map(Error::from);
    }
    if let Some(error) = &broken {
        tracing::error!(%error, "group of writes failed");
        // The failure may have ended the transaction already.
        let _ = connection.execute("ROLLBACK").await;
    }
    let is_committed = broken.is_none();
    for answer in answers {
        answer(broken.clone());
    }
    is_committed
}

type Answer = Box<dyn FnOnce(Option<Error>) + Send>;

/// Runs a job in its savepoint. An error means that the savepoint itself failed, so the whole group must.
async fn write_one(
    connection: &mut SqliteConnection,
    job: Box<dyn Job>,
    now: Millis,
) -> Result<Done, (Option<Answer>, Error)> {
    if let Err(error) = connection.execute("SAVEPOINT op").await {
        let error = Error::from(error);
        job.refuse(error.clone());
        return Err((None, error));
    }
    let done = job.run(connection, now).await;
    let end = if done.keep { "RELEASE op" } else { "ROLLBACK TO op; RELEASE op" };
    match sqlx::raw_sql(end).execute(&mut *connection).await {
        Ok(_) => Ok(done),
        Err(error) => Err((Some(done.answer), error.into())),
    }
}
