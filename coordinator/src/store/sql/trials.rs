//! Tables `trial`, `lease`, `attempt`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::sweeps::Avoiding;
use crate::offer::Need;
use crate::store::error::Error;
use crate::store::rows::{
    AssignmentRow, AttemptRow, CountRow, KeyRow, LeaseRow, NeedRow, OutcomesRow, TrialChange, TrialRow,
    TrialView, to_json,
};
use crate::store::tx::{Sql, Tx, args, locking};
use crate::trial::{FailureClass, Millis, TrialId, WorkerId};

const INSERT: Sql = Sql {
    sqlite: "INSERT INTO trial (sweep, config, seed, need, start_from, state, attempt, failures, interruptions, lost,
                                epoch, not_before)
             SELECT $1, value ->> 'config', value ->> 'seed', value ->> 'need', value ->> 'start_from', 'queued',
                    0, 0, 0, 0, 0, value ->> 'not_before'
               FROM json_each($2)",
    postgres: "INSERT INTO trial (sweep, config, seed, need, start_from, state, attempt, failures, interruptions, lost,
                                  epoch, not_before)
               SELECT $1, x.config, x.seed, x.need, x.start_from, 'queued', 0, 0, 0, 0, 0, x.not_before
                 FROM json_to_recordset($2::json) AS x(config bigint, seed bigint, need bigint, start_from bigint,
                                                       not_before bigint)",
};

const SWEEPS_OF: Sql = Sql {
    sqlite: "SELECT DISTINCT sweep AS key FROM trial WHERE id IN (SELECT value FROM json_each($1)) ORDER BY 1",
    postgres: "SELECT DISTINCT sweep AS key FROM trial
                WHERE id = ANY (ARRAY(SELECT json_array_elements_text($1::json)::bigint)) ORDER BY 1",
};
const LOAD: Sql = Sql {
    sqlite: "SELECT * FROM trial WHERE id IN (SELECT value FROM json_each($1)) ORDER BY id",
    postgres: "SELECT * FROM trial WHERE id = ANY (ARRAY(SELECT json_array_elements_text($1::json)::bigint))
                ORDER BY id FOR NO KEY UPDATE",
};
/// Without a lock, for who only wants to know.
const PEEK: Sql = Sql {
    sqlite: LOAD.sqlite,
    postgres: "SELECT * FROM trial WHERE id = ANY (ARRAY(SELECT json_array_elements_text($1::json)::bigint))
                ORDER BY id",
};
const RUNNING: Sql = locking!("SELECT * FROM trial WHERE sweep = $1 AND state = 'running' ORDER BY id");
/// `$2`: classes, as JSON.
const FAILED: Sql = Sql {
    sqlite: "SELECT * FROM trial WHERE sweep = $1 AND state = 'failed'
                AND class IN (SELECT value FROM json_each($2)) ORDER BY id",
    postgres: "SELECT * FROM trial WHERE sweep = $1 AND state = 'failed'
                  AND class IN (SELECT json_array_elements_text($2::json)) ORDER BY id FOR NO KEY UPDATE",
};
/// What the lifecycle decides for a queued trial that is cancelled, for all of a sweep at once.
const CANCEL_QUEUED: Sql = Sql::both(
    "UPDATE trial SET state = 'cancelled', not_before = NULL, ended = $2 WHERE sweep = $1 AND state = 'queued'",
);

/// Due trials of a sweep with one of the needs, those that the worker is warm for first, then in order. Reads few more
/// than `$4` index entries per need. What failed on the worker `$5` within the time until `$6` is left to others.
const CLAIMABLE: Sql = Sql {
    sqlite: "SELECT t.* FROM json_each($2) n CROSS JOIN trial t
              WHERE t.id IN (SELECT q.id FROM trial q
                              WHERE q.sweep = $1 AND q.need = n.value ->> 'need' AND q.state = 'queued'
                                AND q.not_before <= $3
                                AND (q.failed_on IS NULL OR q.failed_on <> $5 OR q.not_before <= $6
                                     OR NOT EXISTS (SELECT 1 FROM worker w WHERE w.state = 'live' AND w.id <> $5))
                              ORDER BY q.id LIMIT $4)
              ORDER BY n.value ->> 'cold', t.id LIMIT $4",
    postgres: "SELECT t.* FROM trial t
                WHERE t.id = ANY (ARRAY(
                          SELECT q.id FROM json_to_recordset($2::json) AS n(need bigint, cold bigint)
                           CROSS JOIN LATERAL (SELECT id FROM trial
                                                WHERE sweep = $1 AND need = n.need AND state = 'queued'
                                                  AND not_before <= $3
                                                  AND (failed_on IS NULL OR failed_on <> $5 OR not_before <= $6
                                                       OR NOT EXISTS (SELECT 1 FROM worker w
                                                                       WHERE w.state = 'live' AND w.id <> $5))
                                                ORDER BY id LIMIT $4) q
                           ORDER BY n.cold, q.id LIMIT $4))
                  AND t.state = 'queued'
                ORDER BY t.id FOR NO KEY UPDATE SKIP LOCKED",
};

const UPDATE: Sql = Sql {
    sqlite: "UPDATE trial
                SET state = x.value ->> 'state', attempt = x.value ->> 'attempt', failures = x.value ->> 'failures',
                    interruptions = x.value ->> 'interruptions', lost = x.value ->> 'lost',
                    failed_on = x.value ->> 'failed_on', epoch = x.value ->> 'epoch',
                    not_before = x.value ->> 'not_before', worker = x.value ->> 'worker', class = x.value ->> 'class',
                    message = x.value ->> 'message', ended = x.value ->> 'ended'
               FROM json_each($1) x
              WHERE trial.id = x.value ->> 'id' AND trial.attempt = x.value ->> 'was_attempt'
                AND trial.state = x.value ->> 'was_state'",
    postgres: "UPDATE trial t
                  SET state = x.state, attempt = x.attempt, failures = x.failures, interruptions = x.interruptions,
                      lost = x.lost, failed_on = x.failed_on, epoch = x.epoch, not_before = x.not_before, worker = x.worker, class = x.class,
                      message = x.message, ended = x.ended
                 FROM json_to_recordset($1::json)
                      AS x(id bigint, was_attempt bigint, was_state text, state text, attempt bigint, failures bigint,
                           interruptions bigint, lost bigint, failed_on text, epoch bigint, not_before bigint, worker text, class text,
                           message text, ended bigint)
                WHERE t.id = x.id AND t.attempt = x.was_attempt AND t.state = x.was_state",
};

const INSERT_LEASES: Sql = Sql {
    sqlite: "INSERT INTO lease (trial, attempt, worker, until)
             SELECT value ->> 'trial', value ->> 'attempt', $2, $3 FROM json_each($1)",
    postgres: "INSERT INTO lease (trial, attempt, worker, until)
               SELECT x.trial, x.attempt, $2, $3
                 FROM json_to_recordset($1::json) AS x(trial bigint, attempt bigint)",
};
const LOCK_LEASES: Sql = Sql {
    sqlite: "SELECT * FROM lease WHERE trial IN (SELECT value FROM json_each($1)) ORDER BY trial",
    postgres:
        "SELECT * FROM lease WHERE trial = ANY (ARRAY(SELECT json_array_elements_text($1::json)::bigint))
                ORDER BY trial FOR NO KEY UPDATE",
};
const RENEW_LEASES: Sql = Sql {
    sqlite: "UPDATE lease SET until = $3 FROM json_each($1) x
              WHERE lease.trial = x.value ->> 'trial' AND lease.attempt = x.value ->> 'attempt'
                AND lease.worker = $2",
    postgres: "UPDATE lease l SET until = $3
                 FROM json_to_recordset($1::json) AS x(trial bigint, attempt bigint)
                WHERE l.trial = x.trial AND l.attempt = x.attempt AND l.worker = $2",
};
const DELETE_LEASES: Sql = Sql {
    sqlite: "DELETE FROM lease
              WHERE trial IN (SELECT value ->> 'trial' FROM json_each($1))
                AND (trial, attempt) IN (SELECT value ->> 'trial', value ->> 'attempt' FROM json_each($1))",
    postgres: "DELETE FROM lease l USING json_to_recordset($1::json) AS x(trial bigint, attempt bigint)
                WHERE l.trial = x.trial AND l.attempt = x.attempt",
};
const HELD: Sql = Sql::both("SELECT count(*) AS key FROM lease WHERE worker = $1");
const EXPIRED_LEASES: Sql = Sql::both("SELECT * FROM lease WHERE until < $1 ORDER BY trial LIMIT $2");

const INSERT_ATTEMPTS: Sql = Sql {
    sqlite: "INSERT INTO attempt (trial, number, worker, request, started)
             SELECT value ->> 'trial', value ->> 'attempt', $2, $3, $4 FROM json_each($1)",
    postgres: "INSERT INTO attempt (trial, number, worker, request, started)
               SELECT x.trial, x.attempt, $2, $3, $4
                 FROM json_to_recordset($1::json) AS x(trial bigint, attempt bigint)",
};
const END_ATTEMPTS: Sql = Sql {
    sqlite: "UPDATE attempt
                SET ended = $2, how = x.value ->> 'how', class = x.value ->> 'class',
                    message = x.value ->> 'message', digest = x.value ->> 'digest'
               FROM json_each($1) x
              WHERE attempt.trial = x.value ->> 'trial' AND attempt.number = x.value ->> 'attempt'
                AND attempt.how IS NULL",
    postgres:
        "UPDATE attempt a SET ended = $2, how = x.how, class = x.class, message = x.message, digest = x.digest
                 FROM json_to_recordset($1::json)
                      AS x(trial bigint, attempt bigint, how text, class text, message text, digest text)
                WHERE a.trial = x.trial AND a.number = x.attempt AND a.how IS NULL",
};
const ATTEMPTS: Sql = Sql {
    sqlite: "SELECT * FROM attempt WHERE trial IN (SELECT value FROM json_each($1)) ORDER BY trial, number",
    postgres:
        "SELECT * FROM attempt WHERE trial = ANY (ARRAY(SELECT json_array_elements_text($1::json)::bigint))
                ORDER BY trial, number",
};

/// What a request has leased and still runs.
const ASSIGNMENTS: Sql = Sql::both(
    "SELECT t.id AS trial, t.attempt AS attempt, s.id AS sweep_id, c.recipe_json AS recipe_json, t.seed AS seed,
            s.timeout_ms AS timeout_ms, s.checkpoint_json AS checkpoint_json, k.url AS checkpoint,
            b.artifact AS start, s.reuse AS reuse,
            CASE s.share_prefix WHEN 1 THEN c.prefix END AS prefix, p.url AS prefix_url
       FROM attempt a
       JOIN trial t ON t.id = a.trial AND t.attempt = a.number AND t.state = 'running'
       JOIN configuration c ON c.sweep = t.sweep AND c.number = t.config
       JOIN sweep s ON s.number = t.sweep
       LEFT JOIN checkpoint k ON k.trial = t.id
       LEFT JOIN result b ON b.trial = t.start_from
       LEFT JOIN prefix p ON p.sweep = t.sweep AND p.hash = c.prefix AND p.seed = t.seed
                         AND p.start_from = coalesce(t.start_from, 0)
      WHERE a.worker = $1 AND a.request = $2
      ORDER BY t.id",
);
const REQUESTED: Sql = Sql::both("SELECT count(*) AS key FROM attempt WHERE worker = $1 AND request = $2");

macro_rules! trial_view {
    () => {
        "SELECT t.id AS id, s.id AS sweep_id, c.stage AS stage, c.block AS block, c.hash AS hash,
                c.settings_json AS settings_json, t.seed AS seed, t.state AS state, t.attempt AS attempt,
                a.worker AS worker, r.objective AS objective, r.metrics_json AS metrics_json, t.class AS class,
                t.message AS message, t.epoch AS epoch, c.epochs AS epochs, a.started AS started, t.ended AS ended,
                r.origin AS origin, os.id AS origin_sweep
           FROM trial t
           JOIN sweep s ON s.number = t.sweep
           JOIN configuration c ON c.sweep = t.sweep AND c.number = t.config
           LEFT JOIN attempt a ON a.trial = t.id AND a.number = t.attempt
           LEFT JOIN result r ON r.trial = t.id
           LEFT JOIN trial o ON o.id = r.origin
           LEFT JOIN sweep os ON os.number = o.sweep "
    };
}

const VIEWS: Sql = Sql {
    sqlite: concat!(
        trial_view!(),
        "WHERE t.sweep = $1 AND t.id > $2 AND ($3 = '[]' OR t.state IN (SELECT value FROM json_each($3)))
         ORDER BY t.id LIMIT $4"
    ),
    postgres: concat!(
        trial_view!(),
        "WHERE t.sweep = $1 AND t.id > $2
           AND ($3 = '[]' OR t.state IN (SELECT json_array_elements_text($3::json)))
         ORDER BY t.id LIMIT $4"
    ),
};
const RECIPE: Sql = Sql::both(
    "SELECT t.id AS trial, t.attempt AS attempt, s.id AS sweep_id, c.recipe_json AS recipe_json, t.seed AS seed,
            s.timeout_ms AS timeout_ms, s.checkpoint_json AS checkpoint_json, k.url AS checkpoint,
            b.artifact AS start, s.reuse AS reuse,
            CASE s.share_prefix WHEN 1 THEN c.prefix END AS prefix, p.url AS prefix_url
       FROM trial t
       JOIN configuration c ON c.sweep = t.sweep AND c.number = t.config
       JOIN sweep s ON s.number = t.sweep
       LEFT JOIN checkpoint k ON k.trial = t.id
       LEFT JOIN result b ON b.trial = t.start_from
       LEFT JOIN prefix p ON p.sweep = t.sweep AND p.hash = c.prefix AND p.seed = t.seed
                         AND p.start_from = coalesce(t.start_from, 0)
      WHERE t.id = $1",
);
/// What became of the trials of configurations, in the order of these. What was stopped early has no result, only a last
/// score, which its own row shows. `$score` writes a score with all of its digits.
macro_rules! outcomes {
    ($score:literal) => {
        concat!(
            "SELECT t.config AS config, count(*) AS trials,
                    count(*) FILTER (WHERE t.state = 'succeeded') AS succeeded,
                    count(*) FILTER (WHERE t.state = 'stopped') AS stopped,
                    count(*) FILTER (WHERE t.state = 'failed') AS failed,
                    count(*) FILTER (WHERE t.class = 'diverged') AS diverged,
                    count(r.origin) AS reused,
                    string_agg(",
            $score,
            ", ',') FILTER (WHERE t.state = 'succeeded' AND r.objective IS NOT NULL) AS objectives,
                    string_agg(r.metrics_json, ',') FILTER (WHERE t.state = 'succeeded') AS metrics_json
               FROM trial t LEFT JOIN result r ON r.trial = t.id
              WHERE t.sweep = $1 AND t.config BETWEEN $2 AND $3 GROUP BY t.config ORDER BY t.config"
        )
    };
}
const OUTCOMES: Sql =
    Sql { sqlite: outcomes!("printf('%!.17g', r.objective)"), postgres: outcomes!("r.objective::text") };

const INSERT_NEEDS: Sql = Sql {
    sqlite: "INSERT INTO need (backbone, task, splits_json, method, gpu_memory_mib, labels_json)
             SELECT value ->> 'backbone', value ->> 'task', value ->> 'splits_json', value ->> 'method',
                    value ->> 'gpu_memory_mib', value ->> 'labels_json'
               FROM json_each($1) WHERE true
             ON CONFLICT DO NOTHING",
    postgres: "INSERT INTO need (backbone, task, splits_json, method, gpu_memory_mib, labels_json)
               SELECT x.* FROM json_to_recordset($1::json)
                      AS x(backbone text, task text, splits_json text, method text, gpu_memory_mib bigint,
                           labels_json text)
                ORDER BY 1, 2, 3, 4, 5, 6
               ON CONFLICT DO NOTHING",
};
const DUE_BEFORE: Sql = Sql::both(
    "SELECT count(*) AS key FROM trial
      WHERE sweep = $1 AND need = $2 AND state = 'queued' AND id < $3 AND not_before <= $4",
);
const NEEDS: Sql = Sql::both("SELECT * FROM need ORDER BY id");
const QUEUED_NEEDS: Sql = Sql::both(
    "SELECT need AS key, count(*) AS count FROM trial WHERE sweep = $1 AND state = 'queued' GROUP BY need ORDER BY 1",
);

/// One attempt of one trial: the fencing token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Token {
    pub trial: TrialId,
    pub attempt: u32,
}

/// A trial to be written.
#[derive(Debug, Serialize)]
pub(in crate::store) struct TrialInsert {
    pub config: i64,
    pub seed: i64,
    pub need: i64,
    pub start_from: Option<i64>,
    pub not_before: Millis,
}

/// A need to be written, if it is new.
#[derive(Debug, Serialize)]
struct NeedInsert {
    backbone: String,
    task: String,
    splits_json: String,
    method: String,
    gpu_memory_mib: u64,
    labels_json: String,
}

/// A need that the worker at hand serves, and whether it would have to load something first.
#[derive(Debug, Clone, Copy, Serialize)]
pub(in crate::store) struct Served {
    pub need: i64,
    pub cold: i64,
}

/// How an attempt ended, to be written.
#[derive(Debug, Serialize)]
pub(in crate::store) struct AttemptEnd {
    #[serde(flatten)]
    pub token: Token,
    pub how: &'static str,
    pub class: Option<&'static str>,
    pub message: Option<String>,
    pub digest: Option<String>,
}

pub(in crate::store) async fn insert<T: Tx>(
    tx: &mut T,
    sweep: i64,
    rows: &[TrialInsert],
) -> Result<(), Error> {
    tx.execute(INSERT, args![sweep, to_json(rows)]).await?;
    Ok(())
}

/// The sweeps that these trials belong to. A trial never changes its sweep.
pub(in crate::store) async fn sweeps_of<T: Tx>(tx: &mut T, ids: &[TrialId]) -> Result<Vec<i64>, Error> {
    let rows: Vec<KeyRow> = tx.fetch(SWEEPS_OF, args![to_json(ids)]).await?;
    Ok(rows.into_iter().map(|row| row.key).collect())
}

pub(in crate::store) async fn load<T: Tx>(tx: &mut T, ids: &[TrialId]) -> Result<Vec<TrialRow>, Error> {
    Ok(tx.fetch(LOAD, args![to_json(ids)]).await?)
}

pub(in crate::store) async fn peek<T: Tx>(tx: &mut T, ids: &[TrialId]) -> Result<Vec<TrialRow>, Error> {
    Ok(tx.fetch(PEEK, args![to_json(ids)]).await?)
}

pub(in crate::store) async fn running<T: Tx>(tx: &mut T, sweep: i64) -> Result<Vec<TrialRow>, Error> {
    Ok(tx.fetch(RUNNING, args![sweep]).await?)
}

/// Cancels the queued trials of a locked sweep, and counts them.
pub(in crate::store) async fn cancel_queued<T: Tx>(
    tx: &mut T,
    sweep: i64,
    now: Millis,
) -> Result<i64, Error> {
    Ok(tx.execute(CANCEL_QUEUED, args![sweep, now]).await? as i64)
}

pub(in crate::store) async fn claimable<T: Tx>(
    tx: &mut T,
    sweep: i64,
    needs: &[Served],
    avoiding: Avoiding<'_>,
    now: Millis,
    limit: i64,
) -> Result<Vec<TrialRow>, Error> {
    let needs = to_json(needs);
    let args = args![sweep, needs, now, limit, avoiding.worker, now - avoiding.patience];
    Ok(tx.fetch(CLAIMABLE, args).await?)
}

/// The failed trials of a locked sweep, of these classes.
pub(in crate::store) async fn failed<T: Tx>(
    tx: &mut T,
    sweep: i64,
    classes: &[FailureClass],
) -> Result<Vec<TrialRow>, Error> {
    let names: Vec<&str> = classes.iter().map(|class| class.name()).collect();
    Ok(tx.fetch(FAILED, args![sweep, to_json(&names)]).await?)
}

/// Writes trials, each only if its attempt and state are still what the decision was made on.
pub(in crate::store) async fn update<T: Tx>(tx: &mut T, changes: &[TrialChange]) -> Result<(), Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let written = tx.execute(UPDATE, args![to_json(changes)]).await?;
    if written == changes.len() as u64 { Ok(()) } else { Err(Error::Conflict("trial")) }
}

pub(in crate::store) async fn take_leases<T: Tx>(
    tx: &mut T,
    tokens: &[Token],
    worker: &WorkerId,
    until: Millis,
) -> Result<(), Error> {
    tx.execute(INSERT_LEASES, args![to_json(tokens), worker.0.as_str(), until]).await?;
    Ok(())
}

pub(in crate::store) async fn lock_leases<T: Tx>(
    tx: &mut T,
    ids: &[TrialId],
) -> Result<Vec<LeaseRow>, Error> {
    Ok(tx.fetch(LOCK_LEASES, args![to_json(ids)]).await?)
}

pub(in crate::store) async fn renew_leases<T: Tx>(
    tx: &mut T,
    tokens: &[Token],
    worker: &WorkerId,
    until: Millis,
) -> Result<(), Error> {
    let renewed = tx.execute(RENEW_LEASES, args![to_json(tokens), worker.0.as_str(), until]).await?;
    if renewed == tokens.len() as u64 { Ok(()) } else { Err(Error::Conflict("lease")) }
}

/// Takes leases away. The lease is the token: one that is gone already is a lost race.
pub(in crate::store) async fn drop_leases<T: Tx>(tx: &mut T, tokens: &[Token]) -> Result<(), Error> {
    if tokens.is_empty() {
        return Ok(());
    }
    let dropped = tx.execute(DELETE_LEASES, args![to_json(tokens)]).await?;
    if dropped == tokens.len() as u64 { Ok(()) } else { Err(Error::Conflict("lease")) }
}

/// How many leases a worker has.
pub(in crate::store) async fn held<T: Tx>(tx: &mut T, worker: &WorkerId) -> Result<i64, Error> {
    let row: Option<KeyRow> = tx.fetch_one(HELD, args![worker.0.as_str()]).await?;
    Ok(row.map_or(0, |row| row.key))
}

pub(in crate::store) async fn expired_leases<T: Tx>(
    tx: &mut T,
    before: Millis,
    limit: i64,
) -> Result<Vec<LeaseRow>, Error> {
    Ok(tx.fetch(EXPIRED_LEASES, args![before, limit]).await?)
}

pub(in crate::store) async fn start_attempts<T: Tx>(
    tx: &mut T,
    tokens: &[Token],
    worker: &WorkerId,
    request: &str,
    now: Millis,
) -> Result<(), Error> {
    tx.execute(INSERT_ATTEMPTS, args![to_json(tokens), worker.0.as_str(), request, now]).await?;
    Ok(())
}

pub(in crate::store) async fn end_attempts<T: Tx>(
    tx: &mut T,
    ends: &[AttemptEnd],
    now: Millis,
) -> Result<(), Error> {
    if ends.is_empty() {
        return Ok(());
    }
    let written = tx.execute(END_ATTEMPTS, args![to_json(ends), now]).await?;
    if written == ends.len() as u64 { Ok(()) } else { Err(Error::Conflict("attempt")) }
}

pub(in crate::store) async fn attempts<T: Tx>(tx: &mut T, ids: &[TrialId]) -> Result<Vec<AttemptRow>, Error> {
    Ok(tx.fetch(ATTEMPTS, args![to_json(ids)]).await?)
}

pub(in crate::store) async fn assignments<T: Tx>(
    tx: &mut T,
    worker: &WorkerId,
    request: &str,
) -> Result<Vec<AssignmentRow>, Error> {
    Ok(tx.fetch(ASSIGNMENTS, args![worker.0.as_str(), request]).await?)
}

/// Whether the request has leased anything before.
pub(in crate::store) async fn was_requested<T: Tx>(
    tx: &mut T,
    worker: &WorkerId,
    request: &str,
) -> Result<bool, Error> {
    let row: Option<KeyRow> = tx.fetch_one(REQUESTED, args![worker.0.as_str(), request]).await?;
    Ok(row.is_some_and(|row| row.key > 0))
}

pub(in crate::store) async fn views<T: Tx>(
    tx: &mut T,
    sweep: i64,
    after: i64,
    states: &[&str],
    limit: i64,
) -> Result<Vec<TrialView>, Error> {
    Ok(tx.fetch(VIEWS, args![sweep, after, to_json(states), limit]).await?)
}

pub(in crate::store) async fn recipe<T: Tx>(
    tx: &mut T,
    trial: TrialId,
) -> Result<Option<AssignmentRow>, Error> {
    Ok(tx.fetch_one(RECIPE, args![trial.0]).await?)
}

pub(in crate::store) async fn outcomes<T: Tx>(
    tx: &mut T,
    sweep: i64,
    first: i64,
    last: i64,
) -> Result<Vec<OutcomesRow>, Error> {
    Ok(tx.fetch(OUTCOMES, args![sweep, first, last]).await?)
}

/// The keys of needs, which are written if they are new.
pub(in crate::store) async fn need_ids<T: Tx>(
    tx: &mut T,
    wanted: &BTreeSet<&Need>,
) -> Result<BTreeMap<Need, i64>, Error> {
    insert_needs(tx, wanted).await?;
    needs(tx).await?.iter().map(|row| Ok((row.need()?, row.id))).collect()
}

async fn insert_needs<T: Tx>(tx: &mut T, needs: &BTreeSet<&Need>) -> Result<(), Error> {
    let row = |need: &&Need| NeedInsert {
        backbone: need.backbone.clone(),
        task: need.task.clone(),
        splits_json: to_json(&need.splits),
        method: need.method.clone(),
        gpu_memory_mib: need.gpu_memory_mib,
        labels_json: to_json(&need.labels),
    };
    let rows: Vec<_> = needs.iter().map(row).collect();
    tx.execute(INSERT_NEEDS, args![to_json(&rows)]).await?;
    Ok(())
}

/// Due trials of the same sweep and need that come before one.
pub(in crate::store) async fn due_before<T: Tx>(
    tx: &mut T,
    row: &TrialRow,
    now: Millis,
) -> Result<i64, Error> {
    let count: Option<KeyRow> = tx.fetch_one(DUE_BEFORE, args![row.sweep, row.need, row.id, now]).await?;
    Ok(count.map_or(0, |row| row.key))
}

pub(in crate::store) async fn needs<T: Tx>(tx: &mut T) -> Result<Vec<NeedRow>, Error> {
    Ok(tx.fetch(NEEDS, args![]).await?)
}

pub(in crate::store) async fn queued_needs<T: Tx>(tx: &mut T, sweep: i64) -> Result<Vec<CountRow>, Error> {
    Ok(tx.fetch(QUEUED_NEEDS, args![sweep]).await?)
}
