//! Table `trial`, and what is shown of it.

use serde::Serialize;

use crate::store::error::Error;
use crate::store::rows::{
    AssignmentRow, KeyRow, OutcomesRow, QueuedRow, TrialChange, TrialRow, TrialView, to_json,
};
use crate::store::tx::{Batch, Sql, Tx, args, locking};
use crate::trial::{FailureClass, Millis, TrialId, WorkerId};

const INSERT: Sql = Sql {
    sqlite: "INSERT INTO trial (config, seed, need, start_from, sweep, state, attempt, failures, interruptions, lost,
                                epoch, not_before)
             VALUES ($1, $2, $3, $4, $6, 'queued', 0, 0, 0, 0, 0, $5)",
    postgres: "INSERT INTO trial (config, seed, need, start_from, sweep, state, attempt, failures, interruptions, lost,
                                  epoch, not_before)
               SELECT x.config, x.seed, x.need, x.start_from, $6, 'queued', 0, 0, 0, 0, 0, x.not_before
                 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
                      AS x(config, seed, need, start_from, not_before)",
};

const SWEEPS_OF: Sql = Sql {
    sqlite: "SELECT DISTINCT sweep AS key FROM trial WHERE id IN (SELECT value FROM json_each($1)) ORDER BY 1",
    postgres: "SELECT DISTINCT sweep AS key FROM trial WHERE id = ANY ($1) ORDER BY 1",
};
const LOAD: Sql = Sql {
    sqlite: "SELECT * FROM trial WHERE id IN (SELECT value FROM json_each($1)) ORDER BY id",
    postgres: "SELECT * FROM trial WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE",
};
/// Without a lock, for who only wants to know.
const PEEK: Sql =
    Sql { sqlite: LOAD.sqlite, postgres: "SELECT * FROM trial WHERE id = ANY ($1) ORDER BY id" };
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

/// Due trials of sweeps and needs, in order, at most `$3` of each after the one that is given. The sweeps are locked, so
/// nobody else takes one of them.
const QUEUED: Sql = Sql {
    sqlite: "SELECT t.id, t.sweep, t.need, t.not_before, t.failed_on FROM json_each($1) x CROSS JOIN trial t
              WHERE t.id IN (SELECT q.id FROM trial q
                              WHERE q.sweep = x.value ->> 'sweep' AND q.need = x.value ->> 'need'
                                AND q.id > x.value ->> 'after' AND q.state = 'queued' AND q.not_before <= $2
                              ORDER BY q.id LIMIT $3)",
    postgres: "SELECT q.* FROM json_to_recordset($1::json) AS x(sweep bigint, need bigint, after bigint)
                CROSS JOIN LATERAL (SELECT id, sweep, need, not_before, failed_on FROM trial
                                     WHERE sweep = x.sweep AND need = x.need AND id > x.after
                                       AND state = 'queued' AND not_before <= $2
                                     ORDER BY id LIMIT $3) q",
};

const UPDATE: Sql = Sql {
    sqlite: "UPDATE trial
                SET state = $4, attempt = $5, failures = $6, interruptions = $7, lost = $8, failed_on = $9, epoch = $10,
                    not_before = $11, worker = $12, class = $13, message = $14, ended = $15
              WHERE id = $1 AND attempt = $2 AND state = $3",
    postgres: "UPDATE trial t
                  SET state = x.state, attempt = x.attempt, failures = x.failures, interruptions = x.interruptions,
                      lost = x.lost, failed_on = x.failed_on, epoch = x.epoch, not_before = x.not_before,
                      worker = x.worker, class = x.class, message = x.message, ended = x.ended
                 FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::bigint[],
                             $7::bigint[], $8::bigint[], $9::text[], $10::bigint[], $11::bigint[], $12::text[],
                             $13::text[], $14::text[], $15::bigint[])
                      AS x(id, was_attempt, was_state, state, attempt, failures, interruptions, lost, failed_on, epoch,
                           not_before, worker, class, message, ended)
                WHERE t.id = x.id AND t.attempt = x.was_attempt AND t.state = x.was_state",
};

macro_rules! assignment {
    ($rest:literal) => {
        concat!(
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
                                 AND p.start_from = coalesce(t.start_from, 0) ",
            $rest
        )
    };
}

/// What these trials are to run.
const ASSIGNMENTS: Sql = Sql {
    sqlite: assignment!("WHERE t.id IN (SELECT value FROM json_each($1)) ORDER BY t.id"),
    postgres: assignment!("WHERE t.id = ANY ($1) ORDER BY t.id"),
};
/// What a request has leased and still runs.
const REQUESTED: Sql = Sql::both(assignment!(
    "JOIN attempt a ON a.trial = t.id AND a.number = t.attempt
      WHERE t.state = 'running' AND a.worker = $1 AND a.request = $2 ORDER BY t.id"
));

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

const DUE_BEFORE: Sql = Sql::both(
    "SELECT count(*) AS key FROM trial
      WHERE sweep = $1 AND need = $2 AND state = 'queued' AND id < $3 AND not_before <= $4",
);
/// A trial to be written.
#[derive(Debug)]
pub(in crate::store) struct TrialInsert {
    pub config: i64,
    pub seed: i64,
    pub need: i64,
    pub start_from: Option<i64>,
    pub not_before: Millis,
}

pub(in crate::store) async fn insert<T: Tx>(
    tx: &mut T,
    sweep: i64,
    rows: &[TrialInsert],
) -> Result<(), Error> {
    let batch = Batch::of(rows).int(|row| row.config).int(|row| row.seed);
    let batch = batch.int(|row| row.need).int(|row| row.start_from).int(|row| row.not_before);
    tx.execute_all(INSERT, batch, args![sweep]).await?;
    Ok(())
}

pub(super) fn numbers(ids: &[TrialId]) -> Vec<i64> {
    ids.iter().map(|id| id.0).collect()
}

fn name(worker: &Option<WorkerId>) -> Option<&str> {
    worker.as_ref().map(|worker| worker.0.as_str())
}

/// The sweeps that these trials belong to. A trial never changes its sweep.
pub(in crate::store) async fn sweeps_of<T: Tx>(tx: &mut T, ids: &[TrialId]) -> Result<Vec<i64>, Error> {
    let rows: Vec<KeyRow> = tx.fetch(SWEEPS_OF, args![numbers(ids)]).await?;
    Ok(rows.into_iter().map(|row| row.key).collect())
}

pub(in crate::store) async fn load<T: Tx>(tx: &mut T, ids: &[TrialId]) -> Result<Vec<TrialRow>, Error> {
    Ok(tx.fetch(LOAD, args![numbers(ids)]).await?)
}

pub(in crate::store) async fn peek<T: Tx>(tx: &mut T, ids: &[TrialId]) -> Result<Vec<TrialRow>, Error> {
    Ok(tx.fetch(PEEK, args![numbers(ids)]).await?)
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

/// Where to go on in the queue of a sweep's trials with one need: after a trial.
#[derive(Debug, Clone, Copy, Serialize)]
pub(in crate::store) struct Place {
    pub sweep: i64,
    pub need: i64,
    pub after: i64,
}

/// Due trials after these places, at most `limit` after each.
pub(in crate::store) async fn queued<T: Tx>(
    tx: &mut T,
    places: &[Place],
    limit: i64,
    now: Millis,
) -> Result<Vec<QueuedRow>, Error> {
    Ok(tx.fetch(QUEUED, args![to_json(places), now, limit]).await?)
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
    let batch = Batch::of(changes).int(|new| new.id.0).int(|new| i64::from(new.was_attempt));
    let batch = batch.text(|new| new.was_state).text(|new| new.state).int(|new| i64::from(new.attempt));
    let batch = batch.int(|new| i64::from(new.failures)).int(|new| i64::from(new.interruptions));
    let batch = batch.int(|new| i64::from(new.lost)).text(|new| name(&new.failed_on));
    let batch = batch.int(|new| i64::from(new.epoch)).int(|new| new.not_before).text(|new| name(&new.worker));
    let batch = batch.text(|new| new.class.map(FailureClass::name)).text(|new| new.message.as_deref());
    let written = tx.execute_all(UPDATE, batch.int(|new| new.ended), args![]).await?;
    if written == changes.len() as u64 { Ok(()) } else { Err(Error::Conflict("trial")) }
}

/// What these trials are to run, in the order of their ids.
pub(in crate::store) async fn assignments<T: Tx>(
    tx: &mut T,
    ids: &[TrialId],
) -> Result<Vec<AssignmentRow>, Error> {
    Ok(tx.fetch(ASSIGNMENTS, args![numbers(ids)]).await?)
}

/// What a request has leased and still runs.
pub(in crate::store) async fn requested<T: Tx>(
    tx: &mut T,
    worker: &WorkerId,
    request: &str,
) -> Result<Vec<AssignmentRow>, Error> {
    Ok(tx.fetch(REQUESTED, args![worker.0.as_str(), request]).await?)
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

pub(in crate::store) async fn outcomes<T: Tx>(
    tx: &mut T,
    sweep: i64,
    first: i64,
    last: i64,
) -> Result<Vec<OutcomesRow>, Error> {
    Ok(tx.fetch(OUTCOMES, args![sweep, first, last]).await?)
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
