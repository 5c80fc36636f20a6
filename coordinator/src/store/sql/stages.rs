//! Tables `stage`, `choice`, `member`.

use ::sweeps::Stage;
use serde::Serialize;

use crate::store::error::Error;
use crate::store::rows::{
    ChoiceRow, FailedGroupRow, HashRow, KeyRow, MemberRow, StageCountRow, StageRow, to_json,
};
use crate::store::tx::{Sql, Tx, args};

const INSERT_STAGES: Sql = Sql {
    sqlite: "INSERT INTO stage (sweep, number, name, seeds_json, parent, opening_json, is_scored_on_test,
                    sampler_json)
             SELECT $1, value ->> 'number', value ->> 'name', value ->> 'seeds_json', value ->> 'parent',
                    value ->> 'opening_json', value ->> 'is_scored_on_test',
                    value ->> 'sampler_json'
               FROM json_each($2)",
    postgres: "INSERT INTO stage (sweep, number, name, seeds_json, parent, opening_json, is_scored_on_test,
                    sampler_json)
               SELECT $1, x.*
                 FROM json_to_recordset($2::json) AS x(number bigint, name text, seeds_json text, parent bigint,
                                                       opening_json text, is_scored_on_test bigint, sampler_json text)",
};
const INSERT_CHOICES: Sql = Sql {
    sqlite: "INSERT INTO choice (sweep, stage, number, key_json, pending, configurations, trials, state)
             SELECT $1, value ->> 'stage', value ->> 'number', value ->> 'key_json', value ->> 'pending',
                    value ->> 'configurations', value ->> 'trials', 'waiting'
               FROM json_each($2)",
    postgres: "INSERT INTO choice (sweep, stage, number, key_json, pending, configurations, trials, state)
               SELECT $1, x.*, 'waiting'
                 FROM json_to_recordset($2::json) AS x(stage bigint, number bigint, key_json text, pending bigint,
                                                       configurations bigint, trials bigint)",
};
const INSERT_MEMBERS: Sql = Sql {
    sqlite: "INSERT INTO member (sweep, config, stage, choice)
             SELECT $1, value ->> 'config', value ->> 'stage', value ->> 'choice' FROM json_each($2)",
    postgres: "INSERT INTO member (sweep, config, stage, choice)
               SELECT $1, x.*
                 FROM json_to_recordset($2::json) AS x(config bigint, stage bigint, choice bigint)",
};
/// What a stage makes, and of which seeds, after an extension.
const AMEND_STAGES: Sql = Sql {
    sqlite:
        "UPDATE stage SET seeds_json = x.value ->> 'seeds_json', opening_json = x.value ->> 'opening_json'
               FROM json_each($2) x WHERE stage.sweep = $1 AND stage.number = x.value ->> 'number'",
    postgres: "UPDATE stage s SET seeds_json = x.seeds_json, opening_json = x.opening_json
                 FROM json_to_recordset($2::json) AS x(number bigint, seeds_json text, opening_json text)
                WHERE s.sweep = $1 AND s.number = x.number",
};
const CHOICES: Sql = Sql::both("SELECT * FROM choice WHERE sweep = $1 ORDER BY stage, number");
/// Of what a stage has made of a group's configurations, those that it would not make by now (`$5`: the hashes of those
/// that it would).
const SUPERSEDE: Sql = Sql {
    sqlite: "UPDATE configuration
                SET superseded = CASE WHEN hash IN (SELECT value FROM json_each($5)) THEN 0 ELSE 1 END
              WHERE sweep = $1 AND stage = $4 AND changed_from IS NULL
                AND parent IN (SELECT config FROM member WHERE sweep = $1 AND stage = $2 AND choice = $3)",
    postgres: "UPDATE configuration
                  SET superseded = CASE WHEN hash IN (SELECT json_array_elements_text($5::json)) THEN 0 ELSE 1 END
                WHERE sweep = $1 AND stage = $4 AND changed_from IS NULL
                  AND parent IN (SELECT config FROM member WHERE sweep = $1 AND stage = $2 AND choice = $3)",
};
/// Whether a stage has made anything of a group's configurations.
const IS_PARENT: Sql = Sql::both(
    "SELECT count(*) AS key FROM member m
       JOIN stage s ON s.sweep = m.sweep AND s.number = m.stage
       JOIN configuration c ON c.sweep = m.sweep AND c.parent = m.config AND c.stage = s.name
      WHERE m.sweep = $1 AND m.stage = $2 AND m.choice = $3",
);
const STAGES: Sql = Sql::both("SELECT * FROM stage WHERE sweep = $1 ORDER BY number");
/// A group by its key, without a lock: who changes it holds the sweep.
const FIND: Sql = Sql::both("SELECT * FROM choice WHERE sweep = $1 AND stage = $2 AND key_json = $3");
/// Stages with their groups by state.
const COUNTS: Sql = Sql::both(
    "SELECT s.name AS name, p.name AS parent, count(*) FILTER (WHERE g.state = 'waiting') AS waiting,
            count(*) FILTER (WHERE g.state = 'opened') AS opened,
            count(*) FILTER (WHERE g.state = 'failed') AS failed
       FROM stage s
       LEFT JOIN stage p ON p.sweep = s.sweep AND p.number = s.parent
       LEFT JOIN choice g ON g.sweep = s.sweep AND g.stage = s.number
      WHERE s.sweep = $1 GROUP BY s.number, s.name, p.name ORDER BY s.number",
);
const FAILED: Sql = Sql::both(
    "SELECT s.name AS stage, g.key_json AS key_json FROM choice g
       JOIN stage s ON s.sweep = g.sweep AND s.number = g.stage
      WHERE g.sweep = $1 AND g.state = 'failed' ORDER BY g.stage, g.number LIMIT $2",
);
const DUE: Sql = Sql::both(
    "SELECT * FROM choice WHERE sweep = $1 AND state = 'waiting' AND pending = 0 ORDER BY stage, number LIMIT 1",
);
/// `to_come` trials of a configuration more, for each of its groups.
const COUNT_TRIALS: Sql = Sql {
    sqlite: "UPDATE choice SET pending = pending + d.n
               FROM (SELECT m.stage AS stage, m.choice AS number, sum(x.value ->> 'to_come') AS n
                       FROM json_each($2) x
                       JOIN member m ON m.sweep = $1 AND m.config = x.value ->> 'config' GROUP BY 1, 2) d
              WHERE choice.sweep = $1 AND choice.stage = d.stage AND choice.number = d.number",
    postgres: "UPDATE choice SET pending = pending + d.n
                 FROM (SELECT m.stage AS stage, m.choice AS number, sum(x.to_come)::bigint AS n
                         FROM json_to_recordset($2::json) AS x(config bigint, to_come bigint)
                         JOIN member m ON m.sweep = $1 AND m.config = x.config GROUP BY 1, 2) d
                WHERE choice.sweep = $1 AND choice.stage = d.stage AND choice.number = d.number",
};
const ADD_PENDING: Sql =
    Sql::both("UPDATE choice SET pending = pending + $4 WHERE sweep = $1 AND stage = $2 AND number = $3");
/// Guarded by the state that the decision was made on: a group opens once.
const MOVE: Sql = Sql::both(
    "UPDATE choice SET state = $5, configurations = $6, trials = $7
      WHERE sweep = $1 AND stage = $2 AND number = $3 AND state = $4",
);
const CANCEL: Sql = Sql::both(
    "UPDATE choice SET state = 'cancelled' WHERE sweep = $1 AND state = 'waiting' RETURNING configurations AS key",
);
const CANDIDATES: Sql = Sql::both(
    "SELECT c.number AS number, c.block AS block, c.hash AS hash, c.settings_json AS settings_json, c.lr AS lr,
            c.is_lr_scaled AS is_lr_scaled, t.id AS trial, t.seed AS seed, t.need AS need, t.state AS state, r.objective AS objective
       FROM member m
       JOIN configuration c ON c.sweep = m.sweep AND c.number = m.config AND c.superseded = 0
       JOIN trial t ON t.sweep = m.sweep AND t.config = m.config
       LEFT JOIN result r ON r.trial = t.id
      WHERE m.sweep = $1 AND m.stage = $2 AND m.choice = $3
      ORDER BY c.number, t.id",
);
const FAILED_OF: Sql = Sql {
    sqlite: "SELECT DISTINCT g.* FROM member m
               JOIN choice g ON g.sweep = m.sweep AND g.stage = m.stage AND g.number = m.choice AND g.state = 'failed'
              WHERE m.sweep = $1 AND m.config IN (SELECT value FROM json_each($2)) ORDER BY g.stage, g.number",
    postgres: "SELECT DISTINCT g.* FROM member m
                 JOIN choice g ON g.sweep = m.sweep AND g.stage = m.stage AND g.number = m.choice AND g.state = 'failed'
                WHERE m.sweep = $1 AND m.config IN (SELECT json_array_elements_text($2::json)::bigint)
                ORDER BY g.stage, g.number",
};
const LAST_CONFIGURATION: Sql =
    Sql::both("SELECT coalesce(max(number), 0) AS key FROM configuration WHERE sweep = $1");
const KNOWN_HASHES: Sql = Sql {
    sqlite: "SELECT hash FROM configuration
              WHERE sweep = $1 AND stage = $2 AND hash IN (SELECT value FROM json_each($3))",
    postgres: "SELECT hash FROM configuration
                WHERE sweep = $1 AND stage = $2 AND hash IN (SELECT json_array_elements_text($3::json))",
};

/// A stage to be written.
#[derive(Debug, Serialize)]
pub(in crate::store) struct StageInsert<'a> {
    pub number: usize,
    pub name: &'a str,
    pub seeds_json: String,
    pub parent: Option<usize>,
    pub opening_json: Option<String>,
    pub is_scored_on_test: i64,
    pub sampler_json: Option<String>,
}

impl<'a> StageInsert<'a> {
    pub(in crate::store) fn new((number, stage): (usize, &'a Stage)) -> Self {
        Self {
            number,
            name: &stage.name,
            seeds_json: to_json(&stage.seeds),
            parent: stage.from.as_ref().map(|from| from.stage),
            opening_json: stage.from.as_ref().map(|from| to_json(&from.opening)),
            is_scored_on_test: i64::from(stage.is_scored_on_test),
            sampler_json: None,
        }
    }
}

/// A group to be written.
#[derive(Debug, Serialize)]
pub(in crate::store) struct ChoiceInsert<'a> {
    pub stage: usize,
    pub number: usize,
    pub key_json: &'a str,
    pub pending: u64,
    pub configurations: u64,
    pub trials: u64,
}

/// A configuration's place in a group.
#[derive(Debug, Clone, Copy, Serialize)]
pub(in crate::store) struct MemberInsert {
    pub config: i64,
    pub stage: i64,
    pub choice: i64,
}

/// Trials of a configuration that are to come; negative: that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(in crate::store) struct ToCome {
    pub config: i64,
    pub to_come: i64,
}

pub(in crate::store) async fn insert_stages<T: Tx>(
    tx: &mut T,
    sweep: i64,
    rows: &[StageInsert<'_>],
) -> Result<(), Error> {
    tx.execute(INSERT_STAGES, args![sweep, to_json(rows)]).await?;
    Ok(())
}

pub(in crate::store) async fn insert_choices<T: Tx>(
    tx: &mut T,
    sweep: i64,
    rows: &[ChoiceInsert<'_>],
) -> Result<(), Error> {
    tx.execute(INSERT_CHOICES, args![sweep, to_json(rows)]).await?;
    Ok(())
}

pub(in crate::store) async fn insert_members<T: Tx>(
    tx: &mut T,
    sweep: i64,
    rows: &[MemberInsert],
) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    tx.execute(INSERT_MEMBERS, args![sweep, to_json(rows)]).await?;
    Ok(())
}

pub(in crate::store) async fn stages<T: Tx>(tx: &mut T, sweep: i64) -> Result<Vec<StageRow>, Error> {
    Ok(tx.fetch(STAGES, args![sweep]).await?)
}

pub(in crate::store) async fn amend_stages<T: Tx>(
    tx: &mut T,
    sweep: i64,
    rows: &[StageInsert<'_>],
) -> Result<(), Error> {
    tx.execute(AMEND_STAGES, args![sweep, to_json(rows)]).await?;
    Ok(())
}

/// All groups, by stage.
pub(in crate::store) async fn choices<T: Tx>(tx: &mut T, sweep: i64) -> Result<Vec<ChoiceRow>, Error> {
    Ok(tx.fetch(CHOICES, args![sweep]).await?)
}

/// Whether a stage has made anything of a group's configurations.
pub(in crate::store) async fn is_parent<T: Tx>(tx: &mut T, choice: &ChoiceRow) -> Result<bool, Error> {
    let row: Option<KeyRow> =
        tx.fetch_one(IS_PARENT, args![choice.sweep, choice.stage, choice.number]).await?;
    Ok(row.is_some_and(|row| row.key > 0))
}

/// Marks what a stage has made of a group before, and would not make now; what it would make again is no longer marked.
pub(in crate::store) async fn supersede<T: Tx>(
    tx: &mut T,
    choice: &ChoiceRow,
    stage: &str,
    hashes: &[&str],
) -> Result<(), Error> {
    let args = args![choice.sweep, choice.stage, choice.number, stage, to_json(hashes)];
    tx.execute(SUPERSEDE, args).await?;
    Ok(())
}

pub(in crate::store) async fn find<T: Tx>(
    tx: &mut T,
    sweep: i64,
    stage: i64,
    key: &str,
) -> Result<ChoiceRow, Error> {
    tx.fetch_one(FIND, args![sweep, stage, key]).await?.ok_or(Error::Conflict("choice"))
}

pub(in crate::store) async fn counts<T: Tx>(tx: &mut T, sweep: i64) -> Result<Vec<StageCountRow>, Error> {
    Ok(tx.fetch(COUNTS, args![sweep]).await?)
}

/// Groups of which nothing could be chosen.
pub(in crate::store) async fn failed<T: Tx>(
    tx: &mut T,
    sweep: i64,
    limit: i64,
) -> Result<Vec<FailedGroupRow>, Error> {
    Ok(tx.fetch(FAILED, args![sweep, limit]).await?)
}

/// The first group that waits for nothing any more.
pub(in crate::store) async fn due<T: Tx>(tx: &mut T, sweep: i64) -> Result<Option<ChoiceRow>, Error> {
    Ok(tx.fetch_one(DUE, args![sweep]).await?)
}

pub(in crate::store) async fn count_trials<T: Tx>(
    tx: &mut T,
    sweep: i64,
    rows: &[ToCome],
) -> Result<(), Error> {
    tx.execute(COUNT_TRIALS, args![sweep, to_json(rows)]).await?;
    Ok(())
}

pub(in crate::store) async fn add_pending<T: Tx>(
    tx: &mut T,
    choice: &ChoiceRow,
    more: i64,
) -> Result<(), Error> {
    match tx.execute(ADD_PENDING, args![choice.sweep, choice.stage, choice.number, more]).await? {
        1 => Ok(()),
        _ => Err(Error::Conflict("choice")),
    }
}

/// Writes what became of a group.
pub(in crate::store) async fn move_choice<T: Tx>(
    tx: &mut T,
    choice: &ChoiceRow,
    state: &str,
    configurations: i64,
    trials: i64,
) -> Result<(), Error> {
    let args = args![
        choice.sweep,
        choice.stage,
        choice.number,
        choice.state.as_str(),
        state,
        configurations,
        trials,
    ];
    match tx.execute(MOVE, args).await? {
        1 => Ok(()),
        _ => Err(Error::Conflict("choice")),
    }
}

/// Gives up every group that waits; the number of configurations that they would have opened.
pub(in crate::store) async fn cancel<T: Tx>(tx: &mut T, sweep: i64) -> Result<i64, Error> {
    let rows: Vec<KeyRow> = tx.fetch(CANCEL, args![sweep]).await?;
    Ok(rows.into_iter().map(|row| row.key).sum())
}

/// The trials of a group's configurations.
pub(in crate::store) async fn candidates<T: Tx>(
    tx: &mut T,
    choice: &ChoiceRow,
) -> Result<Vec<MemberRow>, Error> {
    Ok(tx.fetch(CANDIDATES, args![choice.sweep, choice.stage, choice.number]).await?)
}

/// The groups of these configurations that could choose nothing.
pub(in crate::store) async fn failed_of<T: Tx>(
    tx: &mut T,
    sweep: i64,
    configurations: &[i64],
) -> Result<Vec<ChoiceRow>, Error> {
    Ok(tx.fetch(FAILED_OF, args![sweep, to_json(configurations)]).await?)
}

pub(in crate::store) async fn last_configuration<T: Tx>(tx: &mut T, sweep: i64) -> Result<i64, Error> {
    let row: Option<KeyRow> = tx.fetch_one(LAST_CONFIGURATION, args![sweep]).await?;
    Ok(row.map_or(0, |row| row.key))
}

/// Which of the hashes a stage has already.
pub(in crate::store) async fn known_hashes<T: Tx>(
    tx: &mut T,
    sweep: i64,
    stage: &str,
    hashes: &[&str],
) -> Result<Vec<String>, Error> {
    let rows: Vec<HashRow> = tx.fetch(KNOWN_HASHES, args![sweep, stage, to_json(hashes)]).await?;
    Ok(rows.into_iter().map(|row| row.hash).collect())
}
