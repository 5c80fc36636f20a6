//! Taking back what lost workers held.

use super::changes::{Changes, Details};
use crate::store::Op;
use crate::store::error::Error;
use crate::store::rows::to_u32;
use crate::store::sql::{leases, workers};
use crate::store::tx::Tx;
use crate::trial::{Command, Millis, TrialId};

/// Leases in one transaction.
const BATCH: i64 = 1_000;

/// Ends attempts whose lease ran out longer than `grace` ago, and marks workers that were not heard of since.
#[derive(Debug, Clone, Copy)]
pub struct Reap {
    pub ttl: Millis,
    pub grace: Millis,
}

/// What was taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reaped {
    pub attempts: u64,
    pub workers: u64,
    /// Whether there may be more.
    pub is_full: bool,
}

impl Op for Reap {
    type Output = Reaped;

    const IS_SMALL: bool = false;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<Reaped, Error> {
        let workers = workers::lose(tx, now - self.ttl - self.grace).await?;
        let before = now - self.grace;
        let expired = leases::expired(tx, before, BATCH).await?;
        if expired.is_empty() {
            return Ok(Reaped { workers, ..Reaped::default() });
        }
        let ids: Vec<_> = expired.iter().map(|lease| TrialId(lease.trial)).collect();
        let mut changes = Changes::load(tx, &ids, now).await?;
        // Read again under the lock: a lease may have been renewed or ended meanwhile.
        let mut attempts = 0;
        for lease in leases::lock(tx, &ids).await?.iter().filter(|lease| lease.until < before) {
            let command = Command::Expire { attempt: to_u32(lease.attempt) };
            attempts += u64::from(changes.step(TrialId(lease.trial), command, Details::default()).is_ok());
        }
        changes.write(tx).await?;
        Ok(Reaped { attempts, workers, is_full: expired.len() as i64 == BATCH })
    }

    fn wakes(reaped: &Reaped) -> bool {
        reaped.attempts > 0
    }
}
