//! Table `worker`.

use crate::store::error::Error;
use crate::store::rows::{LeaseCountRow, WorkerRow};
use crate::store::tx::{Sql, Tx, args};
use crate::trial::{Millis, WorkerId};

const REGISTER: Sql = Sql::both(
    "INSERT INTO worker (id, instance, name, capabilities_json, slots, registered, last_seen, state)
     VALUES ($1, $2, $3, $4, $5, $6, $6, 'live')
     ON CONFLICT (instance) DO UPDATE
        SET name = excluded.name, capabilities_json = excluded.capabilities_json, slots = excluded.slots,
            last_seen = excluded.last_seen, state = 'live'
     RETURNING *",
);
/// Held to the end of the transaction, so that of two coordinators one sees what the other has registered. The number is
/// "offer" in ASCII. SQLite has one writer and needs no lock.
const LOCK_OFFERS: Sql = Sql { sqlite: "SELECT 1", postgres: "SELECT pg_advisory_xact_lock(478459356530)" };
/// Who calls is not lost. A draining worker stays so.
const TOUCH: Sql = Sql::both(
    "UPDATE worker SET last_seen = $2, state = CASE state WHEN 'lost' THEN 'live' ELSE state END
      WHERE id = $1 RETURNING *",
);
const DRAIN: Sql = Sql::both("UPDATE worker SET last_seen = $2, state = 'draining' WHERE id = $1");
const LOSE: Sql = Sql::both("UPDATE worker SET state = 'lost' WHERE state <> 'lost' AND last_seen < $1");
const GET: Sql = Sql::both("SELECT * FROM worker WHERE id = $1");
const LIST: Sql = Sql::both(
    "SELECT * FROM worker WHERE state <> 'lost' OR last_seen >= $1
      ORDER BY CASE state WHEN 'live' THEN 0 ELSE 1 END, registered DESC, id LIMIT 10000",
);
const LIVE: Sql = Sql::both("SELECT * FROM worker WHERE state = 'live' ORDER BY name, id");
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

/// Notes that a worker was heard of. The first statement of each of its calls: it orders them.
pub(in crate::store) async fn touch<T: Tx>(
    tx: &mut T,
    worker: &WorkerId,
    now: Millis,
) -> Result<WorkerRow, Error> {
    let row = tx.fetch_one(TOUCH, args![worker.0.as_str(), now]).await?;
    row.ok_or_else(|| Error::NoWorker(worker.0.clone()))
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

pub(in crate::store) async fn leases<T: Tx>(tx: &mut T) -> Result<Vec<LeaseCountRow>, Error> {
    Ok(tx.fetch(LEASES, args![]).await?)
}
