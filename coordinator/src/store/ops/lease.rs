//! Leasing trials to workers, and renewing leases.

use std::collections::BTreeMap;

use super::changes::{Changes, Details};
use crate::store::Op;
use crate::store::error::Error;
use crate::store::rows::{AssignmentRow, SweepState, TrialRow, WorkerRow};
use crate::store::sql::trials::Token;
use crate::store::sql::{sweeps, trials, workers};
use crate::store::tx::Tx;
use crate::trial::{self, Command, Holder, Millis, Rejected, TrialId, WorkerId};

/// Leases up to `max` trials that fit the worker, never more than its free slots.
#[derive(Debug, Clone)]
pub struct Lease {
    pub worker: WorkerId,
    /// A repetition of the same request gets what the first one got.
    pub request: String,
    pub max: u32,
    pub ttl: Millis,
}

/// What a request has leased.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Leased {
    pub assignments: Vec<AssignmentRow>,
    /// Whether the request had leased something before. All of it may have ended since; there will be no more.
    pub is_repetition: bool,
}

impl Op for Lease {
    type Output = Leased;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<Leased, Error> {
        let worker = workers::touch(tx, &self.worker, now).await?;
        if trials::was_requested(tx, &self.worker, &self.request).await? {
            let assignments = trials::assignments(tx, &self.worker, &self.request).await?;
            return Ok(Leased { assignments, is_repetition: true });
        }
        let free = worker.slots - trials::held(tx, &self.worker).await?;
        let max = free.min(i64::from(self.max));
        if worker.state != "live" || max <= 0 {
            return Ok(Leased::default());
        }
        let needs = fitting(tx, &worker).await?;
        let (mut changes, claimed) = self.claim(tx, &needs, max, now).await?;
        let mut tokens = Vec::new();
        for row in claimed {
            let command = Command::Lease { worker: self.worker.clone() };
            let id = TrialId(row.id);
            if changes.step(id, command, Details::default()).is_ok() {
                tokens.push(Token { trial: id, attempt: crate::store::rows::to_u32(row.attempt) + 1 });
            }
        }
        if tokens.is_empty() {
            return Ok(Leased::default());
        }
        changes.write(tx).await?;
        trials::take_leases(tx, &tokens, &self.worker, now + self.ttl).await?;
        trials::start_attempts(tx, &tokens, &self.worker, &self.request, now).await?;
        let assignments = trials::assignments(tx, &self.worker, &self.request).await?;
        Ok(Leased { assignments, is_repetition: false })
    }

    fn wakes(leased: &Self::Output) -> bool {
        !leased.assignments.is_empty()
    }
}

impl Lease {
    /// Locks sweeps with something to do, in the order of their numbers, then picks from them in the order of service.
    async fn claim<T: Tx>(
        &self,
        tx: &mut T,
        needs: &[i64],
        max: i64,
        now: Millis,
    ) -> Result<(Changes, Vec<TrialRow>), Error> {
        let order: Vec<i64> = match needs {
            [] => Vec::new(),
            needs => sweeps::servable(tx, needs, now, max).await?.iter().map(|row| row.number).collect(),
        };
        let locked = if order.is_empty() { Vec::new() } else { sweeps::lock(tx, &order).await? };
        let rooms: BTreeMap<i64, i64> = locked
            .iter()
            .filter(|row| row.state == SweepState::Active.name())
            .map(|row| (row.number, row.max_running.map_or(max, |limit| limit - row.running)))
            .collect();
        let mut changes = Changes::new(locked, now)?;
        let mut claimed = Vec::new();
        for number in order {
            let room = rooms.get(&number).copied().unwrap_or(0).min(max - claimed.len() as i64);
            if room > 0 {
                let rows = trials::claimable(tx, number, needs, now, room).await?;
                changes.add(&rows)?;
                claimed.extend(rows);
            }
        }
        Ok((changes, claimed))
    }
}

/// The needs that a worker serves.
pub(in crate::store) async fn fitting<T: Tx>(tx: &mut T, worker: &WorkerRow) -> Result<Vec<i64>, Error> {
    let offer = worker.offer()?;
    let mut fitting = Vec::new();
    for row in trials::needs(tx).await? {
        if offer.fits(&row.need()?) {
            fitting.push(row.id);
        }
    }
    Ok(fitting)
}

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
        let leases = trials::lock_leases(tx, &ids).await?;
        let is_held = |token: &Token| {
            leases.iter().any(|lease| {
                lease.trial == token.trial.0
                    && lease.attempt == i64::from(token.attempt)
                    && lease.worker == self.worker.0
            })
        };
        let (held, gone): (Vec<_>, Vec<_>) = wanted.into_iter().partition(is_held);
        if !held.is_empty() {
            trials::renew_leases(tx, &held, &self.worker, now + self.ttl).await?;
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
