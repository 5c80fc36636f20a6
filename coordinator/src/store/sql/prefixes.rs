//! Table `prefix`, and the trials that wait for one.

use super::trials::numbers;
use crate::store::error::Error;
use crate::store::rows::{LeaderRow, PrefixRow};
use crate::store::tx::{Sql, Tx, args};
use crate::trial::{Millis, TrialId};

/// When a trial is due that waits for another to train what they have in common: never, until it is told.
pub(in crate::store) const HELD: Millis = 1 << 62;

/// The groups of trials, of sweeps that share; `has_result`: one of these trials has come to its end.
macro_rules! groups {
    ($these:literal) => {
        concat!(
            "SELECT c.prefix AS hash, t.seed AS seed, coalesce(t.start_from, 0) AS start_from,
                    count(*) FILTER (WHERE t.state = 'succeeded') AS has_result
               FROM trial t
               JOIN sweep s ON s.number = t.sweep AND s.share_prefix = 1
               JOIN configuration c ON c.sweep = t.sweep AND c.number = t.config AND c.prefix IS NOT NULL
              WHERE t.sweep = $2 AND t.id ",
            $these,
            " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        )
    };
}
const GROUPS: Sql =
    Sql { sqlite: groups!("IN (SELECT value FROM json_each($1))"), postgres: groups!("= ANY ($1)") };
const PUBLISH: Sql = Sql::both(
    "INSERT INTO prefix (sweep, hash, seed, start_from, url) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
);
/// Trials of a group that wait.
macro_rules! waiting {
    () => {
        "SELECT t.id FROM configuration c
           JOIN trial t ON t.sweep = c.sweep AND t.config = c.number AND t.seed = $3
                       AND coalesce(t.start_from, 0) = $4 AND t.state = 'queued' AND t.not_before = $5
          WHERE c.sweep = $1 AND c.prefix = $2"
    };
}
const RELEASE: Sql = Sql::both(concat!("UPDATE trial SET not_before = 0 WHERE id IN (", waiting!(), ")"));
/// The next of a group, unless one of it is on its way already.
const RELEASE_NEXT: Sql = Sql::both(concat!(
    "UPDATE trial SET not_before = 0
      WHERE id = (SELECT min(id) FROM (",
    waiting!(),
    ") w)
        AND NOT EXISTS (SELECT 1 FROM prefix p
                         WHERE p.sweep = $1 AND p.hash = $2 AND p.seed = $3 AND p.start_from = $4)
        AND NOT EXISTS (SELECT 1 FROM configuration d
                          JOIN trial u ON u.sweep = d.sweep AND u.config = d.number AND u.seed = $3
                                      AND coalesce(u.start_from, 0) = $4 AND u.ended IS NULL
                                      AND (u.not_before IS NULL OR u.not_before <> $5)
                         WHERE d.sweep = $1 AND d.prefix = $2)"
));
macro_rules! leaders {
    ($these:literal) => {
        concat!(
            "SELECT DISTINCT t.id AS trial, d.rewind AS rewind
               FROM trial t
               JOIN configuration c ON c.sweep = t.sweep AND c.number = t.config
               JOIN configuration d ON d.sweep = c.sweep AND d.prefix = c.prefix
               JOIN trial u ON u.sweep = d.sweep AND u.config = d.number AND u.seed = t.seed
                           AND coalesce(u.start_from, 0) = coalesce(t.start_from, 0) AND u.state = 'queued'
                           AND u.not_before = $2
              WHERE t.id ",
            $these,
            " ORDER BY 1, 2"
        )
    };
}
const LEADERS: Sql =
    Sql { sqlite: leaders!("IN (SELECT value FROM json_each($1))"), postgres: leaders!("= ANY ($1)") };

/// A group: trials of a sweep that are the same to the bit before they prune.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Group {
    pub sweep: i64,
    pub hash: String,
    pub seed: i64,
    pub start_from: i64,
}

/// The groups of trials of a sweep, and whether one of these trials has succeeded.
pub(in crate::store) async fn groups<T: Tx>(
    tx: &mut T,
    sweep: i64,
    trials: &[TrialId],
) -> Result<Vec<(Group, bool)>, Error> {
    let rows: Vec<PrefixRow> = tx.fetch(GROUPS, args![numbers(trials), sweep]).await?;
    let group = |row: PrefixRow| {
        let PrefixRow { hash, seed, start_from, has_result } = row;
        (Group { sweep, hash, seed, start_from }, has_result != 0)
    };
    Ok(rows.into_iter().map(group).collect())
}

/// Says where what a group has in common lies, or that it lies nowhere. What was said first stays.
pub(in crate::store) async fn publish<T: Tx>(
    tx: &mut T,
    group: &Group,
    url: Option<String>,
) -> Result<(), Error> {
    tx.execute(PUBLISH, args![group.sweep, group.hash.as_str(), group.seed, group.start_from, url]).await?;
    Ok(())
}

/// Makes all of a group due that wait.
pub(in crate::store) async fn release<T: Tx>(tx: &mut T, group: &Group) -> Result<(), Error> {
    tx.execute(RELEASE, args![group.sweep, group.hash.as_str(), group.seed, group.start_from, HELD]).await?;
    Ok(())
}

/// Makes the next of a group due, if none of it is on its way and nothing was published.
pub(in crate::store) async fn release_next<T: Tx>(tx: &mut T, group: &Group) -> Result<(), Error> {
    let args = args![group.sweep, group.hash.as_str(), group.seed, group.start_from, HELD];
    tx.execute(RELEASE_NEXT, args).await?;
    Ok(())
}

/// Which of these trials others wait for, with the epochs that those go back to.
pub(in crate::store) async fn leaders<T: Tx>(tx: &mut T, trials: &[i64]) -> Result<Vec<LeaderRow>, Error> {
    Ok(tx.fetch(LEADERS, args![trials.to_vec(), HELD]).await?)
}
