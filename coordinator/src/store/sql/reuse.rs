//! Table `reusable`: the first result of each recipe and seed, by what it was trained on and what computed it.

use serde::Serialize;

use crate::store::error::Error;
use crate::store::rows::{OriginRow, PointRow, ReusableRow, to_json};
use crate::store::tx::{Sql, Tx, args};
use crate::trial::TrialId;

/// What starts from another trial's tensors depends on more than its recipe and seed.
const INSERT: Sql = Sql {
    sqlite: "INSERT INTO reusable (hash, seed, inputs, code, trial)
             SELECT c.hash, t.seed, x.value ->> 'inputs', x.value ->> 'code', t.id
               FROM json_each($1) x
               JOIN trial t ON t.id = x.value ->> 'trial' AND t.start_from IS NULL
               JOIN configuration c ON c.sweep = t.sweep AND c.number = t.config WHERE true
             ON CONFLICT DO NOTHING",
    postgres: "INSERT INTO reusable (hash, seed, inputs, code, trial)
               SELECT c.hash, t.seed, x.inputs, x.code, t.id
                 FROM json_to_recordset($1::json) AS x(trial bigint, inputs text, code text)
                 JOIN trial t ON t.id = x.trial AND t.start_from IS NULL
                 JOIN configuration c ON c.sweep = t.sweep AND c.number = t.config
                ORDER BY 1, 2, 3, 4
               ON CONFLICT DO NOTHING",
};

/// What may be taken over by trials whose sweeps ask for it, oldest first. `code` is empty where any will do.
macro_rules! reusable {
    ($these:literal) => {
        concat!(
            "SELECT t.id AS trial, u.trial AS origin, u.inputs AS inputs,
                    CASE s.reuse WHEN 'same_code' THEN u.code ELSE '' END AS code
               FROM trial t
               JOIN sweep s ON s.number = t.sweep AND s.reuse <> 'never'
               JOIN configuration c ON c.sweep = t.sweep AND c.number = t.config
               JOIN reusable u ON u.hash = c.hash AND u.seed = t.seed
              WHERE t.start_from IS NULL AND t.id ",
            $these,
            " ORDER BY t.id, u.trial"
        )
    };
}
const REUSABLE: Sql =
    Sql { sqlite: reusable!("IN (SELECT value FROM json_each($1))"), postgres: reusable!("= ANY ($1)") };

/// A result that a trial takes over, if it may.
const ORIGIN: Sql = Sql::both(
    "SELECT u.trial AS trial, w.id AS sweep_id, r.attempt AS attempt, r.metrics_json AS metrics_json,
            r.artifact AS artifact, r.pruning_json AS pruning_json
       FROM trial t
       JOIN sweep s ON s.number = t.sweep AND s.reuse <> 'never'
       JOIN configuration c ON c.sweep = t.sweep AND c.number = t.config
       JOIN reusable u ON u.hash = c.hash AND u.seed = t.seed
       JOIN result r ON r.trial = u.trial
       JOIN trial o ON o.id = u.trial
       JOIN sweep w ON w.number = o.sweep
      WHERE t.id = $1 AND t.start_from IS NULL AND u.trial = $2 AND u.inputs = $3
        AND (s.reuse <> 'same_code' OR u.code = $4)",
);

const COPY_POINTS: Sql = Sql::both(
    "INSERT INTO point (trial, attempt, name, epoch, value)
     SELECT $1, $2, name, epoch, value FROM point WHERE trial = $3 AND attempt = $4
     ON CONFLICT DO NOTHING
     RETURNING *",
);

/// A result that later trials may take over.
#[derive(Debug, Serialize)]
pub(in crate::store) struct ReusableInsert {
    pub trial: TrialId,
    pub inputs: String,
    pub code: String,
}

/// Of equal ones, the first stays.
pub(in crate::store) async fn insert<T: Tx>(tx: &mut T, rows: &[ReusableInsert]) -> Result<(), Error> {
    if !rows.is_empty() {
        tx.execute(INSERT, args![to_json(rows)]).await?;
    }
    Ok(())
}

pub(in crate::store) async fn reusable<T: Tx>(tx: &mut T, trials: &[i64]) -> Result<Vec<ReusableRow>, Error> {
    Ok(tx.fetch(REUSABLE, args![trials.to_vec()]).await?)
}

pub(in crate::store) async fn origin<T: Tx>(
    tx: &mut T,
    trial: TrialId,
    origin: TrialId,
    inputs: &str,
    code: &str,
) -> Result<Option<OriginRow>, Error> {
    Ok(tx.fetch_one(ORIGIN, args![trial.0, origin.0, inputs, code]).await?)
}

/// Gives an attempt the points of another, which are those that it would have had; those that are new.
pub(in crate::store) async fn copy_points<T: Tx>(
    tx: &mut T,
    (trial, attempt): (TrialId, u32),
    origin: &OriginRow,
) -> Result<Vec<PointRow>, Error> {
    let args = args![trial.0, i64::from(attempt), origin.trial, origin.attempt];
    Ok(tx.fetch(COPY_POINTS, args).await?)
}
