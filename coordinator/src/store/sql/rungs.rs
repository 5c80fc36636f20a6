//! Table `rung`.

use crate::store::error::Error;
use crate::store::rows::ScopeRow;
use crate::store::tx::{Arg, Sql, Tx, args, record};
use crate::trial::TrialId;

/// Trials that may be ended early, with what they are compared with.
const SCOPES: Sql = Sql {
    sqlite: "SELECT t.id AS trial, t.sweep AS sweep, c.scope AS scope, c.bracket AS bracket, c.epochs AS epochs
               FROM trial t JOIN configuration c ON c.sweep = t.sweep AND c.number = t.config
              WHERE t.id IN (SELECT value FROM json_each($1)) AND c.scope IS NOT NULL ORDER BY t.id",
    postgres: "SELECT t.id AS trial, t.sweep AS sweep, c.scope AS scope, c.bracket AS bracket, c.epochs AS epochs
                 FROM trial t JOIN configuration c ON c.sweep = t.sweep AND c.number = t.config
                WHERE t.id IN (SELECT json_array_elements_text($1::json)::bigint) AND c.scope IS NOT NULL ORDER BY t.id",
};
const OTHERS: Sql = Sql::both(
    "SELECT value FROM rung WHERE sweep = $1 AND scope = $2 AND epoch = $3 AND trial <> $4 ORDER BY trial",
);
/// A trial that comes again, in another attempt, stands as it stood first. The value comes as text, which both read
/// back to the same number.
const INSERT: Sql = Sql::both(
    "INSERT INTO rung (sweep, scope, epoch, trial, value) VALUES ($1, $2, $3, $4, CAST($5 AS DOUBLE PRECISION))
     ON CONFLICT DO NOTHING",
);

record! { struct ValueRow { value: f64 } }

pub(in crate::store) async fn scopes<T: Tx>(tx: &mut T, trials: &[i64]) -> Result<Vec<ScopeRow>, Error> {
    Ok(tx.fetch(SCOPES, args![crate::store::rows::to_json(trials)]).await?)
}

/// How the others stand at a rung.
pub(in crate::store) async fn others<T: Tx>(
    tx: &mut T,
    row: &ScopeRow,
    epoch: u32,
    own: TrialId,
) -> Result<Vec<f64>, Error> {
    let args = args![row.sweep, row.scope.as_str(), i64::from(epoch), own.0];
    let rows: Vec<ValueRow> = tx.fetch(OTHERS, args).await?;
    Ok(rows.into_iter().map(|row| row.value).collect())
}

pub(in crate::store) async fn insert<T: Tx>(
    tx: &mut T,
    row: &ScopeRow,
    epoch: u32,
    own: TrialId,
    value: f64,
) -> Result<(), Error> {
    let args: Vec<Arg> = args![row.sweep, row.scope.as_str(), i64::from(epoch), own.0, value.to_string()];
    tx.execute(INSERT, args).await?;
    Ok(())
}
