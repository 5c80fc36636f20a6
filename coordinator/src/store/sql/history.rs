//! Tables that only grow: `event`, `point`, `result`, `orphan`, and `code_error`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::leases::Token;
use crate::store::error::Error;
use crate::store::rows::{EventRow, KeyRow, OrphanRow, PointRow, to_json};
use crate::store::tx::{Batch, Sql, Tx, args, record};
use crate::trial::TrialId;

const INSERT_EVENTS: Sql = Sql {
    sqlite: "INSERT INTO event (sweep, seq, at, kind, trial, attempt, worker, epoch, metrics_json, class, message)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    postgres: "INSERT INTO event (sweep, seq, at, kind, trial, attempt, worker, epoch, metrics_json, class, message)
               SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[],
                                    $7::text[], $8::bigint[], $9::text[], $10::text[], $11::text[])",
};
const EVENTS: Sql = Sql::both("SELECT * FROM event WHERE sweep = $1 AND seq > $2 ORDER BY seq LIMIT $3");

const INSERT_POINTS: Sql = Sql {
    sqlite: "INSERT INTO point (trial, attempt, name, epoch, value)
             SELECT value ->> 'trial', value ->> 'attempt', value ->> 'name', value ->> 'epoch', value ->> 'value'
               FROM json_each($1) WHERE true
             ON CONFLICT DO NOTHING
             RETURNING *",
    postgres: "INSERT INTO point (trial, attempt, name, epoch, value)
               SELECT x.* FROM json_to_recordset($1::json)
                      AS x(trial bigint, attempt bigint, name text, epoch bigint, value double precision)
               ON CONFLICT DO NOTHING
               RETURNING *",
};
const POINTS: Sql = Sql::both("SELECT * FROM point WHERE trial = $1 AND attempt = $2 ORDER BY name, epoch");
const VALUES_BY_EPOCH: Sql = Sql::both(
    "SELECT epoch, value FROM point WHERE trial = $1 AND attempt = $2 AND name = $3 AND value IS NOT NULL ORDER BY epoch",
);
const VALUES: Sql = Sql::both(
    "SELECT value FROM point WHERE trial = $1 AND attempt = $2 AND name = $3 AND value IS NOT NULL ORDER BY epoch",
);

const INSERT_RESULTS: Sql = Sql {
    sqlite: "INSERT INTO result (trial, attempt, objective, metrics_json, artifact, pruning_json, digest, origin)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    postgres: "INSERT INTO result (trial, attempt, objective, metrics_json, artifact, pruning_json, digest, origin)
               SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::double precision[], $4::text[], $5::text[],
                                    $6::text[], $7::text[], $8::bigint[])",
};
const KEPT: Sql = Sql::both("SELECT artifact, pruning_json FROM result WHERE trial = $1");

const UPSERT_CHECKPOINTS: Sql = Sql {
    sqlite: "INSERT INTO checkpoint (trial, attempt, url)
             SELECT value ->> 'trial', value ->> 'attempt', value ->> 'url' FROM json_each($1) WHERE true
             ON CONFLICT (trial) DO UPDATE SET attempt = excluded.attempt, url = excluded.url",
    postgres: "INSERT INTO checkpoint (trial, attempt, url)
               SELECT x.* FROM json_to_recordset($1::json) AS x(trial bigint, attempt bigint, url text)
               ON CONFLICT (trial) DO UPDATE SET attempt = excluded.attempt, url = excluded.url",
};

const DROP_CHECKPOINTS: Sql = Sql {
    sqlite: "DELETE FROM checkpoint WHERE trial IN (SELECT value FROM json_each($1))",
    postgres: "DELETE FROM checkpoint
                WHERE trial = ANY (ARRAY(SELECT json_array_elements_text($1::json)::bigint))",
};

const INSERT_ORPHANS: Sql = Sql {
    sqlite: "INSERT INTO orphan (trial, attempt, digest, worker, at, reason, metrics_json)
             SELECT value ->> 'trial', value ->> 'attempt', value ->> 'digest', value ->> 'worker', value ->> 'at',
                    value ->> 'reason', value ->> 'metrics_json'
               FROM json_each($1) WHERE true
             ON CONFLICT DO NOTHING",
    postgres: "INSERT INTO orphan (trial, attempt, digest, worker, at, reason, metrics_json)
               SELECT x.* FROM json_to_recordset($1::json)
                      AS x(trial bigint, attempt bigint, digest text, worker text, at bigint, reason text,
                           metrics_json text)
                ORDER BY 1, 2, 3
               ON CONFLICT DO NOTHING",
};
const ORPHANS: Sql = Sql::both("SELECT * FROM orphan WHERE trial = $1 ORDER BY attempt, at, digest");

const INSERT_CODE_ERROR: Sql = Sql::both(
    "INSERT INTO code_error (sweep, fingerprint, trial) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
);
const CODE_ERRORS: Sql =
    Sql::both("SELECT count(*) AS key FROM code_error WHERE sweep = $1 AND fingerprint = $2");
const FORGET_CODE_ERRORS: Sql = Sql::both("DELETE FROM code_error WHERE sweep = $1");

record! { struct ValueRow { value: f64 } }

record! { struct EpochValueRow { epoch: i64, value: f64 } }
record! {
    /// What a trial left beside its metrics.
    #[derive(Default)]
    pub(in crate::store) struct KeptRow {
        /// Where its tuned tensors lie.
        artifact: Option<String>,
        pruning_json: Option<String>,
    }
}

/// A result to be written.
#[derive(Debug)]
pub(in crate::store) struct ResultInsert {
    pub token: Token,
    pub objective: Option<f64>,
    pub metrics_json: String,
    pub artifact: Option<String>,
    pub pruning_json: Option<String>,
    pub digest: String,
    pub origin: Option<i64>,
}

/// The latest checkpoint of a trial, to be written.
#[derive(Debug, Serialize)]
pub(in crate::store) struct CheckpointInsert {
    #[serde(flatten)]
    pub token: Token,
    pub url: String,
}

pub(in crate::store) async fn insert_events<T: Tx>(tx: &mut T, events: &[EventRow]) -> Result<(), Error> {
    let batch = Batch::of(events).int(|row| row.sweep).int(|row| row.seq).int(|row| row.at);
    let batch = batch.text(|row| row.kind.as_str()).int(|row| row.trial).int(|row| row.attempt);
    let batch = batch.text(|row| row.worker.as_str()).int(|row| row.epoch);
    let batch = batch.text(|row| row.metrics_json.as_deref()).text(|row| row.class.as_deref());
    tx.execute_all(INSERT_EVENTS, batch.text(|row| row.message.as_str()), args![]).await?;
    Ok(())
}

pub(in crate::store) async fn events<T: Tx>(
    tx: &mut T,
    sweep: i64,
    after: i64,
    limit: i64,
) -> Result<Vec<EventRow>, Error> {
    Ok(tx.fetch(EVENTS, args![sweep, after, limit]).await?)
}

/// Writes points and gives back those that were not there before.
pub(in crate::store) async fn insert_points<T: Tx>(
    tx: &mut T,
    points: &[PointRow],
) -> Result<Vec<PointRow>, Error> {
    if points.is_empty() {
        return Ok(Vec::new());
    }
    Ok(tx.fetch(INSERT_POINTS, args![to_json(points)]).await?)
}

pub(in crate::store) async fn points<T: Tx>(tx: &mut T, token: Token) -> Result<Vec<PointRow>, Error> {
    Ok(tx.fetch(POINTS, args![token.trial.0, i64::from(token.attempt)]).await?)
}

/// The finite values of one metric of an attempt, by epoch.
pub(in crate::store) async fn values<T: Tx>(
    tx: &mut T,
    trial: TrialId,
    attempt: u32,
    name: &str,
) -> Result<Vec<f64>, Error> {
    let rows: Vec<ValueRow> = tx.fetch(VALUES, args![trial.0, i64::from(attempt), name]).await?;
    Ok(rows.into_iter().map(|row| row.value).collect())
}

/// The finite values of one metric of an attempt, with their epochs.
pub(in crate::store) async fn values_by_epoch<T: Tx>(
    tx: &mut T,
    token: Token,
    name: &str,
) -> Result<Vec<(i64, f64)>, Error> {
    let args = args![token.trial.0, i64::from(token.attempt), name];
    let rows: Vec<EpochValueRow> = tx.fetch(VALUES_BY_EPOCH, args).await?;
    Ok(rows.into_iter().map(|row| (row.epoch, row.value)).collect())
}

pub(in crate::store) async fn insert_results<T: Tx>(
    tx: &mut T,
    results: &[ResultInsert],
) -> Result<(), Error> {
    let batch = Batch::of(results).int(|new| new.token.trial.0).int(|new| i64::from(new.token.attempt));
    let batch = batch.real(|new| new.objective).text(|new| new.metrics_json.as_str());
    let batch = batch.text(|new| new.artifact.as_deref()).text(|new| new.pruning_json.as_deref());
    let batch = batch.text(|new| new.digest.as_str());
    tx.execute_all(INSERT_RESULTS, batch.int(|new| new.origin), args![]).await?;
    Ok(())
}

/// What a trial left beside its metrics; nothing, if it has no result.
pub(in crate::store) async fn kept<T: Tx>(tx: &mut T, trial: TrialId) -> Result<KeptRow, Error> {
    let row: Option<KeptRow> = tx.fetch_one(KEPT, args![trial.0]).await?;
    Ok(row.unwrap_or_default())
}

/// Each takes the place of the trial's checkpoint before; of several of one trial, the last counts.
pub(in crate::store) async fn put_checkpoints<T: Tx>(
    tx: &mut T,
    checkpoints: Vec<CheckpointInsert>,
) -> Result<(), Error> {
    if checkpoints.is_empty() {
        return Ok(());
    }
    let latest: BTreeMap<TrialId, CheckpointInsert> =
        checkpoints.into_iter().map(|checkpoint| (checkpoint.token.trial, checkpoint)).collect();
    tx.execute(UPSERT_CHECKPOINTS, args![to_json(&latest.into_values().collect::<Vec<_>>())]).await?;
    Ok(())
}

/// Forgets the checkpoints of trials.
pub(in crate::store) async fn drop_checkpoints<T: Tx>(tx: &mut T, trials: &[TrialId]) -> Result<(), Error> {
    tx.execute(DROP_CHECKPOINTS, args![to_json(trials)]).await?;
    Ok(())
}

/// Keeps results that were refused; one that is known already is left alone.
pub(in crate::store) async fn insert_orphans<T: Tx>(tx: &mut T, orphans: &[OrphanRow]) -> Result<(), Error> {
    if orphans.is_empty() {
        return Ok(());
    }
    tx.execute(INSERT_ORPHANS, args![to_json(orphans)]).await?;
    Ok(())
}

pub(in crate::store) async fn orphans<T: Tx>(tx: &mut T, trial: TrialId) -> Result<Vec<OrphanRow>, Error> {
    Ok(tx.fetch(ORPHANS, args![trial.0]).await?)
}

/// Notes a code error of a trial, and counts the trials of the sweep that failed alike.
pub(in crate::store) async fn add_code_error<T: Tx>(
    tx: &mut T,
    sweep: i64,
    fingerprint: &str,
    trial: TrialId,
) -> Result<i64, Error> {
    tx.execute(INSERT_CODE_ERROR, args![sweep, fingerprint, trial.0]).await?;
    let row: Option<KeyRow> = tx.fetch_one(CODE_ERRORS, args![sweep, fingerprint]).await?;
    Ok(row.map_or(0, |row| row.key))
}

pub(in crate::store) async fn forget_code_errors<T: Tx>(tx: &mut T, sweep: i64) -> Result<(), Error> {
    tx.execute(FORGET_CODE_ERRORS, args![sweep]).await?;
    Ok(())
}
