//! Tables `worker` and `blame`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::health::{self, Health};
use crate::store::error::Error;
use crate::store::rows::{KeyRow, LeaseCountRow, WorkerRow, to_json};
use crate::store::tx::{Sql, Tx, args};
use crate::trial::{FailureClass, Millis, TrialId, WorkerId};

const REGISTER: Sql = Sql::both(
    "INSERT INTO worker (id, instance, name, capabilities_json, slots, registered, last_seen, state, strikes, rests_until,
                         quarantined)
     VALUES ($1, $2, $3, $4, $5, $6, $6, 'live', 0, 0,
             (SELECT max(quarantined) FROM worker WHERE name = $3))
     ON CONFLICT (instance) DO UPDATE
        SET name = excluded.name, capabilities_json = excluded.capabilities_json, slots = excluded.slots,
            last_seen = excluded.last_seen, state = 'live'
     RETURNING *",
);
/// Held to the end of the transaction, so that of two coordinators one sees what the other has registered. The number is
/// "offer" in ASCII. SQLite has one writer and needs no lock.
const LOCK_OFFERS: Sql = Sql { sqlite: "SELECT 1", postgres: "SELECT pg_advisory_xact_lock(478459356530)" };
/// Who calls is not lost. A draining worker stays so.
const TOUCH: Sql = Sql {
    sqlite: "UPDATE worker SET last_seen = $2, state = CASE state WHEN 'lost' THEN 'live' ELSE state END
              WHERE id IN (SELECT value FROM json_each($1)) RETURNING *",
    postgres: "WITH callers AS MATERIALIZED (
                   SELECT id FROM worker WHERE id = ANY (ARRAY(SELECT json_array_elements_text($1::json)))
                    ORDER BY id FOR NO KEY UPDATE)
               UPDATE worker w SET last_seen = $2, state = CASE state WHEN 'lost' THEN 'live' ELSE state END
                 FROM callers WHERE w.id = callers.id RETURNING w.*",
};
const DRAIN: Sql = Sql::both("UPDATE worker SET last_seen = $2, state = 'draining' WHERE id = $1");
const LOSE: Sql = Sql::both("UPDATE worker SET state = 'lost' WHERE state <> 'lost' AND last_seen < $1");
const GET: Sql = Sql::both("SELECT * FROM worker WHERE id = $1");
const LIST: Sql = Sql::both(
    "SELECT * FROM worker WHERE state <> 'lost' OR last_seen >= $1
      ORDER BY CASE state WHEN 'live' THEN 0 ELSE 1 END, registered DESC, id LIMIT 10000",
);
const LIVE: Sql = Sql::both("SELECT * FROM worker WHERE state = 'live' ORDER BY name, id");
const SET_HEALTH: Sql =
    Sql::both("UPDATE worker SET strikes = $2, failing_since = $3, rests_until = $4 WHERE id = $1");
const QUARANTINE: Sql = Sql::both("UPDATE worker SET quarantined = $2 WHERE id = $1");
/// Everything that bears the name, for a worker that is started again is still on the same machine.
const RELEASE: Sql = Sql::both(
    "UPDATE worker SET quarantined = NULL, strikes = 0, failing_since = NULL, rests_until = 0
      WHERE name = $1 OR name = (SELECT name FROM worker WHERE id = $1) RETURNING *",
);

/// `$1`: trials that succeeded on a worker after failures. Blamed is who ran the failed attempts, if nothing has
/// succeeded there since.
const BLAME: Sql = Sql {
    sqlite: "INSERT INTO blame (worker, trial)
             SELECT DISTINCT a.worker, a.trial
               FROM json_each($1) x
               JOIN attempt a ON a.trial = x.value ->> 'trial' AND a.how = 'failed'
                             AND a.class IN (SELECT value FROM json_each($2))
               JOIN worker w ON w.id = a.worker AND w.failing_since <= a.ended
              WHERE a.worker <> x.value ->> 'worker'
             ON CONFLICT DO NOTHING",
    postgres: "INSERT INTO blame (worker, trial)
               SELECT DISTINCT a.worker, a.trial
                 FROM json_to_recordset($1::json) AS x(trial bigint, worker text)
                 JOIN attempt a ON a.trial = x.trial AND a.how = 'failed'
                               AND a.class IN (SELECT json_array_elements_text($2::json))
                 JOIN worker w ON w.id = a.worker AND w.failing_since <= a.ended
                WHERE a.worker <> x.worker
                ORDER BY 1, 2
               ON CONFLICT DO NOTHING",
};
const BLAMED: Sql = Sql::both("SELECT trial AS key FROM blame WHERE worker = $1 ORDER BY trial LIMIT $2");
const FORGIVE: Sql = Sql::both("DELETE FROM blame WHERE worker = $1");

/// Whether another worker is live.
const OTHERS: Sql = Sql::both("SELECT count(*) AS key FROM worker WHERE state = 'live' AND id <> $1");

const LEASES: Sql = Sql::both("SELECT worker, count(*) AS count FROM lease GROUP BY worker");

/// A worker's announcement.
#[derive(Debug, Clone)]
pub(in crate::store) struct Announcement<'a> {
    pub id: &'a str,
    pub instance: &'a str,
    pub name: &'a str,
    pub capabilities_json: String,
    pub slots: i64,
}

/// A trial that succeeded on a worker after it had failed.
#[derive(Debug, Serialize)]
pub(in crate::store) struct Acquitted {
    pub trial: TrialId,
    pub worker: WorkerId,
}

/// Lets nobody else register until this transaction ends.
pub(in crate::store) async fn lock_offers<T: Tx>(tx: &mut T) -> Result<(), Error> {
    tx.execute(LOCK_OFFERS, args![]).await?;
    Ok(())
}

/// Writes an announcement; the same instance keeps the id that it was given first.
pub(in crate::store) async fn register<T: Tx>(
    tx: &mut T,
    worker: Announcement<'_>,
    now: Millis,
) -> Result<WorkerRow, Error> {
    let args = args![worker.id, worker.instance, worker.name, worker.capabilities_json, worker.slots, now];
    tx.fetch_one(REGISTER, args).await?.ok_or(Error::Conflict("worker"))
}

/// Notes that workers were heard of. The first statement of each of their calls: it orders them. Those that there are.
pub(in crate::store) async fn touch_all<T: Tx>(
    tx: &mut T,
    workers: &[&WorkerId],
    now: Millis,
) -> Result<BTreeMap<WorkerId, WorkerRow>, Error> {
    let rows: Vec<WorkerRow> = tx.fetch(TOUCH, args![to_json(workers), now]).await?;
    Ok(rows.into_iter().map(|row| (WorkerId(row.id.clone()), row)).collect())
}

/// Notes that a worker was heard of.
pub(in crate::store) async fn touch<T: Tx>(
    tx: &mut T,
    worker: &WorkerId,
    now: Millis,
) -> Result<WorkerRow, Error> {
    touch_all(tx, &[worker], now).await?.remove(worker).ok_or_else(|| Error::NoWorker(worker.0.clone()))
}

pub(in crate::store) async fn drain<T: Tx>(tx: &mut T, worker: &WorkerId, now: Millis) -> Result<(), Error> {
    match tx.execute(DRAIN, args![worker.0.as_str(), now]).await? {
        0 => Err(Error::NoWorker(worker.0.clone())),
        _ => Ok(()),
    }
}

/// Marks workers that were last seen before a time, and counts them.
pub(in crate::store) async fn lose<T: Tx>(tx: &mut T, before: Millis) -> Result<u64, Error> {
    Ok(tx.execute(LOSE, args![before]).await?)
}

pub(in crate::store) async fn get<T: Tx>(tx: &mut T, worker: &WorkerId) -> Result<WorkerRow, Error> {
    let row = tx.fetch_one(GET, args![worker.0.as_str()]).await?;
    row.ok_or_else(|| Error::NoWorker(worker.0.clone()))
}

/// Without workers that are lost and were last seen before a time.
pub(in crate::store) async fn list<T: Tx>(tx: &mut T, before: Millis) -> Result<Vec<WorkerRow>, Error> {
    Ok(tx.fetch(LIST, args![before]).await?)
}

pub(in crate::store) async fn live<T: Tx>(tx: &mut T) -> Result<Vec<WorkerRow>, Error> {
    Ok(tx.fetch(LIVE, args![]).await?)
}

pub(in crate::store) async fn set_health<T: Tx>(
    tx: &mut T,
    worker: &WorkerId,
    health: Health,
) -> Result<(), Error> {
    let args = args![worker.0.as_str(), i64::from(health.strikes), health.failing_since, health.rests_until];
    tx.execute(SET_HEALTH, args).await?;
    if health == Health::default() {
        tx.execute(FORGIVE, args![worker.0.as_str()]).await?;
    }
    Ok(())
}

/// Notes that these trials were not at fault where they failed.
pub(in crate::store) async fn blame<T: Tx>(tx: &mut T, acquitted: &[Acquitted]) -> Result<(), Error> {
    if acquitted.is_empty() {
        return Ok(());
    }
    let suspect = FailureClass::ALL.into_iter().filter(|class| health::is_suspect(*class));
    let suspect: Vec<_> = suspect.map(FailureClass::name).collect();
    tx.execute(BLAME, args![to_json(acquitted), to_json(&suspect)]).await?;
    Ok(())
}

/// Trials that failed on a worker and succeeded elsewhere.
pub(in crate::store) async fn blamed<T: Tx>(
    tx: &mut T,
    worker: &WorkerId,
    limit: usize,
) -> Result<Vec<i64>, Error> {
    let rows: Vec<KeyRow> = tx.fetch(BLAMED, args![worker.0.as_str(), limit as i64]).await?;
    Ok(rows.into_iter().map(|row| row.key).collect())
}

pub(in crate::store) async fn quarantine<T: Tx>(
    tx: &mut T,
    worker: &WorkerId,
    reason: &str,
) -> Result<(), Error> {
    tx.execute(QUARANTINE, args![worker.0.as_str(), reason]).await?;
    Ok(())
}

/// Lifts the quarantine of a worker, by its id or its name, and of all others of the name.
pub(in crate::store) async fn release<T: Tx>(tx: &mut T, worker: &str) -> Result<Vec<WorkerRow>, Error> {
    let rows: Vec<WorkerRow> = tx.fetch(RELEASE, args![worker]).await?;
    for row in &rows {
        tx.execute(FORGIVE, args![row.id.as_str()]).await?;
    }
    Ok(rows)
}

pub(in crate::store) async fn leases<T: Tx>(tx: &mut T) -> Result<Vec<LeaseCountRow>, Error> {
    Ok(tx.fetch(LEASES, args![]).await?)
}

/// Whether another worker is live.
pub(in crate::store) async fn are_there_others<T: Tx>(tx: &mut T, worker: &WorkerId) -> Result<bool, Error> {
    let row: Option<KeyRow> = tx.fetch_one(OTHERS, args![worker.0.as_str()]).await?;
    Ok(row.is_some_and(|row| row.key > 0))
}
