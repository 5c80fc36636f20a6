//! The one thing an operation knows about a database: statements go in, typed rows come out.
//!
//! A statement is native SQL, written once where both databases read it alike and side by side where they differ.
//! Many rows are written as a [`Batch`]: one round trip to Postgres, and one prepared statement of SQLite, which is no
//! trip at all. Lists and rare batches travel as one parameter, as an array or as JSON.

use std::future::Future;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Executor, FromRow};

use super::error::Failure;
use super::rows::to_json;

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
    /// An array on Postgres, a JSON list on SQLite.
    Ints(Vec<i64>),
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

impl From<Vec<i64>> for Arg {
    fn from(values: Vec<i64>) -> Self {
        Self::Ints(values)
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
pub trait Record: Sized + Send + Unpin + for<'r> FromRow<'r, PgRow> {
    /// Names of the columns that are read.
    const COLUMNS: &'static [&'static str];

    /// `places`: where the columns are, in their order.
    fn from_sqlite(row: &rusqlite::Row<'_>, places: &[usize]) -> Result<Self, rusqlite::Error>;
}

/// Declares a row: a struct whose fields are columns of the same names.
macro_rules! record {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        $vis struct $name { $($(#[$field_meta])* pub $field: $type),* }

        impl $crate::store::tx::Record for $name {
            const COLUMNS: &'static [&'static str] = &[$(stringify!($field)),*];

            fn from_sqlite(row: &rusqlite::Row<'_>, places: &[usize]) -> Result<Self, rusqlite::Error> {
                let mut places = places.iter();
                // As many places as fields.
                Ok(Self { $($field: row.get(places.next().copied().unwrap_or(usize::MAX))?),* })
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

/// Values of many rows for one statement, a column at a time.
#[derive(Debug)]
pub struct Batch<'a, R> {
    rows: &'a [R],
    columns: Vec<Column<'a>>,
}

#[derive(Debug)]
enum Column<'a> {
    Int(Vec<Option<i64>>),
    Real(Vec<Option<f64>>),
    Text(Vec<Option<&'a str>>),
}

impl<'a, R> Batch<'a, R> {
    pub fn of(rows: &'a [R]) -> Self {
        Self { rows, columns: Vec::new() }
    }

    /// The next column.
    #[must_use]
    pub fn int<V: Into<Option<i64>>>(mut self, value: impl Fn(&'a R) -> V) -> Self {
        self.columns.push(Column::Int(self.rows.iter().map(|row| value(row).into()).collect()));
        self
    }

    /// The next column.
    #[must_use]
    pub fn real<V: Into<Option<f64>>>(mut self, value: impl Fn(&'a R) -> V) -> Self {
        self.columns.push(Column::Real(self.rows.iter().map(|row| value(row).into()).collect()));
        self
    }

    /// The next column.
    #[must_use]
    pub fn text<V: Into<Option<&'a str>>>(mut self, value: impl Fn(&'a R) -> V) -> Self {
        self.columns.push(Column::Text(self.rows.iter().map(|row| value(row).into()).collect()));
        self
    }
}

/// A transaction in progress.
pub trait Tx: Send {
    /// All rows of a statement.
    fn fetch<R: Record>(
        &mut self,
        sql: Sql,
        args: Vec<Arg>,
    ) -> impl Future<Output = Result<Vec<R>, Failure>> + Send;

    /// The number of rows that a statement wrote.
    fn execute(&mut self, sql: Sql, args: Vec<Arg>) -> impl Future<Output = Result<u64, Failure>> + Send;

    /// Runs a statement for all rows of a batch, and counts the rows that it wrote. Its first parameters are the columns,
    /// on SQLite each a value, on Postgres each an array; then come `args`.
    fn execute_all<R: Sync>(
        &mut self,
        sql: Sql,
        batch: Batch<'_, R>,
        args: Vec<Arg>,
    ) -> impl Future<Output = Result<u64, Failure>> + Send;

    /// The first row of a statement, if there is one.
    fn fetch_one<R: Record>(
        &mut self,
        sql: Sql,
        args: Vec<Arg>,
    ) -> impl Future<Output = Result<Option<R>, Failure>> + Send {
        async move { Ok(self.fetch(sql, args).await?.into_iter().next()) }
    }
}

/// Its futures never wait: SQLite is a library. Whoever polls them may be held up by the disk, so it is a thread of its own.
impl Tx for rusqlite::Connection {
    async fn fetch<R: Record>(&mut self, sql: Sql, args: Vec<Arg>) -> Result<Vec<R>, Failure> {
        let mut statement = self.prepare_cached(sql.sqlite)?;
        bind(&mut statement, &args)?;
        let places: Result<Vec<usize>, _> =
            R::COLUMNS.iter().map(|column| statement.column_index(column)).collect();
        let places = places?;
        let mut rows = statement.raw_query();
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            records.push(R::from_sqlite(row, &places)?);
        }
        Ok(records)
    }

    async fn execute(&mut self, sql: Sql, args: Vec<Arg>) -> Result<u64, Failure> {
        let mut statement = self.prepare_cached(sql.sqlite)?;
        bind(&mut statement, &args)?;
        if statement.column_count() == 0 {
            return Ok(statement.raw_execute()? as u64);
        }
        let mut rows = statement.raw_query();
        while rows.next()?.is_some() {}
        Ok(0)
    }

    async fn execute_all<R: Sync>(
        &mut self,
        sql: Sql,
        batch: Batch<'_, R>,
        args: Vec<Arg>,
    ) -> Result<u64, Failure> {
        let mut statement = self.prepare_cached(sql.sqlite)?;
        let numbers = numbers(&statement)?;
        let mut written = 0;
        for row in 0..batch.rows.len() {
            for (place, number) in (1..).zip(&numbers) {
                match batch.columns.get(*number) {
                    Some(Column::Int(values)) => statement.raw_bind_parameter(place, values[row])?,
                    Some(Column::Real(values)) => statement.raw_bind_parameter(place, values[row])?,
                    Some(Column::Text(values)) => statement.raw_bind_parameter(place, values[row])?,
                    None => bind_one(&mut statement, place, args.get(number - batch.columns.len()))?,
                }
            }
            written += statement.raw_execute()? as u64;
        }
        Ok(written)
    }
}

/// The number of each parameter: `$3` is the third argument, wherever it stands.
fn numbers(statement: &rusqlite::Statement<'_>) -> Result<Vec<usize>, rusqlite::Error> {
    let number = |place| {
        let name = statement.parameter_name(place)?;
        name.get(1..)?.parse::<usize>().ok()?.checked_sub(1)
    };
    let count = statement.parameter_count();
    (1..=count)
        .map(|place| number(place).ok_or(rusqlite::Error::InvalidParameterCount(place, count)))
        .collect()
}

fn bind(statement: &mut rusqlite::Statement<'_>, args: &[Arg]) -> Result<(), rusqlite::Error> {
    for (place, number) in (1..).zip(numbers(statement)?) {
        bind_one(statement, place, args.get(number))?;
    }
    Ok(())
}

fn bind_one(
    statement: &mut rusqlite::Statement<'_>,
    place: usize,
    arg: Option<&Arg>,
) -> Result<(), rusqlite::Error> {
    match arg {
        Some(Arg::Int(value)) => statement.raw_bind_parameter(place, value),
        Some(Arg::Text(value)) => statement.raw_bind_parameter(place, value),
        Some(Arg::Ints(values)) => statement.raw_bind_parameter(place, to_json(values)),
        None => Err(rusqlite::Error::InvalidParameterCount(place, statement.parameter_count())),
    }
}

macro_rules! bound {
    ($query:expr, $args:expr) => {
        $args.into_iter().fold($query, |query, arg| match arg {
            Arg::Int(value) => query.bind(value),
            Arg::Text(value) => query.bind(value),
            Arg::Ints(values) => query.bind(values),
        })
    };
}

impl Tx for PgConnection {
    async fn fetch<R: Record>(&mut self, sql: Sql, args: Vec<Arg>) -> Result<Vec<R>, Failure> {
        Ok(bound!(sqlx::query_as(sql.postgres), args).fetch_all(self).await?)
    }

    async fn execute(&mut self, sql: Sql, args: Vec<Arg>) -> Result<u64, Failure> {
        Ok(Executor::execute(self, bound!(sqlx::query(sql.postgres), args)).await?.rows_affected())
    }

    async fn execute_all<R: Sync>(
        &mut self,
        sql: Sql,
        batch: Batch<'_, R>,
        args: Vec<Arg>,
    ) -> Result<u64, Failure> {
        if batch.rows.is_empty() {
            return Ok(0);
        }
        let query = batch.columns.into_iter().fold(sqlx::query(sql.postgres), |query, column| match column {
            Column::Int(values) => query.bind(values),
            Column::Real(values) => query.bind(values),
            Column::Text(values) => query.bind(values),
        });
        Ok(Executor::execute(self, bound!(query, args)).await?.rows_affected())
    }
}
