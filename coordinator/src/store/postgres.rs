//! Postgres: any number of coordinators, each with a pool. Transactions are short, and repeated here when the server
//! asks for it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use tokio::time::Instant;

use super::error::{Error, Failure, OpenError};
use super::group::{self, Job, Queue, Writer};
use super::tx::{Sql, Tx, args, record};
use super::{Clock, Op, migrate};
use crate::trial::Millis;

const CONNECTIONS: u32 = 16;
/// How long a call waits for a connection, one that is made anew included.
const ACQUIRE: Duration = Duration::from_secs(5);
/// How long a call goes on trying when the server is away; then it is told so, and tries again itself.
const AWAY: Duration = Duration::from_secs(10);
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// How often a transaction that lost a race is run again.
const TRIES: u32 = 10;
/// Key of the advisory lock that is held while migrating: "sweep" in ASCII.
const MIGRATION_LOCK: i64 = 0x0073_7765_6570;
const NOW: Sql = Sql::both("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now");

record! { struct Now { now: i64 } }

#[derive(Debug, Clone)]
pub(super) struct Postgres {
    pool: PgPool,
    clock: Clock,
    commits: Arc<AtomicU64>,
    /// Of what is small. A sweep's row is locked until the commit, so that transactions of one sweep come one after
    /// the other, whatever number of connections there is.
    writer: Writer<PgConnection>,
}

impl Postgres {
    pub(super) async fn open(url: &str, clock: Clock, commits: Arc<AtomicU64>) -> Result<Self, OpenError> {
        let options: PgConnectOptions = url.parse().map_err(connecting)?;
        let options = options.application_name("promptsweep coordinator").options([
            ("statement_timeout", "30s"),
            ("idle_in_transaction_session_timeout", "30s"),
            ("synchronous_commit", "on"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE)
            .connect_with(options.clone())
            .await;
        let pool = match pool {
            Ok(pool) => pool,
            Err(error) => return Err(away(&options, error).await),
        };
        migrate(&pool).await?;
        let (own_pool, own_clock, own_commits) = (pool.clone(), clock.clone(), Arc::clone(&commits));
        let writer = Writer::start(|queue| tokio::spawn(write_all(own_pool, queue, own_clock, own_commits)));
        Ok(Self { pool, clock, commits, writer })
    }

    pub(super) async fn write<O: Op>(&self, op: O) -> Result<O::Output, Error> {
        if !O::IS_SMALL {
            return repeat(|| self.write_once(&op)).await;
        }
        let op = Arc::new(op);
        repeat(|| self.writer.write(Arc::clone(&op))).await
    }

    pub(super) async fn read<O: Op>(&self, op: O) -> Result<O::Output, Error> {
        repeat(|| self.read_once(&op)).await
    }

    async fn write_once<O: Op>(&self, op: &O) -> Result<O::Output, Error> {
        let mut tx = self.pool.begin().await?;
        let now = time(&mut *tx, &self.clock).await?;
        let output = op.run(&mut *tx, now).await;
        match output {
            Ok(_) => {
                tx.commit().await?;
                self.commits.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => tx.rollback().await?,
        }
        output
    }

    async fn read_once<O: Op>(&self, op: &O) -> Result<O::Output, Error> {
        let mut tx = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let now = time(&mut *tx, &self.clock).await?;
        let output = op.run(&mut *tx, now).await;
        tx.rollback().await?;
        output
    }

    pub(super) async fn close(&self) {
        self.writer.close().await;
        self.pool.close().await;
    }
}

async fn time<T: Tx>(tx: &mut T, clock: &Clock) -> Result<Millis, Error> {
    if let Some(now) = clock.manual() {
        return Ok(now);
    }
    let row: Option<Now> = tx.fetch_one(NOW, args![]).await?;
    row.map(|row| row.now).ok_or(sqlx::Error::RowNotFound.into())
}

fn connecting(error: sqlx::Error) -> OpenError {
    OpenError::Connect(error.into())
}

/// Why no connection was had. A pool that waited in vain does not say it; a connection of its own does.
async fn away(options: &PgConnectOptions, error: sqlx::Error) -> OpenError {
    let source = match error {
        sqlx::Error::PoolTimedOut => PgConnection::connect_with(options).await.err().unwrap_or(error),
        error => error,
    };
    match source {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => OpenError::Away {
            host: options.get_host().to_owned(),
            port: options.get_port(),
            source: source.into(),
        },
        source => connecting(source),
    }
}

async fn write_all(pool: PgPool, mut queue: Queue<PgConnection>, clock: Clock, commits: Arc<AtomicU64>) {
    while let Some((jobs, goes_on)) = queue.next().await {
        write_group(&pool, jobs, &clock, &commits).await;
        if !goes_on {
            break;
        }
    }
    queue.close().await;
}

async fn write_group(
    pool: &PgPool,
    jobs: Vec<Box<dyn Job<PgConnection>>>,
    clock: &Clock,
    commits: &AtomicU64,
) {
    let mut tx = match pool.begin().await {
        Ok(tx) => tx,
        Err(error) => return group::refuse(jobs, &error.into()),
    };
    let now = match time(&mut *tx, clock).await {
        Ok(now) => now,
        Err(error) => return group::refuse(jobs, &error),
    };
    let (answers, mut outcome) = group::run(&mut *tx, jobs, now).await;
    if outcome.is_ok() {
        outcome = tx.commit().await.map_err(Error::from);
        commits.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
    }
    group::tell(answers, &outcome);
}

/// The one place where transactions are repeated: one that lost a race soon, and one whose server went away until it is
/// back, within bounds. The commit of the latter may have been done though nobody was told: every operation is harmless
/// to repeat.
async fn repeat<V, F>(mut once: impl FnMut() -> F) -> Result<V, Error>
where
    F: Future<Output = Result<V, Error>>,
{
    let started = Instant::now();
    let (mut races, mut pause) = (1, PAUSE_FIRST);
    loop {
        let error = match once().await {
            Ok(output) => return Ok(output),
            Err(error) => error,
        };
        let wait = if is_lost_race(&error) && races < TRIES {
            races += 1;
            Duration::from_millis(rand::random_range(1..=(1u64 << races)))
        } else if is_away(&error) && started.elapsed() + pause < AWAY {
            let wait = pause.mul_f64(rand::random_range(0.5..1.0));
            pause = (pause * 2).min(PAUSE_LONGEST);
            wait
        } else {
            return Err(error);
        };
        tracing::debug!(%error, ?wait, "transaction repeated");
        tokio::time::sleep(wait).await;
    }
}

/// Whether the server, or the way to it, is gone: a connection broke or could not be made, or the server stops or
/// starts.
fn is_away(error: &Error) -> bool {
    let Error::Database(failure) = error else { return false };
    let Failure::Postgres(error) = &**failure else { return false };
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            code.starts_with("08") || matches!(&*code, "57P01" | "57P02" | "57P03")
        }
        _ => false,
    }
}

/// Serialization failure, deadlock, or a row that another coordinator changed or inserted first.
fn is_lost_race(error: &Error) -> bool {
    match error {
        Error::Conflict(_) => true,
        Error::Database(failure) | Error::Refused(failure) => {
            let Failure::Postgres(error) = &**failure else { return false };
            let code = error.as_database_error().and_then(|e| e.code());
            matches!(code.as_deref(), Some("40001" | "40P01" | "23505"))
        }
        _ => false,
    }
}

async fn migrate(pool: &PgPool) -> Result<(), OpenError> {
    let mut tx = pool.begin().await.map_err(connecting)?;
    let lock = sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK);
    lock.execute(&mut *tx).await.map_err(connecting)?;
    for (version, script) in migrate::pending(&mut *tx).await? {
        let script = sqlx::raw_sql(script.postgres).execute(&mut *tx).await;
        script.map_err(|source| OpenError::Migrate { version, source: source.into() })?;
        migrate::reached(&mut *tx, version).await?;
        tracing::info!(version, "schema migrated");
    }
    tx.commit().await.map_err(connecting)
}
