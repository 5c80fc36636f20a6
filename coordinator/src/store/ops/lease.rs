//! Leasing trials to workers, and renewing leases.

use std::collections::BTreeMap;

use ::sweeps::spec::Reuse;

use super::changes::{Changes, Details};
use crate::fair;
use crate::health::BLAME_LIMIT;
use crate::offer::Warm;
use crate::store::Op;
use crate::store::error::Error;
use crate::store::rows::{AssignmentRow, LeaderRow, ReusableRow, SweepState, TrialRow, WorkerRow};
use crate::store::sql::sweeps::Avoiding;
use crate::store::sql::trials::{Served, Token};
use crate::store::sql::{prefixes, reuse, sweeps, trials, workers};
use crate::store::tx::Tx;
use crate::trial::{self, Command, Holder, Millis, Rejected, TrialId, WorkerId};

/// How long a trial that failed on a worker is left to others.
const PATIENCE: Millis = 60_000;

/// Leases up to `max` trials that fit the worker, never more than its free slots.
#[derive(Debug, Clone)]
pub struct Lease {
    pub worker: WorkerId,
    /// A repetition of the same request gets what the first one got.
    pub request: String,
    pub max: u32,
    pub ttl: Millis,
    /// What the free slots have in memory: such trials are preferred within a sweep.
    pub warm: Vec<Warm>,
}

/// What a request has leased.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Leased {
    pub assignments: Vec<AssignmentRow>,
    /// What these may take over instead of training.
    pub reusable: Vec<ReusableRow>,
    /// Those of them that others wait for.
    pub leaders: Vec<LeaderRow>,
    /// Whether the request had leased something before. All of it may have ended since; there will be no more.
    pub is_repetition: bool,
}

impl Op for Lease {
    type Output = Leased;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<Leased, Error> {
        let worker = workers::touch(tx, &self.worker, now).await?;
        if trials::was_requested(tx, &self.worker, &self.request).await? {
            return self.leased(tx, true).await;
        }
        let free = worker.slots - trials::held(tx, &self.worker).await?;
        let max = free.min(i64::from(self.max));
        if max <= 0 || self.is_sick(tx, &worker).await? || !worker.may_lease(now) {
            return Ok(Leased::default());
        }
        let needs = fitting(tx, &worker, &self.warm).await?;
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
        self.leased(tx, false).await
    }

    fn wakes(leased: &Self::Output) -> bool {
        !leased.assignments.is_empty()
    }
}

impl Lease {
    /// What the request has leased.
    async fn leased<T: Tx>(&self, tx: &mut T, is_repetition: bool) -> Result<Leased, Error> {
        let assignments = trials::assignments(tx, &self.worker, &self.request).await?;
        let asking = assignments.iter().filter(|row| row.reuse != Reuse::Never.name());
        let asking: Vec<i64> = asking.map(|row| row.trial).collect();
        let reusable = if asking.is_empty() { Vec::new() } else { reuse::reusable(tx, &asking).await? };
        let first = assignments.iter().filter(|row| row.prefix.is_some() && row.prefix_url.is_none());
        let first: Vec<i64> = first.map(|row| row.trial).collect();
        let leaders = if first.is_empty() { Vec::new() } else { prefixes::leaders(tx, &first).await? };
        Ok(Leased { assignments, reusable, leaders, is_repetition })
    }

    /// Locks the sweeps whose turn it is, in the order of their numbers, reads what they have, and shares it out.
    async fn claim<T: Tx>(
        &self,
        tx: &mut T,
        needs: &[Served],
        max: i64,
        now: Millis,
    ) -> Result<(Changes, Vec<TrialRow>), Error> {
        let avoiding = avoiding(&self.worker);
        let ids: Vec<i64> = needs.iter().map(|need| need.need).collect();
        let mut candidates = match ids.as_slice() {
            [] => Vec::new(),
            ids => sweeps::candidates(tx, ids, avoiding, now).await?,
        };
        let turns: Vec<i64> =
            fair::shares(candidates.clone(), max).iter().map(|share| share.number).collect();
        let locked = if turns.is_empty() { Vec::new() } else { sweeps::lock(tx, &turns).await? };
        let mut due: BTreeMap<i64, Vec<TrialRow>> = BTreeMap::new();
        for candidate in &mut candidates {
            candidate.room = 0;
            let Some(row) = locked.iter().find(|row| row.number == candidate.number) else { continue };
            candidate.running = row.running;
            candidate.served = row.served;
            let room = row.max_running.map_or(max, |limit| limit - row.running).min(max);
            if row.state == SweepState::Active.name() && room > 0 {
                let rows = trials::claimable(tx, row.number, needs, avoiding, now, room).await?;
                candidate.room = rows.len() as i64;
                due.insert(row.number, rows);
            }
        }
        let mut changes = Changes::new(locked, now)?;
        let mut claimed = Vec::new();
        for share in fair::shares(candidates, max) {
            let mut rows = due.remove(&share.number).unwrap_or_default();
            rows.truncate(share.trials as usize);
            changes.add(&rows)?;
            changes.sweep(share.number)?.served = share.served;
            claimed.extend(rows);
        }
        Ok((changes, claimed))
    }

    /// Quarantines a worker on which trials failed that have succeeded elsewhere.
    async fn is_sick<T: Tx>(&self, tx: &mut T, worker: &WorkerRow) -> Result<bool, Error> {
        if worker.quarantined.is_some() || !worker.health().is_suspect() {
            return Ok(worker.quarantined.is_some());
        }
        let blamed = workers::blamed(tx, &self.worker, BLAME_LIMIT).await?;
        if blamed.len() < BLAME_LIMIT {
            return Ok(false);
        }
        let trials = blamed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let reason = format!("trials {trials} failed here and succeeded elsewhere");
        workers::quarantine(tx, &self.worker, &reason).await?;
        tracing::warn!(worker = %self.worker, reason, "worker quarantined");
        Ok(true)
    }
}

/// A trial that failed on a worker is left to others for a while, if there are others.
pub(in crate::store) fn avoiding(worker: &WorkerId) -> Avoiding<'_> {
    Avoiding { worker: &worker.0, patience: PATIENCE }
}

/// The needs that a worker serves, and whether it would have to load a backbone or a task for them.
pub(in crate::store) async fn fitting<T: Tx>(
    tx: &mut T,
    worker: &WorkerRow,
    warm: &[Warm],
) -> Result<Vec<Served>, Error> {
    let offer = worker.offer()?;
    let mut fitting = Vec::new();
    for row in trials::needs(tx).await? {
        let need = row.need()?;
        if offer.fits(&need) {
            let is_warm = warm.iter().any(|warm| warm.serves(&need));
            fitting.push(Served { need: row.id, cold: i64::from(!is_warm) });
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
