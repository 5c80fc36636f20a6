//! Renewing leases.

use crate::store::Op;
use crate::store::error::Error;
use crate::store::sql::leases::{self, Token};
use crate::store::sql::{sweeps, trials, workers};
use crate::store::tx::Tx;
use crate::trial::{self, Command, Holder, Millis, Rejected, WorkerId};

/// Prolongs leases of a worker.
#[derive(Debug, Clone)]
pub struct Renew {
    pub worker: WorkerId,
    pub tokens: Vec<Token>,
    pub ttl: Millis,
}

/// A token that holds nothing any more, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub token: Token,
    pub reason: String,
}

impl Op for Renew {
    type Output = (Vec<Token>, Vec<Lost>);

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<Self::Output, Error> {
        workers::touch(tx, &self.worker, now).await?;
        let mut wanted = self.tokens.clone();
        wanted.sort_unstable();
        wanted.dedup();
        let ids: Vec<_> = wanted.iter().map(|token| token.trial).collect();
        let rows = leases::lock(tx, &ids).await?;
        let is_held = |token: &Token| {
            rows.iter().any(|lease| {
                lease.trial == token.trial.0
                    && lease.attempt == i64::from(token.attempt)
                    && lease.worker == self.worker.0
            })
        };
        let (held, gone): (Vec<_>, Vec<_>) = wanted.into_iter().partition(is_held);
        if !held.is_empty() {
            leases::renew(tx, &held, &self.worker, now + self.ttl).await?;
        }
        let lost = if gone.is_empty() { Vec::new() } else { self.explain(tx, gone, now).await? };
        Ok((held, lost))
    }

    fn wakes(_output: &Self::Output) -> bool {
        false
    }
}

impl Renew {
    /// Says why tokens hold nothing any more.
    async fn explain<T: Tx>(&self, tx: &mut T, gone: Vec<Token>, now: Millis) -> Result<Vec<Lost>, Error> {
        let ids: Vec<_> = gone.iter().map(|token| token.trial).collect();
        let rows = trials::peek(tx, &ids).await?;
        let numbers = trials::sweeps_of(tx, &ids).await?;
        let sweeps = sweeps::peek(tx, &numbers).await?;
        gone.into_iter()
            .map(|token| {
                let row = rows.iter().find(|row| row.id == token.trial.0);
                let sweep = row.and_then(|row| sweeps.iter().find(|sweep| sweep.number == row.sweep));
                let (Some(row), Some(sweep)) = (row, sweep) else {
                    return Ok(Lost { token, reason: format!("there is no trial {}", token.trial) });
                };
                let by = Holder { worker: self.worker.clone(), attempt: token.attempt };
                let outcome = trial::apply(&row.trial()?, &sweep.policy()?, Command::Renew { by }, now);
                let reason = outcome.err().unwrap_or(Rejected::Expired).to_string();
                Ok(Lost { token, reason })
            })
            .collect()
    }
}
