//! The schema's versions. Forward only; an unknown database is refused, never touched.

use super::error::{Failure, OpenError};
use super::tx::{Sql, Tx, args, record};

/// One script a version, in order. Both databases have the same versions.
const SCRIPTS: &[Sql] = &[Sql {
    sqlite: include_str!("../../../migrations/sqlite/0001_initial.sql"),
    postgres: include_str!("../../../migrations/postgres/0001_initial.sql"),
}];

record! { struct Name { name: String } }
record! { struct Version { version: i64 } }

const TABLES: Sql = Sql {
    sqlite: "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name",
    postgres: "SELECT tablename::text AS name FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1",
};
const CREATE: Sql = Sql::both("CREATE TABLE promptsweep_schema (version BIGINT NOT NULL)");
const FIRST: Sql = Sql::both("INSERT INTO promptsweep_schema (version) VALUES (0)");
const READ: Sql = Sql::both("SELECT version FROM promptsweep_schema");
const WRITE: Sql = Sql::both("UPDATE promptsweep_schema SET version = $1");

/// The scripts that are missing, with the version that each leads to. Makes the version table in an empty database.
pub(super) async fn pending<T: Tx>(tx: &mut T) -> Result<Vec<(i64, Sql)>, OpenError> {
    let tables: Vec<Name> = tx.fetch(TABLES, args![]).await.map_err(opening)?;
    if tables.is_empty() {
        tx.execute(CREATE, args![]).await.map_err(OpenError::Connect)?;
        tx.execute(FIRST, args![]).await.map_err(OpenError::Connect)?;
    } else if !tables.iter().any(|table| table.name == "promptsweep_schema") {
        let names: Vec<_> = tables.iter().take(5).map(|table| format!("table {}", table.name)).collect();
        return Err(OpenError::Foreign(names.join(", ")));
    }
    let found: Option<Version> = tx.fetch_one(READ, args![]).await.map_err(OpenError::Connect)?;
    let found = found.map_or(0, |row| row.version);
    let known = SCRIPTS.len() as i64;
    if found > known {
        return Err(OpenError::Newer { found, known });
    }
    Ok((1..).zip(SCRIPTS.iter().copied()).skip(found.max(0) as usize).collect())
}

/// Records that the schema has `version` now.
pub(super) async fn reached<T: Tx>(tx: &mut T, version: i64) -> Result<(), OpenError> {
    tx.execute(WRITE, args![version]).await.map_err(OpenError::Connect)?;
    Ok(())
}

/// SQLite says only at the first statement that a file is no database.
pub(super) fn opening(failure: Failure) -> OpenError {
    match &failure {
        Failure::Sqlite(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) => {
            OpenError::Foreign("something else than tables".to_owned())
        }
        _ => OpenError::Connect(failure),
    }
}
