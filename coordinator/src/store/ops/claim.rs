//! Which trials go to which workers, of those that ask at the same time. The sweeps whose turn it is are locked, their
//! queues are read as far as it takes, and the workers are served one after the other, each as if it had asked alone.

use std::collections::{BTreeMap, BTreeSet};

use super::changes::Changes;
use crate::fair::{self, Candidate, Share};
use crate::offer::{Need, Offer, Warm};
use crate::store::error::Error;
use crate::store::rows::{QueuedRow, SweepRow, SweepState, from_json};
use crate::store::sql::trials::{self, Place};
use crate::store::sql::{sweeps, workers};
use crate::store::tx::Tx;
use crate::trial::{Millis, TrialId, WorkerId};

/// How long a trial that failed on a worker is left to others, if there are others.
pub(in crate::store) const PATIENCE: Millis = 60_000;
/// Trials of one sweep and need that are read at once: as many as are asked for, but no fewer and no more than these.
const PAGES: (i64, i64) = (8, 1_000);

/// A worker that asks for trials.
#[derive(Debug)]
pub(in crate::store) struct Ask<'a> {
    pub worker: &'a WorkerId,
    pub max: i64,
    pub needs: Vec<Served>,
    /// Whether it gets nothing as long as samplers have to be asked first.
    pub may_ask: bool,
}

/// A sweep whose turn it is, and whose sampler has yet to say what so many trials are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub sweep: i64,
    pub trials: i64,
}

/// What a worker gets.
pub(super) enum Given {
    Trials(Vec<TrialId>),
    /// Nothing yet: this must be asked for first.
    Wanted(Vec<Wanted>),
}

/// A need that a worker serves, and whether it would have to load a backbone or a task for it.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Served {
    pub need: i64,
    is_cold: bool,
}

/// Of all needs, those that a worker serves.
pub(in crate::store) fn served(needs: &[(i64, Need)], offer: &Offer, warm: &[Warm]) -> Vec<Served> {
    let fitting = needs.iter().filter(|(_, need)| offer.fits(need));
    let served =
        |(id, need): &(i64, Need)| Served { need: *id, is_cold: !warm.iter().any(|warm| warm.serves(need)) };
    fitting.map(served).collect()
}

/// Locks the sweeps whose turn it is, in the order of their numbers, and shares out their trials.
pub(super) async fn claim<T: Tx>(
    tx: &mut T,
    asks: &[Ask<'_>],
    now: Millis,
) -> Result<(Changes, Vec<Given>), Error> {
    let mut queues = Queues::open(tx, asks, now).await?;
    let turns = queues.turns(asks);
    let locked = if turns.is_empty() { Vec::new() } else { sweeps::lock(tx, &turns).await? };
    queues.keep(&locked);
    let mut changes = Changes::new(locked, now)?;
    let mut given = Vec::with_capacity(asks.len());
    for ask in asks {
        let (shares, get) = queues.serve(tx, ask).await?;
        for share in shares {
            changes.sweep(share.number)?.served = share.served;
        }
        given.push(get);
    }
    let ids = given.iter().flat_map(|given| match given {
        Given::Trials(ids) => ids.as_slice(),
        Given::Wanted(_) => &[],
    });
    let ids: Vec<TrialId> = ids.copied().collect();
    if !ids.is_empty() {
        changes.add(&trials::load(tx, &ids).await?)?;
    }
    Ok((changes, given))
}

/// Whether there is anything for a worker now. Locks nothing.
pub(in crate::store) async fn is_any<T: Tx>(tx: &mut T, ask: &Ask<'_>, now: Millis) -> Result<bool, Error> {
    let mut queues = Queues::open(tx, std::slice::from_ref(ask), now).await?;
    for place in 0..queues.sweeps.len() {
        if queues.sweeps[place].asks(ask) > 0 || !queues.due(tx, ask, place, 1).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The active sweeps, with their due trials as far as they have been read.
struct Queues {
    now: Millis,
    page: i64,
    sweeps: Vec<Active>,
    /// By sweep and need.
    queues: BTreeMap<(i64, i64), Queue>,
    /// Of workers on which one of the trials failed lately: whether another one is live.
    have_others: BTreeMap<String, bool>,
}

struct Active {
    candidate: Candidate,
    /// Those of its due trials, when the sweeps were read.
    needs: BTreeSet<i64>,
    /// Trials that its samplers would make, for whom, and how many may run besides by its limit.
    asks: i64,
    studies: BTreeSet<i64>,
    free: i64,
}

impl Active {
    /// How many trials its samplers would make for a worker.
    fn asks(&self, ask: &Ask<'_>) -> i64 {
        let is_for = ask.may_ask && ask.needs.iter().any(|served| self.studies.contains(&served.need));
        if is_for { self.asks.min(self.free).max(0) } else { 0 }
    }
}

#[derive(Default)]
struct Queue {
    /// By id: those that were read and not given away.
    rows: BTreeMap<i64, QueuedRow>,
    /// The last that was read.
    last: i64,
    is_read: bool,
}

impl Queues {
    async fn open<T: Tx>(tx: &mut T, asks: &[Ask<'_>], now: Millis) -> Result<Self, Error> {
        let needs: BTreeSet<i64> = asks.iter().flat_map(|ask| &ask.needs).map(|served| served.need).collect();
        let needs: Vec<i64> = needs.into_iter().collect();
        let rows = if needs.is_empty() { Vec::new() } else { sweeps::candidates(tx, &needs, now).await? };
        let mut sweeps = Vec::with_capacity(rows.len());
        for row in rows {
            let needs = from_json("sweep", row.number, &row.needs_json)?;
            let candidate = Candidate {
                number: row.number,
                project: row.project,
                priority: row.priority,
                running: row.running,
                room: row.room,
                served: row.served,
            };
            let studies = from_json("sweep", row.number, &row.studies_json)?;
            sweeps.push(Active { candidate, needs, asks: row.asks, studies, free: i64::MAX });
        }
        let page = asks.iter().map(|ask| ask.max).sum::<i64>().clamp(PAGES.0, PAGES.1);
        Ok(Self { now, page, sweeps, queues: BTreeMap::new(), have_others: BTreeMap::new() })
    }

    /// Numbers of the sweeps whose turn it would be if nothing changed before they are locked.
    fn turns(&self, asks: &[Ask<'_>]) -> Vec<i64> {
        let mut candidates: Vec<Candidate> =
            self.sweeps.iter().map(|active| active.candidate.clone()).collect();
        let mut turns = BTreeSet::new();
        for ask in asks {
            let fits = |active: &Active| ask.needs.iter().any(|served| active.needs.contains(&served.need));
            let fitting = self.sweeps.iter().zip(&candidates).map(|(active, candidate)| Candidate {
                room: if fits(active) { candidate.room } else { 0 } + active.asks(ask),
                ..candidate.clone()
            });
            for share in fair::shares(fitting.collect(), ask.max) {
                turns.insert(share.number);
                candidates.iter_mut().for_each(|candidate| take(candidate, share));
            }
        }
        turns.into_iter().collect()
    }

    /// Takes locked sweeps as they are now, and leaves all others alone.
    fn keep(&mut self, locked: &[SweepRow]) {
        for Active { candidate, asks, free, .. } in &mut self.sweeps {
            candidate.room = 0;
            *free = 0;
            let Some(row) = locked.iter().find(|row| row.number == candidate.number) else { continue };
            candidate.running = row.running;
            candidate.served = row.served;
            if row.state == SweepState::Active.name() {
                *free = row.max_running.map_or(i64::MAX, |limit| limit - row.running);
                *asks = row.waiting;
                candidate.room = row.queued.min(*free);
            }
        }
    }

    /// Gives a worker its share.
    async fn serve<T: Tx>(&mut self, tx: &mut T, ask: &Ask<'_>) -> Result<(Vec<Share>, Given), Error> {
        let mut due: BTreeMap<i64, Vec<(i64, i64)>> = BTreeMap::new();
        let mut candidates = Vec::with_capacity(self.sweeps.len());
        for place in 0..self.sweeps.len() {
            let limit = self.sweeps[place].candidate.room.min(ask.max);
            let rows = self.due(tx, ask, place, limit).await?;
            let candidate = &self.sweeps[place].candidate;
            let active = &self.sweeps[place];
            let room = (rows.len() as i64 + active.asks(ask)).min(active.free.max(0));
            candidates.push(Candidate { room, ..candidate.clone() });
            due.insert(candidate.number, rows);
        }
        let shares = fair::shares(candidates, ask.max);
        let wanted = shares.iter().filter_map(|share| {
            let trials = share.trials - due.get(&share.number).map_or(0, |rows| rows.len() as i64);
            (trials > 0).then_some(Wanted { sweep: share.number, trials })
        });
        let wanted: Vec<Wanted> = wanted.collect();
        if !wanted.is_empty() {
            return Ok((Vec::new(), Given::Wanted(wanted)));
        }
        let mut ids = Vec::new();
        for share in &shares {
            let rows = due.remove(&share.number).unwrap_or_default();
            for (need, id) in rows.into_iter().take(share.trials as usize) {
                if let Some(queue) = self.queues.get_mut(&(share.number, need)) {
                    queue.rows.remove(&id);
                }
                ids.push(TrialId(id));
            }
            for active in self.sweeps.iter_mut().filter(|active| active.candidate.number == share.number) {
                active.free = active.free.saturating_sub(share.trials);
                take(&mut active.candidate, *share);
            }
        }
        Ok((shares, Given::Trials(ids)))
    }

    /// Need and id of due trials of a sweep that a worker may have: those that it is warm for first, then in order.
    async fn due<T: Tx>(
        &mut self,
        tx: &mut T,
        ask: &Ask<'_>,
        place: usize,
        limit: i64,
    ) -> Result<Vec<(i64, i64)>, Error> {
        let limit = usize::try_from(limit).unwrap_or_default();
        if limit == 0 {
            return Ok(Vec::new());
        }
        let sweep = self.sweeps[place].candidate.number;
        loop {
            let (mut found, mut dry) = (Vec::new(), Vec::new());
            for served in ask.needs.iter().filter(|served| self.sweeps[place].needs.contains(&served.need)) {
                let queue = self.queues.entry((sweep, served.need)).or_default();
                let free =
                    queue.rows.values().filter(|row| !is_avoided(row, ask, self.now, &self.have_others));
                let before = found.len();
                found.extend(free.take(limit).map(|row| (served.is_cold, row.id, served.need)));
                if found.len() - before < limit && !queue.is_read {
                    dry.push(Place { sweep, need: served.need, after: queue.last });
                }
            }
            if dry.is_empty() {
                found.sort_unstable();
                return Ok(found.into_iter().take(limit).map(|(_, id, need)| (need, id)).collect());
            }
            self.read(tx, &dry).await?;
        }
    }

    /// Reads on where queues have run dry.
    async fn read<T: Tx>(&mut self, tx: &mut T, dry: &[Place]) -> Result<(), Error> {
        for row in trials::queued(tx, dry, self.page, self.now).await? {
            if let Some(worker) =
                row.failed_on.as_ref().filter(|worker| !self.have_others.contains_key(*worker))
                && row.not_before > self.now - PATIENCE
            {
                let worker = WorkerId(worker.clone());
                let has_others = workers::are_there_others(tx, &worker).await?;
                self.have_others.insert(worker.0, has_others);
            }
            let queue = self.queues.entry((row.sweep, row.need)).or_default();
            queue.last = queue.last.max(row.id);
            queue.rows.insert(row.id, row);
        }
        for place in dry {
            let queue = self.queues.entry((place.sweep, place.need)).or_default();
            let new = queue.rows.range(place.after + 1..).count() as i64;
            queue.is_read = new < self.page;
        }
        Ok(())
    }
}

fn take(candidate: &mut Candidate, share: Share) {
    if candidate.number == share.number {
        candidate.room -= share.trials;
        candidate.running += share.trials;
        candidate.served = share.served;
    }
}

/// Whether a trial failed on the worker lately, and is left to others.
fn is_avoided(row: &QueuedRow, ask: &Ask<'_>, now: Millis, have_others: &BTreeMap<String, bool>) -> bool {
    row.failed_on.as_ref() == Some(&ask.worker.0)
        && row.not_before > now - PATIENCE
        && have_others.get(&ask.worker.0).copied().unwrap_or(false)
}
