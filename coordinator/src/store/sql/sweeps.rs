//! Tables `sweep`, `source`, `configuration`.

use super::studies;
use crate::store::error::Error;
use crate::store::rows::{
    CandidateRow, ConfigurationRow, FailureRow, KeyRow, RecipeRow, SourceRow, SweepRow,
};
use crate::store::tx::{Batch, Sql, Tx, args, locking};
use crate::trial::{Millis, TrialId};

const BY_KEY: Sql = locking!("SELECT * FROM sweep WHERE key = $1");
/// Without a lock, for who only wants to know.
const FIND_KEY: Sql = Sql { sqlite: BY_KEY.sqlite, postgres: BY_KEY.sqlite };
const BY_ID: Sql = Sql::both("SELECT * FROM sweep WHERE id = $1");
const NEWEST: Sql = Sql::both("SELECT * FROM sweep ORDER BY number DESC LIMIT 1");
const BY_NAME: Sql = Sql::both("SELECT * FROM sweep WHERE name = $1 ORDER BY number DESC LIMIT 1");
const BY_PREFIX: Sql =
    Sql::both("SELECT * FROM sweep WHERE substr(id, 1, length($1)) = $1 ORDER BY id LIMIT 5");
const ACTIVE: Sql = Sql::both("SELECT * FROM sweep WHERE state = 'active'");
const LIST: Sql = Sql::both("SELECT * FROM sweep ORDER BY number DESC LIMIT $1");

const LOCK: Sql = Sql {
    sqlite: "SELECT * FROM sweep WHERE number IN (SELECT value FROM json_each($1)) ORDER BY number",
    postgres: "SELECT * FROM sweep
                WHERE number = ANY ($1)
                ORDER BY number FOR NO KEY UPDATE",
};

/// The sweeps of these trials.
const LOCK_OF: Sql = Sql {
    sqlite: "SELECT * FROM sweep
              WHERE number IN (SELECT sweep FROM trial WHERE id IN (SELECT value FROM json_each($1)))
              ORDER BY number",
    postgres: "SELECT * FROM sweep
                WHERE number IN (SELECT sweep FROM trial
                                  WHERE id = ANY ($1))
                ORDER BY number FOR NO KEY UPDATE",
};

const ANY_QUEUED: Sql = Sql::both(
    "SELECT count(*) AS key
       FROM (SELECT number FROM sweep s
              WHERE state = 'active'
                AND (queued > 0
                     OR (waiting > 0
                         AND EXISTS (SELECT 1 FROM study y WHERE y.sweep = s.number AND y.state = 'open')))
              LIMIT 1) x",
);

/// Without a lock, for who only wants to know.
const PEEK: Sql = Sql {
    sqlite: LOCK.sqlite,
    postgres: "SELECT * FROM sweep
                WHERE number = ANY ($1) ORDER BY number",
};

/// Active sweeps, and with which of the needs `$1` each has trials that are due, and with which a sampler would make some.
const CANDIDATES: Sql = Sql {
    sqlite: "SELECT s.number, s.project, s.priority, s.running, s.served,
                    min(s.queued, coalesce(s.max_running - s.running, s.queued)) AS room,
                    (SELECT json_group_array(n.value) FROM json_each($1) n
                      WHERE s.queued > 0
                        AND EXISTS (SELECT 1 FROM trial t
                                     WHERE t.sweep = s.number AND t.need = n.value AND t.state = 'queued'
                                       AND t.not_before <= $2)) AS needs_json,
                    min(s.waiting, coalesce(s.max_running - s.running, s.waiting)) AS asks,
                    (SELECT json_group_array(n.value) FROM json_each($1) n
                      WHERE s.waiting > 0
                        AND EXISTS (SELECT 1 FROM study y
                                     WHERE y.sweep = s.number AND y.state = 'open'
                                       AND (y.need = n.value OR (y.varies = 1 AND s.queued < $3)))) AS studies_json
               FROM sweep s WHERE s.state = 'active' ORDER BY s.number",
    postgres: "SELECT s.number, s.project, s.priority, s.running, s.served,
                      least(s.queued, s.max_running - s.running) AS room,
                      (SELECT coalesce(json_agg(n.value), '[]')::text FROM unnest($1::bigint[]) AS n(value)
                        WHERE s.queued > 0
                          AND EXISTS (SELECT 1 FROM trial t
                                       WHERE t.sweep = s.number AND t.need = n.value AND t.state = 'queued'
                                         AND t.not_before <= $2)) AS needs_json,
                      least(s.waiting, s.max_running - s.running) AS asks,
                      (SELECT coalesce(json_agg(n.value), '[]')::text FROM unnest($1::bigint[]) AS n(value)
                        WHERE s.waiting > 0
                          AND EXISTS (SELECT 1 FROM study y
                                       WHERE y.sweep = s.number AND y.state = 'open'
                                         AND (y.need = n.value OR (y.varies = 1 AND s.queued < $3)))) AS studies_json
                 FROM sweep s WHERE s.state = 'active' ORDER BY s.number",
};

const INSERT: Sql = Sql::both(
    "INSERT INTO sweep (id, key, name, project, labels_json, state, created, priority, objective_json, report_json,
                        axes_json, retry_json, checkpoint_json, max_running, timeout_ms, pause_after_failures,
                        pause_after_code_errors, paused_because, allow_test_selection, early_stop_json, share_prefix, reuse,
                        configurations,
                        trials, waiting, queued, running, succeeded, stopped, failed, cancelled, failures, last_seq,
                        served)
     VALUES ($1, $2, $3, $4, $5, 'active', $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, '',
             $17, $21, $23, $22, $18, $19, $20, $19 - $20, 0, 0, 0, 0, 0, 0, 0,
             coalesce((SELECT max(served) FROM sweep WHERE state = 'active'), 0))
     RETURNING *",
);
const INSERT_SOURCE: Sql = Sql::both(
    "INSERT INTO source (sweep, revision, file, overrides_json, client_version, git_commit, git_dirty)
     VALUES ($1, (SELECT count(*) FROM source WHERE sweep = $1), $2, $3, $4, $5, $6)",
);
const SOURCE: Sql = Sql::both("SELECT * FROM source WHERE sweep = $1 ORDER BY revision DESC LIMIT 1");

const UPDATE: Sql = Sql::both(
    "UPDATE sweep SET state = $2, paused_because = $3, queued = $4, running = $5, succeeded = $6, failed = $7,
                      cancelled = $8, failures = $9, last_seq = $10, served = $11, configurations = $12, trials = $13,
                      waiting = $14, stopped = $15
      WHERE number = $1",
);

/// What an extension may change of how a sweep is run and shown.
const AMEND: Sql = Sql::both(
    "UPDATE sweep SET project = $2, labels_json = $3, priority = $4, report_json = $5, axes_json = $6, retry_json = $7,
                      checkpoint_json = $8, max_running = $9, timeout_ms = $10, pause_after_failures = $11,
                      pause_after_code_errors = $12, reuse = $13, share_prefix = $14
      WHERE number = $1",
);

const INSERT_CONFIGURATIONS: Sql = Sql {
    sqlite: "INSERT INTO configuration (number, stage, block, hash, settings_json, recipe_json, epochs, lr, is_lr_scaled,
                                        parent, scope, bracket, prefix, rewind, changed_from, sweep)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
    postgres: "INSERT INTO configuration (number, stage, block, hash, settings_json, recipe_json, epochs, lr,
                                          is_lr_scaled, parent, scope, bracket, prefix, rewind, changed_from, sweep)
               SELECT x.*, $16
                 FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
                             $8::double precision[], $9::bigint[], $10::bigint[], $11::text[], $12::bigint[], $13::text[],
                             $14::bigint[], $15::bigint[]) x",
};
const CONFIGURATIONS: Sql = Sql::both(
    "SELECT number, hash, stage, block, settings_json, superseded FROM configuration
      WHERE sweep = $1 AND number > $2 ORDER BY number LIMIT $3",
);
const FIRST_RECIPE: Sql =
    Sql::both("SELECT recipe_json FROM configuration WHERE sweep = $1 ORDER BY number LIMIT 1");

const FAILURES: Sql = Sql::both(
    "SELECT x.class AS class, x.trials AS trials, t.message AS example
       FROM (SELECT class, count(*) AS trials, min(id) AS first FROM trial
              WHERE sweep = $1 AND state = 'failed' GROUP BY class) x
       JOIN trial t ON t.id = x.first
      ORDER BY x.trials DESC, x.class",
);

/// A sweep to be written.
#[derive(Debug)]
pub(in crate::store) struct SweepInsert<'a> {
    pub id: &'a str,
    pub key: &'a str,
    pub name: &'a str,
    pub project: &'a str,
    pub labels_json: String,
    pub priority: i64,
    pub objective_json: String,
    pub report_json: String,
    pub axes_json: String,
    pub retry_json: String,
    pub checkpoint_json: String,
    pub max_running: Option<i64>,
    pub timeout_ms: Option<i64>,
    pub pause_after_failures: Option<i64>,
    pub pause_after_code_errors: Option<i64>,
    pub allow_test_selection: i64,
    pub configurations: i64,
    /// `waiting` of them wait for their stage.
    pub trials: i64,
    pub waiting: i64,
    pub early_stop_json: Option<String>,
    pub reuse: &'a str,
    pub share_prefix: i64,
}

/// A configuration to be written.
#[derive(Debug)]
pub(in crate::store) struct ConfigurationInsert<'a> {
    pub number: i64,
    pub stage: &'a str,
    pub block: &'a str,
    pub hash: &'a str,
    pub settings_json: &'a str,
    pub recipe_json: &'a str,
    pub epochs: u32,
    pub lr: f64,
    pub is_lr_scaled: i64,
    pub parent: Option<i64>,
    pub scope: Option<&'a str>,
    pub bracket: u32,
    pub prefix: Option<&'a str>,
    pub rewind: Option<u32>,
    pub changed_from: Option<i64>,
}

pub(in crate::store) async fn by_key<T: Tx>(tx: &mut T, key: &str) -> Result<Option<SweepRow>, Error> {
    Ok(tx.fetch_one(BY_KEY, args![key]).await?)
}

pub(in crate::store) async fn find_key<T: Tx>(tx: &mut T, key: &str) -> Result<Option<SweepRow>, Error> {
    Ok(tx.fetch_one(FIND_KEY, args![key]).await?)
}

/// The sweep that a user means: `last`, an id, a unique prefix of one, or a name.
pub(in crate::store) async fn resolve<T: Tx>(tx: &mut T, wanted: &str) -> Result<SweepRow, Error> {
    if wanted == "last"
        && let Some(row) = tx.fetch_one(NEWEST, args![]).await?
    {
        return Ok(row);
    }
    for sql in [BY_ID, BY_NAME] {
        if let Some(row) = tx.fetch_one(sql, args![wanted]).await? {
            return Ok(row);
        }
    }
    if wanted.is_empty() {
        return Err(Error::NoSweep(String::new()));
    }
    let mut rows: Vec<SweepRow> = tx.fetch(BY_PREFIX, args![wanted]).await?;
    match rows.len() {
        1 => Ok(rows.swap_remove(0)),
        0 => Err(Error::NoSweep(wanted.to_owned())),
        _ => Err(Error::AmbiguousSweep {
            prefix: wanted.to_owned(),
            ids: rows.into_iter().map(|row| row.id).collect(),
        }),
    }
}

pub(in crate::store) async fn list<T: Tx>(tx: &mut T, limit: i64) -> Result<Vec<SweepRow>, Error> {
    Ok(tx.fetch(LIST, args![limit]).await?)
}

pub(in crate::store) async fn active<T: Tx>(tx: &mut T) -> Result<Vec<SweepRow>, Error> {
    Ok(tx.fetch(ACTIVE, args![]).await?)
}

/// Locks sweeps, in the order that keeps lockers from waiting for each other in a circle.
pub(in crate::store) async fn lock<T: Tx>(tx: &mut T, numbers: &[i64]) -> Result<Vec<SweepRow>, Error> {
    Ok(tx.fetch(LOCK, args![numbers.to_vec()]).await?)
}

/// Locks the sweeps that these trials belong to. A trial never changes its sweep.
pub(in crate::store) async fn lock_of<T: Tx>(tx: &mut T, trials: &[TrialId]) -> Result<Vec<SweepRow>, Error> {
    Ok(tx.fetch(LOCK_OF, args![super::trials::numbers(trials)]).await?)
}

/// Whether any active sweep has a trial waiting, due or not, or would make one.
pub(in crate::store) async fn any_queued<T: Tx>(tx: &mut T) -> Result<bool, Error> {
    let row: Option<KeyRow> = tx.fetch_one(ANY_QUEUED, args![]).await?;
    Ok(row.is_some_and(|row| row.key > 0))
}

pub(in crate::store) async fn peek<T: Tx>(tx: &mut T, numbers: &[i64]) -> Result<Vec<SweepRow>, Error> {
    Ok(tx.fetch(PEEK, args![numbers.to_vec()]).await?)
}

/// Active sweeps, and with which of the needs each has trials that are due.
pub(in crate::store) async fn candidates<T: Tx>(
    tx: &mut T,
    needs: &[i64],
    now: Millis,
) -> Result<Vec<CandidateRow>, Error> {
    Ok(tx.fetch(CANDIDATES, args![needs.to_vec(), now, studies::MAX_BACKLOG]).await?)
}

pub(in crate::store) async fn insert<T: Tx>(
    tx: &mut T,
    new: SweepInsert<'_>,
    now: Millis,
) -> Result<SweepRow, Error> {
    let args = args![
        new.id,
        new.key,
        new.name,
        new.project,
        new.labels_json,
        now,
        new.priority,
        new.objective_json,
        new.report_json,
        new.axes_json,
        new.retry_json,
        new.checkpoint_json,
        new.max_running,
        new.timeout_ms,
        new.pause_after_failures,
        new.pause_after_code_errors,
        new.allow_test_selection,
        new.configurations,
        new.trials,
        new.waiting,
        new.early_stop_json,
        new.reuse,
        new.share_prefix,
    ];
    tx.fetch_one(INSERT, args).await?.ok_or(Error::Conflict("sweep"))
}

/// Writes what an extension may change of a locked sweep itself.
pub(in crate::store) async fn amend<T: Tx>(
    tx: &mut T,
    number: i64,
    new: SweepInsert<'_>,
) -> Result<(), Error> {
    let args = args![
        number,
        new.project,
        new.labels_json,
        new.priority,
        new.report_json,
        new.axes_json,
        new.retry_json,
        new.checkpoint_json,
        new.max_running,
        new.timeout_ms,
        new.pause_after_failures,
        new.pause_after_code_errors,
        new.reuse,
        new.share_prefix,
    ];
    match tx.execute(AMEND, args).await? {
        1 => Ok(()),
        _ => Err(Error::Conflict("sweep")),
    }
}

pub(in crate::store) async fn insert_source<T: Tx>(
    tx: &mut T,
    sweep: i64,
    source: &SourceRow,
) -> Result<(), Error> {
    let args = args![
        sweep,
        source.file.as_str(),
        source.overrides_json.as_str(),
        source.client_version.as_str(),
        source.git_commit.as_str(),
        source.git_dirty,
    ];
    tx.execute(INSERT_SOURCE, args).await?;
    Ok(())
}

pub(in crate::store) async fn source<T: Tx>(tx: &mut T, sweep: i64) -> Result<Option<SourceRow>, Error> {
    Ok(tx.fetch_one(SOURCE, args![sweep]).await?)
}

/// Writes what may change of a locked sweep.
pub(in crate::store) async fn update<T: Tx>(tx: &mut T, row: &SweepRow) -> Result<(), Error> {
    let args = args![
        row.number,
        row.state.as_str(),
        row.paused_because.as_str(),
        row.queued,
        row.running,
        row.succeeded,
        row.failed,
        row.cancelled,
        row.failures,
        row.last_seq,
        row.served,
        row.configurations,
        row.trials,
        row.waiting,
        row.stopped,
    ];
    match tx.execute(UPDATE, args).await? {
        1 => Ok(()),
        _ => Err(Error::Conflict("sweep")),
    }
}

pub(in crate::store) async fn insert_configurations<T: Tx>(
    tx: &mut T,
    sweep: i64,
    rows: &[ConfigurationInsert<'_>],
) -> Result<(), Error> {
    let batch = Batch::of(rows).int(|new| new.number).text(|new| new.stage).text(|new| new.block);
    let batch = batch.text(|new| new.hash).text(|new| new.settings_json).text(|new| new.recipe_json);
    let batch = batch.int(|new| i64::from(new.epochs)).real(|new| new.lr).int(|new| new.is_lr_scaled);
    let batch = batch.int(|new| new.parent).text(|new| new.scope).int(|new| i64::from(new.bracket));
    let batch = batch.text(|new| new.prefix).int(|new| new.rewind.map(i64::from)).int(|new| new.changed_from);
    tx.execute_all(INSERT_CONFIGURATIONS, batch, args![sweep]).await?;
    Ok(())
}

pub(in crate::store) async fn configurations<T: Tx>(
    tx: &mut T,
    sweep: i64,
    after: i64,
    limit: i64,
) -> Result<Vec<ConfigurationRow>, Error> {
    Ok(tx.fetch(CONFIGURATIONS, args![sweep, after, limit]).await?)
}

pub(in crate::store) async fn failures<T: Tx>(tx: &mut T, sweep: i64) -> Result<Vec<FailureRow>, Error> {
    Ok(tx.fetch(FAILURES, args![sweep]).await?)
}

/// The recipe of the first configuration, as stored.
pub(in crate::store) async fn first_recipe<T: Tx>(tx: &mut T, sweep: i64) -> Result<String, Error> {
    let row: Option<RecipeRow> = tx.fetch_one(FIRST_RECIPE, args![sweep]).await?;
    Ok(row.map(|row| row.recipe_json).unwrap_or_default())
}
