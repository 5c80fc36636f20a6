//! Leasing trials to workers.

use std::collections::HashMap;

use ::sweeps::spec::Reuse;

use super::changes::Details;
use super::claim::{Ask, Given, Wanted, claim, served};
use crate::health::BLAME_LIMIT;
use crate::offer::Warm;
use crate::store::Op;
use crate::store::error::Error;
use crate::store::rows::{AssignmentRow, LeaderRow, ReusableRow, WorkerRow};
use crate::store::sql::leases::{self, NewLease, Request};
use crate::store::sql::{needs, prefixes, reuse, trials, workers};
use crate::store::tx::Tx;
use crate::trial::{Command, Millis, TrialId, WorkerId};

/// Trials that are leased in one, at most.
const TOGETHER: u32 = 2_000;

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
    /// Whether nothing is leased as long as samplers have to be asked first.
    pub may_ask: bool,
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
    /// What must be asked before anything is leased.
    pub asks: Vec<Wanted>,
}

impl Op for Lease {
    type Output = Leased;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<Leased, Error> {
        super::alone(self, tx, now).await
    }

    /// Calls of different workers: what one has leased takes no slot of another.
    fn joins(&self, others: &[&Self]) -> bool {
        let all = others.iter().fold(self.max, |all, other| all.saturating_add(other.max));
        all <= TOGETHER && others.iter().all(|other| other.worker != self.worker)
    }

    async fn run_all<T: Tx>(
        calls: &[&Self],
        tx: &mut T,
        now: Millis,
    ) -> Result<Vec<Result<Leased, Error>>, Error> {
        let callers: Vec<&WorkerId> = calls.iter().map(|call| &call.worker).collect();
        let known = workers::touch_all(tx, &callers, now).await?;
        let requests: Vec<Request<'_>> = calls.iter().map(|call| call.request()).collect();
        let repeated = leases::requested(tx, &requests).await?;
        let held = leases::held(tx, &callers).await?;
        let needs = needs::all(tx).await?;
        let mut outputs = Vec::with_capacity(calls.len());
        let (mut asks, mut asking) = (Vec::new(), Vec::new());
        for call in calls {
            let Some(worker) = known.get(&call.worker) else {
                outputs.push(Err(Error::NoWorker(call.worker.0.clone())));
                continue;
            };
            if repeated.iter().any(|row| row.worker == call.worker.0 && row.request == call.request) {
                let assignments = trials::requested(tx, &call.worker, &call.request).await?;
                let mut leased = Leased { assignments, is_repetition: true, ..Leased::default() };
                leased.complete(tx).await?;
                outputs.push(Ok(leased));
                continue;
            }
            outputs.push(Ok(Leased::default()));
            let held = held.iter().find(|row| row.worker == call.worker.0).map_or(0, |row| row.count);
            let max = (worker.slots - held).min(i64::from(call.max));
            if max > 0 && !call.is_sick(tx, worker).await? && worker.may_lease(now) {
                let needs = served(&needs, &worker.offer()?, &call.warm);
                asks.push(Ask { worker: &call.worker, max, needs, may_ask: call.may_ask });
                asking.push(outputs.len() - 1);
            }
        }
        let (mut changes, given) = claim(tx, &asks, now).await?;
        let mut rows = Vec::new();
        let mut caller: HashMap<TrialId, usize> = HashMap::new();
        for (index, given) in asking.into_iter().zip(given) {
            let call = calls[index];
            let ids = match given {
                Given::Trials(ids) => ids,
                Given::Wanted(wanted) => {
                    if let Some(Ok(leased)) = outputs.get_mut(index) {
                        leased.asks = wanted;
                    }
                    continue;
                }
            };
            for id in ids {
                let command = Command::Lease { worker: call.worker.clone() };
                if changes.step(id, command, Details::default()).is_ok()
                    && let Some(token) = changes.token(id)
                {
                    let Request { worker, request } = call.request();
                    rows.push(NewLease { token, worker, request, until: now + call.ttl });
                    caller.insert(id, index);
                }
            }
        }
        if rows.is_empty() {
            return Ok(outputs);
        }
        changes.write(tx).await?;
        leases::take(tx, &rows, now).await?;
        let ids: Vec<TrialId> = rows.iter().map(|row| row.token.trial).collect();
        for row in trials::assignments(tx, &ids).await? {
            if let Some(Ok(leased)) = caller.get(&TrialId(row.trial)).map(|index| &mut outputs[*index]) {
                leased.assignments.push(row);
            }
        }
        for leased in outputs.iter_mut().flatten().filter(|leased| !leased.is_repetition) {
            leased.complete(tx).await?;
        }
        Ok(outputs)
    }

    fn wakes(leased: &Self::Output) -> bool {
        !leased.assignments.is_empty()
    }
}

impl Leased {
    /// Adds what belongs to the assignments; mostly there is nothing to ask for.
    async fn complete<T: Tx>(&mut self, tx: &mut T) -> Result<(), Error> {
        let asking = self.assignments.iter().filter(|row| row.reuse != Reuse::Never.name());
        let asking: Vec<i64> = asking.map(|row| row.trial).collect();
        if !asking.is_empty() {
            self.reusable = reuse::reusable(tx, &asking).await?;
        }
        let first = self.assignments.iter().filter(|row| row.prefix.is_some() && row.prefix_url.is_none());
        let first: Vec<i64> = first.map(|row| row.trial).collect();
        if !first.is_empty() {
            self.leaders = prefixes::leaders(tx, &first).await?;
        }
        Ok(())
    }
}

impl Lease {
    fn request(&self) -> Request<'_> {
        Request { worker: &self.worker.0, request: &self.request }
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
