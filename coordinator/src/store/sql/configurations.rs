//! Table `configuration`, for those who make one from another.

use crate::store::error::Error;
use crate::store::rows::{HashRow, KeyRow, MembershipRow, OpenedRow, WholeConfigurationRow, to_json};
use crate::store::tx::{Sql, Tx, args};
use crate::trial::TrialId;

macro_rules! whole {
    () => {
        "SELECT number, stage, block, hash, settings_json, recipe_json, is_lr_scaled, parent, changed_from
           FROM configuration WHERE sweep = $1 "
    };
}
const WHOLE: Sql = Sql {
    sqlite: concat!(whole!(), "AND number IN (SELECT value FROM json_each($2)) ORDER BY number"),
    postgres: concat!(
        whole!(),
        "AND number = ANY (ARRAY(SELECT json_array_elements_text($2::json)::bigint)) ORDER BY number"
    ),
};
const ALL: Sql = Sql::both(concat!(whole!(), "ORDER BY number"));
const BY_HASH: Sql =
    Sql::both("SELECT number AS key FROM configuration WHERE sweep = $1 AND stage = $2 AND hash = $3");
/// Of the configuration whose tensors the trials of another start from.
const START: Sql = Sql::both(
    "SELECT p.hash AS hash FROM trial t
       JOIN trial o ON o.id = t.start_from
       JOIN configuration p ON p.sweep = o.sweep AND p.number = o.config
      WHERE t.sweep = $1 AND t.config = $2 LIMIT 1",
);
const TAKEN: Sql = Sql {
    sqlite: "SELECT seed AS key FROM trial
              WHERE sweep = $1 AND config = $2 AND seed IN (SELECT value FROM json_each($3)) ORDER BY seed LIMIT 1",
    postgres: "SELECT seed AS key FROM trial
                WHERE sweep = $1 AND config = $2
                  AND seed = ANY (ARRAY(SELECT json_array_elements_text($3::json)::bigint)) ORDER BY seed LIMIT 1",
};
/// Guarded by the state in which it may be done.
const MOVE_TRIALS: Sql = Sql {
    sqlite: "UPDATE trial SET config = $3, need = $4
              WHERE sweep = $1 AND id IN (SELECT value FROM json_each($2)) AND state = 'failed'",
    postgres: "UPDATE trial SET config = $3, need = $4
                WHERE sweep = $1 AND id = ANY (ARRAY(SELECT json_array_elements_text($2::json)::bigint))
                  AND state = 'failed'",
};
const MEMBERSHIPS: Sql = Sql::both(
    "SELECT m.config AS config, m.stage AS stage, m.choice AS choice, g.key_json AS key_json, g.state AS state
       FROM member m JOIN choice g ON g.sweep = m.sweep AND g.stage = m.stage AND g.number = m.choice
      WHERE m.sweep = $1 AND m.config = $2 ORDER BY m.stage",
);

const TELL_SETTINGS: Sql =
    Sql::both("UPDATE configuration SET settings_json = $3 WHERE sweep = $1 AND number = $2");
/// What a stage has opened, with what its trials need.
const OPENED: Sql = Sql::both(
    "SELECT c.number AS number, c.parent AS parent, c.prefix AS prefix, min(t.need) AS need
       FROM configuration c JOIN trial t ON t.sweep = c.sweep AND t.config = c.number
      WHERE c.sweep = $1 AND c.stage = $2 AND c.changed_from IS NULL AND c.superseded = 0
      GROUP BY c.number, c.parent, c.prefix ORDER BY c.number",
);
/// The trial whose tensors a trial with a seed starts from: that of the same seed, or else the first with a score.
const START_OF: Sql = Sql::both(
    "SELECT t.id AS key FROM trial t JOIN result r ON r.trial = t.id AND r.objective IS NOT NULL
      WHERE t.sweep = $1 AND t.config = $2 ORDER BY CASE t.seed WHEN $3 THEN 0 ELSE 1 END, t.id LIMIT 1",
);

/// Configurations by number.
pub(in crate::store) async fn whole<T: Tx>(
    tx: &mut T,
    sweep: i64,
    numbers: &[i64],
) -> Result<Vec<WholeConfigurationRow>, Error> {
    Ok(tx.fetch(WHOLE, args![sweep, to_json(numbers)]).await?)
}

/// All configurations, in their order.
pub(in crate::store) async fn all<T: Tx>(
    tx: &mut T,
    sweep: i64,
) -> Result<Vec<WholeConfigurationRow>, Error> {
    Ok(tx.fetch(ALL, args![sweep]).await?)
}

/// The configuration of a stage with a hash.
pub(in crate::store) async fn by_hash<T: Tx>(
    tx: &mut T,
    sweep: i64,
    stage: &str,
    hash: &str,
) -> Result<Option<i64>, Error> {
    let row: Option<KeyRow> = tx.fetch_one(BY_HASH, args![sweep, stage, hash]).await?;
    Ok(row.map(|row| row.key))
}

/// The hash of the configuration whose tensors the trials of this one start from, if they do.
pub(in crate::store) async fn start<T: Tx>(
    tx: &mut T,
    sweep: i64,
    number: i64,
) -> Result<Option<String>, Error> {
    let row: Option<HashRow> = tx.fetch_one(START, args![sweep, number]).await?;
    Ok(row.map(|row| row.hash))
}

/// The first of these seeds of which a configuration has a trial.
pub(in crate::store) async fn taken<T: Tx>(
    tx: &mut T,
    sweep: i64,
    number: i64,
    seeds: &[i64],
) -> Result<Option<i64>, Error> {
    let row: Option<KeyRow> = tx.fetch_one(TAKEN, args![sweep, number, to_json(seeds)]).await?;
    Ok(row.map(|row| row.key))
}

/// Makes failed trials those of another configuration.
pub(in crate::store) async fn move_trials<T: Tx>(
    tx: &mut T,
    sweep: i64,
    trials: &[TrialId],
    number: i64,
    need: i64,
) -> Result<(), Error> {
    let moved = tx.execute(MOVE_TRIALS, args![sweep, to_json(trials), number, need]).await?;
    if moved == trials.len() as u64 { Ok(()) } else { Err(Error::Conflict("trial")) }
}

/// The groups of a configuration.
pub(in crate::store) async fn memberships<T: Tx>(
    tx: &mut T,
    sweep: i64,
    number: i64,
) -> Result<Vec<MembershipRow>, Error> {
    Ok(tx.fetch(MEMBERSHIPS, args![sweep, number]).await?)
}

pub(in crate::store) async fn tell_settings<T: Tx>(
    tx: &mut T,
    sweep: i64,
    number: i64,
    settings_json: &str,
) -> Result<(), Error> {
    tx.execute(TELL_SETTINGS, args![sweep, number, settings_json]).await?;
    Ok(())
}

/// What a stage has opened.
pub(in crate::store) async fn opened<T: Tx>(
    tx: &mut T,
    sweep: i64,
    stage: &str,
) -> Result<Vec<OpenedRow>, Error> {
    Ok(tx.fetch(OPENED, args![sweep, stage]).await?)
}

/// The trial of a chosen configuration whose tensors a trial with a seed starts from.
pub(in crate::store) async fn start_of<T: Tx>(
    tx: &mut T,
    sweep: i64,
    number: i64,
    seed: i64,
) -> Result<Option<i64>, Error> {
    let row: Option<KeyRow> = tx.fetch_one(START_OF, args![sweep, number, seed]).await?;
    Ok(row.map(|row| row.key))
}
