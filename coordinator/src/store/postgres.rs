//! Postgres: any number of coordinators, each with a pool. Transactions are short, and repeated here when the server
//! asks for it.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use super::error::{Error, OpenError};
use super::tx::{Sql, Tx, args, record};
use super::{Clock, Op, migrate};
use crate::trial::Millis;

const CONNECTIONS: u32 = 16;
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
}

impl Postgres {
    pub(super) async fn open(url: &str, clock: Clock) -> Result<Self, OpenError> {
        let options: PgConnectOptions = url.parse().map_err(OpenError::Connect)?;
        let options = options.application_name("promptsweep coordinator").options([
            ("statement_timeout", "30s"),
            ("idle_in_transaction_session_timeout", "30s"),
            ("synchronous_commit", "on"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(options)
            .await
            .map_err(OpenError::Connect)?;
        migrate(&pool).await?;
        Ok(Self { pool, clock })
    }

    pub(super) async fn write<O: Op>(&self, op: &O) -> Result<O::Output, Error> {
        let mut tried = 1;
        loop {
            match self.write_once(op).await {
                Err(error) if tried < TRIES && is_lost_race(&error) => {
                    tracing::debug!(%error, tried, "transaction repeated");
                    let wait = rand::random_range(1..=(2u64 << tried));
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                    tried += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn write_once<O: Op>(&self, op: &O) -> Result<O::Output, Error> {
        let mut tx = self.pool.begin().await?;
        let now = self.now(&mut *tx).await?;
        let output = op.run(&mut *tx, now).await;
        match output {
            Ok(_) => tx.commit().await?,
            Err(_) => tx.rollback().await?,
        }
        output
    }

    pub(super) async fn read<O: Op>(&self, op: &O) -> Result<O::Output, Error> {
        let mut tx = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let now = self.now(&mut *tx).await?;
        let output = op.run(&mut *tx, now).await;
        tx.rollback().await?;
        output
    }

    async fn now<T: Tx>(&self, tx: &mut T) -> Result<Millis, Error> {
        if let Some(now) = self.clock.manual() {
            return Ok(now);
        }
        let row: Option<Now> = tx.fetch_one(NOW, args![]).await?;
        row.map(|row| row.now).ok_or(Error::Database(std::sync::Arc::new(sqlx::Error::RowNotFound)))
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

/// Serialization failure, deadlock, or a row that another coordinator changed or inserted first.
fn is_lost_race(error: &Error) -> bool {
    match error {
        Error::Conflict(_) => true,
        Error::Database(error) | Error::Refused(error) => {
            let code = error.as_database_error().and_then(|e| e.code());
            matches!(code.as_deref(), Some("40001" | "40P01" | "23505"))
        }
        _ => false,
    }
}

async fn migrate(pool: &PgPool) -> Result<(), OpenError> {
    let mut tx = pool.begin().await.map_err(OpenError::Connect)?;
    let lock = sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK);
    lock.execute(&mut *tx).await.map_err(OpenError::Connect)?;
    for (version, script) in migrate::pending(&mut *tx).await? {
        let script = sqlx::raw_sql(script.postgres).execute(&mut *tx).await;
        script.map_err(|source| OpenError::Migrate { version, source })?;
        migrate::reached(&mut *tx, version).await?;
        tracing::info!(version, "schema migrated");
    }
    tx.commit().await.map_err(OpenError::Connect)
}
