//! Tables `lease` and `attempt`.

use serde::Serialize;

use super::trials::numbers;
use crate::store::error::Error;
use crate::store::rows::{AttemptRow, LeaseCountRow, LeaseRow, RequestRow, to_json};
use crate::store::tx::{Batch, Sql, Tx, args};
use crate::trial::{Millis, TrialId, WorkerId};

const INSERT_LEASES: Sql = Sql {
    sqlite: "INSERT INTO lease (trial, attempt, worker, until) VALUES ($1, $2, $3, $4)",
    postgres: "INSERT INTO lease (trial, attempt, worker, until)
               SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[])",
};
const LOCK_LEASES: Sql = Sql {
    sqlite: "SELECT * FROM lease WHERE trial IN (SELECT value FROM json_each($1)) ORDER BY trial",
    postgres: "SELECT * FROM lease WHERE trial = ANY ($1) ORDER BY trial FOR NO KEY UPDATE",
};
const RENEW_LEASES: Sql = Sql {
    sqlite: "UPDATE lease SET until = $4 WHERE trial = $1 AND attempt = $2 AND worker = $3",
    postgres: "UPDATE lease l SET until = $4 FROM unnest($1::bigint[], $2::bigint[]) AS x(trial, attempt)
                WHERE l.trial = x.trial AND l.attempt = x.attempt AND l.worker = $3",
};
const DELETE_LEASES: Sql = Sql {
    sqlite: "DELETE FROM lease WHERE trial = $1 AND attempt = $2",
    postgres: "DELETE FROM lease l USING unnest($1::bigint[], $2::bigint[]) AS x(trial, attempt)
                WHERE l.trial = x.trial AND l.attempt = x.attempt",
};
const HELD: Sql = Sql {
    sqlite: "SELECT worker, count(*) AS count FROM lease WHERE worker IN (SELECT value FROM json_each($1)) GROUP BY worker",
    postgres: "SELECT worker, count(*) AS count FROM lease
                WHERE worker = ANY (ARRAY(SELECT json_array_elements_text($1::json))) GROUP BY worker",
};
const EXPIRED_LEASES: Sql = Sql::both("SELECT * FROM lease WHERE until < $1 ORDER BY trial LIMIT $2");

const INSERT_ATTEMPTS: Sql = Sql {
    sqlite: "INSERT INTO attempt (trial, number, worker, request, started) VALUES ($1, $2, $3, $4, $5)",
    postgres: "INSERT INTO attempt (trial, number, worker, request, started)
               SELECT x.*, $5 FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) x",
};
const END_ATTEMPTS: Sql = Sql {
    sqlite: "UPDATE attempt SET how = $3, class = $4, message = $5, digest = $6, ended = $7
              WHERE trial = $1 AND number = $2 AND how IS NULL",
    postgres:
        "UPDATE attempt a SET how = x.how, class = x.class, message = x.message, digest = x.digest, ended = $7
                 FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[])
                      AS x(trial, attempt, how, class, message, digest)
                WHERE a.trial = x.trial AND a.number = x.attempt AND a.how IS NULL",
};
const ATTEMPTS: Sql = Sql {
    sqlite: "SELECT * FROM attempt WHERE trial IN (SELECT value FROM json_each($1)) ORDER BY trial, number",
    postgres: "SELECT * FROM attempt WHERE trial = ANY ($1) ORDER BY trial, number",
};
/// Of these requests, those that have leased something.
const REQUESTED: Sql = Sql {
    sqlite: "SELECT DISTINCT a.worker, a.request FROM json_each($1) x
              CROSS JOIN attempt a ON a.worker = x.value ->> 'worker' AND a.request = x.value ->> 'request'",
    postgres: "SELECT DISTINCT a.worker, a.request
                 FROM json_to_recordset($1::json) AS x(worker text, request text)
                 JOIN attempt a ON a.worker = x.worker AND a.request = x.request",
};

/// One attempt of one trial: the fencing token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Token {
    pub trial: TrialId,
    pub attempt: u32,
}

/// A worker's request for trials.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(in crate::store) struct Request<'a> {
    pub worker: &'a str,
    pub request: &'a str,
}

/// How an attempt ended, to be written.
#[derive(Debug)]
pub(in crate::store) struct AttemptEnd {
    pub token: Token,
    pub how: &'static str,
    pub class: Option<&'static str>,
    pub message: Option<String>,
    pub digest: Option<String>,
}

/// A lease to be written, and the attempt that begins with it.
#[derive(Debug)]
pub(in crate::store) struct NewLease<'a> {
    pub token: Token,
    pub worker: &'a str,
    pub request: &'a str,
    pub until: Millis,
}

/// Writes leases, and the attempts that begin with them.
pub(in crate::store) async fn take<T: Tx>(
    tx: &mut T,
    leases: &[NewLease<'_>],
    now: Millis,
) -> Result<(), Error> {
    let batch = || {
        let tokens = Batch::of(leases).int(|new| new.token.trial.0).int(|new| i64::from(new.token.attempt));
        tokens.text(|new| new.worker)
    };
    tx.execute_all(INSERT_LEASES, batch().int(|new| new.until), args![]).await?;
    tx.execute_all(INSERT_ATTEMPTS, batch().text(|new| new.request), args![now]).await?;
    Ok(())
}

fn batch(tokens: &[Token]) -> Batch<'_, Token> {
    Batch::of(tokens).int(|token| token.trial.0).int(|token| i64::from(token.attempt))
}

pub(in crate::store) async fn lock<T: Tx>(tx: &mut T, ids: &[TrialId]) -> Result<Vec<LeaseRow>, Error> {
    Ok(tx.fetch(LOCK_LEASES, args![numbers(ids)]).await?)
}

pub(in crate::store) async fn renew<T: Tx>(
    tx: &mut T,
    tokens: &[Token],
    worker: &WorkerId,
    until: Millis,
) -> Result<(), Error> {
    let args = args![worker.0.as_str(), until];
    let renewed = tx.execute_all(RENEW_LEASES, batch(tokens), args).await?;
    if renewed == tokens.len() as u64 { Ok(()) } else { Err(Error::Conflict("lease")) }
}

/// Takes leases away. The lease is the token: one that is gone already is a lost race.
pub(in crate::store) async fn release<T: Tx>(tx: &mut T, tokens: &[Token]) -> Result<(), Error> {
    let dropped = tx.execute_all(DELETE_LEASES, batch(tokens), args![]).await?;
    if dropped == tokens.len() as u64 { Ok(()) } else { Err(Error::Conflict("lease")) }
}

/// How many leases workers have, those that have none left out.
pub(in crate::store) async fn held<T: Tx>(
    tx: &mut T,
    workers: &[&WorkerId],
) -> Result<Vec<LeaseCountRow>, Error> {
    Ok(tx.fetch(HELD, args![to_json(workers)]).await?)
}

/// The requests of workers that have leased something before.
pub(in crate::store) async fn requested<T: Tx>(
    tx: &mut T,
    requests: &[Request<'_>],
) -> Result<Vec<RequestRow>, Error> {
    Ok(tx.fetch(REQUESTED, args![to_json(requests)]).await?)
}

pub(in crate::store) async fn expired<T: Tx>(
    tx: &mut T,
    before: Millis,
    limit: i64,
) -> Result<Vec<LeaseRow>, Error> {
    Ok(tx.fetch(EXPIRED_LEASES, args![before, limit]).await?)
}

pub(in crate::store) async fn end_attempts<T: Tx>(
    tx: &mut T,
    ends: &[AttemptEnd],
    now: Millis,
) -> Result<(), Error> {
    let batch = Batch::of(ends).int(|end| end.token.trial.0).int(|end| i64::from(end.token.attempt));
    let batch = batch.text(|end| end.how).text(|end| end.class);
    let batch = batch.text(|end| end.message.as_deref()).text(|end| end.digest.as_deref());
    let written = tx.execute_all(END_ATTEMPTS, batch, args![now]).await?;
    if written == ends.len() as u64 { Ok(()) } else { Err(Error::Conflict("attempt")) }
}

pub(in crate::store) async fn attempts<T: Tx>(tx: &mut T, ids: &[TrialId]) -> Result<Vec<AttemptRow>, Error> {
    Ok(tx.fetch(ATTEMPTS, args![numbers(ids)]).await?)
}
