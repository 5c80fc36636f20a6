//! The one thing an operation knows about a database: statements go in, typed rows come out.
//!
//! A statement is native SQL, written once where both databases read it alike and side by side where they differ.
//! Many rows travel as one JSON parameter, so that a batch is one statement and one round trip on either.

use std::future::Future;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Executor, FromRow};

/// A statement in the two dialects. Parameters are `$1`, `$2`, … in both.
#[derive(Debug, Clone, Copy)]
pub struct Sql {
    pub sqlite: &'static str,
    pub postgres: &'static str,
}

impl Sql {
    /// A statement that both read.
    pub const fn both(text: &'static str) -> Self {
        Self { sqlite: text, postgres: text }
    }
}

/// A `SELECT` that locks its rows where several coordinators may write. SQLite has one writer and needs none.
macro_rules! locking {
    ($text:literal) => {
        $crate::store::tx::Sql { sqlite: $text, postgres: concat!($text, " FOR NO KEY UPDATE") }
    };
}
pub(super) use locking;

/// A parameter.
#[derive(Debug, Clone)]
pub enum Arg {
    Int(Option<i64>),
    Text(Option<String>),
}

impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Self::Int(Some(value))
    }
}

impl From<Option<i64>> for Arg {
    fn from(value: Option<i64>) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Arg {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}

impl From<Option<String>> for Arg {
    fn from(value: Option<String>) -> Self {
        Self::Text(value)
    }
}

impl From<String> for Arg {
    fn from(value: String) -> Self {
        Self::Text(Some(value))
    }
}

/// `args![a, b]`: parameters of a statement, in order.
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::tx::Arg::from($value)),*] };
}
pub(super) use args;

/// A row that can be read from both databases.
pub trait Record: Send + Unpin + for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> {}

impl<R> Record for R where R: Send + Unpin + for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> {}

/// Declares a row: a struct whose fields are columns of the same names.
macro_rules! record {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        $vis struct $name { $($(#[$field_meta])* pub $field: $type),* }

        impl sqlx::FromRow<'_, sqlx::sqlite::SqliteRow> for $name {
            fn from_row(row: &sqlx::sqlite::SqliteRow) -> Result<Self, sqlx::Error> {
                Ok(Self { $($field: sqlx::Row::try_get(row, stringify!($field))?),* })
            }
        }

        impl sqlx::FromRow<'_, sqlx::postgres::PgRow> for $name {
            fn from_row(row: &sqlx::postgres::PgRow) -> Result<Self, sqlx::Error> {
                Ok(Self { $($field: sqlx::Row::try_get(row, stringify!($field))?),* })
            }
        }
    };
}
pub(super) use record;

/// A transaction in progress.
pub trait Tx: Send {
    /// All rows of a statement.
    fn fetch<R: Record>(
        &mut self,
        sql: Sql,
        args: Vec<Arg>,
    ) -> impl Future<Output = Result<Vec<R>, sqlx::Error>> + Send;

    /// The number of rows that a statement wrote.
    fn execute(&mut self, sql: Sql, args: Vec<Arg>) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;

    /// The first row of a statement, if there is one.
    fn fetch_one<R: Record>(
        &mut self,
        sql: Sql,
        args: Vec<Arg>,
    ) -> impl Future<Output = Result<Option<R>, sqlx::Error>> + Send {
        async move { Ok(self.fetch(sql, args).await?.into_iter().next()) }
    }
}

macro_rules! bind {
    ($query:expr, $args:expr) => {
        $args.into_iter().fold($query, |query, arg| match arg {
            Arg::Int(value) => query.bind(value),
            Arg::Text(value) => query.bind(value),
        })
    };
}

impl Tx for SqliteConnection {
    async fn fetch<R: Record>(&mut self, sql: Sql, args: Vec<Arg>) -> Result<Vec<R>, sqlx::Error> {
        bind!(sqlx::query_as(sql.sqlite), args).fetch_all(self).await
    }

    async fn execute(&mut self, sql: Sql, args: Vec<Arg>) -> Result<u64, sqlx::Error> {
        Ok(Executor::execute(self, bind!(sqlx::query(sql.sqlite), args)).await?.rows_affected())
    }
}

impl Tx for PgConnection {
    async fn fetch<R: Record>(&mut self, sql: Sql, args: Vec<Arg>) -> Result<Vec<R>, sqlx::Error> {
        bind!(sqlx::query_as(sql.postgres), args).fetch_all(self).await
    }

    async fn execute(&mut self, sql: Sql, args: Vec<Arg>) -> Result<u64, sqlx::Error> {
        Ok(Executor::execute(self, bind!(sqlx::query(sql.postgres), args)).await?.rows_affected())
    }
}
