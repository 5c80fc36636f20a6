//! Tables `study`, `suggestion`, and what `stage` holds for them.

use ::sweeps::study::Adaptive;
use serde::Serialize;

use crate::store::error::Error;
use crate::store::rows::{KeyRow, SamplerRow, StudyCountRow, StudyRow, SuggestionRow, from_json, to_json};
use crate::store::tx::{Sql, Tx, args};

/// While so many trials of a sweep are queued, a study whose configurations need different workers makes no more: they may
/// all be for others than who asks.
pub(in crate::store) const MAX_BACKLOG: i64 = 64;

const INSERT: Sql = Sql {
    sqlite: "INSERT INTO study (sweep, number, key_json, study_json, size, made, seeds, need, varies, state)
             SELECT $1, value ->> 'number', value ->> 'key_json', value ->> 'study_json', value ->> 'size', 0,
                    value ->> 'seeds', value ->> 'need', value ->> 'varies', 'open'
               FROM json_each($2)",
    postgres: "INSERT INTO study (sweep, number, key_json, study_json, size, made, seeds, need, varies, state)
               SELECT $1, x.number, x.key_json, x.study_json, x.size, 0, x.seeds, x.need, x.varies, 'open'
                 FROM json_to_recordset($2::json) AS x(number bigint, key_json text, study_json text, size bigint,
                                                       seeds bigint, need bigint, varies bigint)",
};
const INSERT_SUGGESTIONS: Sql = Sql {
    sqlite: "INSERT INTO suggestion (sweep, study, config, number, point_json, generation)
             SELECT $1, value ->> 'study', value ->> 'config', value ->> 'number', value ->> 'point_json',
                    value ->> 'generation'
               FROM json_each($2)",
    postgres: "INSERT INTO suggestion (sweep, study, config, number, point_json, generation)
               SELECT $1, x.*
                 FROM json_to_recordset($2::json) AS x(study bigint, config bigint, number bigint, point_json text,
                                                       generation bigint)",
};
/// The study that makes the next configuration for a worker with these needs: that with the fewest, so that all advance.
const NEXT: Sql = Sql {
    sqlite: "SELECT * FROM study
              WHERE sweep = $1 AND state = 'open'
                AND (need IN (SELECT value FROM json_each($2)) OR (varies = 1 AND $3 < $4))
              ORDER BY made, number LIMIT 1",
    postgres: "SELECT * FROM study
                WHERE sweep = $1 AND state = 'open'
                  AND (need = ANY (ARRAY(SELECT json_array_elements_text($2::json)::bigint)) OR (varies = 1 AND $3 < $4))
                ORDER BY made, number LIMIT 1",
};
/// Without a lock: who changes it holds the sweep.
const GET: Sql = Sql::both("SELECT * FROM study WHERE sweep = $1 AND number = $2");
const FIRST_OPEN: Sql =
    Sql::both("SELECT * FROM study WHERE sweep = $1 AND state = 'open' ORDER BY made, number LIMIT 1");
/// What has been made from a generation on, in the order in which it was made.
const HISTORY: Sql = Sql::both(
    "SELECT u.point_json AS point_json, u.generation AS generation,
            count(*) FILTER (WHERE t.ended IS NULL) AS open, count(r.objective) AS scored,
            avg(r.objective) AS mean, count(*) FILTER (WHERE t.state = 'stopped') AS stopped,
            count(*) FILTER (WHERE t.state = 'failed' AND t.class NOT IN ('bad_data', 'bad_node', 'poison')) AS bad,
            count(*) AS trials, max(t.ended) AS ended
       FROM suggestion u
       JOIN trial t ON t.sweep = u.sweep AND t.config = u.config
       LEFT JOIN result r ON r.trial = t.id
      WHERE u.sweep = $1 AND u.study = $2 AND coalesce(u.generation, 0) >= $3
      GROUP BY u.config, u.point_json, u.generation ORDER BY u.config",
);
/// Guarded by what the suggestion was made on: nothing is suggested twice.
const ADVANCE: Sql = Sql::both(
    "UPDATE study SET made = $4, size = $5, strategy_json = coalesce($6, strategy_json),
                      state = CASE WHEN $4 = $5 THEN 'done' ELSE 'open' END
      WHERE sweep = $1 AND number = $2 AND made = $3 AND state = 'open'",
);
const CANCEL: Sql = Sql::both(
    "UPDATE study SET state = 'cancelled' WHERE sweep = $1 AND state = 'open' RETURNING size - made AS key",
);
const COUNTS: Sql = Sql::both(
    "SELECT count(*) AS studies, count(*) FILTER (WHERE state = 'open') AS open,
            CAST(coalesce(sum(made), 0) AS BIGINT) AS made, CAST(coalesce(sum(size), 0) AS BIGINT) AS size
       FROM study WHERE sweep = $1",
);

const SAMPLER: Sql =
    Sql::both("SELECT sampler_json FROM stage WHERE sweep = $1 AND sampler_json IS NOT NULL");

/// A study to be written.
#[derive(Debug, Serialize)]
pub(in crate::store) struct StudyInsert<'a> {
    pub number: usize,
    pub key_json: &'a str,
    pub study_json: &'a str,
    pub size: u32,
    pub seeds: usize,
    pub need: i64,
    pub varies: i64,
}

/// A configuration of a study.
#[derive(Debug, Serialize)]
pub(in crate::store) struct SuggestionInsert {
    pub study: i64,
    pub config: i64,
    /// `None`: it was not suggested.
    pub number: Option<i64>,
    pub point_json: String,
    pub generation: Option<u32>,
}

pub(in crate::store) async fn insert<T: Tx>(
    tx: &mut T,
    sweep: i64,
    rows: &[StudyInsert<'_>],
) -> Result<(), Error> {
    tx.execute(INSERT, args![sweep, to_json(rows)]).await?;
    Ok(())
}

pub(in crate::store) async fn insert_suggestions<T: Tx>(
    tx: &mut T,
    sweep: i64,
    rows: &[SuggestionInsert],
) -> Result<(), Error> {
    if !rows.is_empty() {
        tx.execute(INSERT_SUGGESTIONS, args![sweep, to_json(rows)]).await?;
    }
    Ok(())
}

/// The study that makes the next configuration; `backlog` trials of the sweep are queued.
pub(in crate::store) async fn next<T: Tx>(
    tx: &mut T,
    sweep: i64,
    needs: &[i64],
    backlog: i64,
) -> Result<Option<StudyRow>, Error> {
    Ok(tx.fetch_one(NEXT, args![sweep, to_json(needs), backlog, MAX_BACKLOG]).await?)
}

pub(in crate::store) async fn get<T: Tx>(tx: &mut T, sweep: i64, number: i64) -> Result<StudyRow, Error> {
    tx.fetch_one(GET, args![sweep, number]).await?.ok_or(Error::Conflict("study"))
}

pub(in crate::store) async fn first_open<T: Tx>(tx: &mut T, sweep: i64) -> Result<Option<StudyRow>, Error> {
    Ok(tx.fetch_one(FIRST_OPEN, args![sweep]).await?)
}

pub(in crate::store) async fn history<T: Tx>(
    tx: &mut T,
    study: &StudyRow,
    from: u32,
) -> Result<Vec<SuggestionRow>, Error> {
    Ok(tx.fetch(HISTORY, args![study.sweep, study.number, i64::from(from)]).await?)
}

/// Writes how far a study has come.
pub(in crate::store) async fn advance<T: Tx>(
    tx: &mut T,
    study: &StudyRow,
    made: i64,
    size: i64,
    strategy_json: Option<&str>,
) -> Result<(), Error> {
    let strategy = strategy_json.map(str::to_owned);
    let args = args![study.sweep, study.number, study.made, made, size, strategy];
    match tx.execute(ADVANCE, args).await? {
        1 => Ok(()),
        _ => Err(Error::Conflict("study")),
    }
}

/// Gives up every study that is open; the number of configurations that they would have made.
pub(in crate::store) async fn cancel<T: Tx>(tx: &mut T, sweep: i64) -> Result<i64, Error> {
    let rows: Vec<KeyRow> = tx.fetch(CANCEL, args![sweep]).await?;
    Ok(rows.into_iter().map(|row| row.key).sum())
}

pub(in crate::store) async fn counts<T: Tx>(tx: &mut T, sweep: i64) -> Result<StudyCountRow, Error> {
    tx.fetch_one(COUNTS, args![sweep]).await?.ok_or(Error::Conflict("study"))
}

/// The name of a sweep's sampler.
pub(in crate::store) async fn sampler<T: Tx>(tx: &mut T, sweep: i64) -> Result<String, Error> {
    let row: Option<SamplerRow> = tx.fetch_one(SAMPLER, args![sweep]).await?;
    let json = row.ok_or(Error::Conflict("stage"))?.sampler_json;
    let adaptive: Adaptive = from_json("stage", sweep, &json)?;
    Ok(adaptive.algorithm.name().to_owned())
}
