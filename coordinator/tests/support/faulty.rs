//! A store behind a bad network, and a caller that does not give up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use coordinator::store::ops::{Lease, Leased};
use coordinator::store::{self, Error, Op};
use tokio::sync::watch;

use super::dice::Dice;

/// What may become of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The call never arrived.
    Unavailable,
    /// It was done, and the answer was lost.
    ExecutedThenTimeout,
    /// It arrived twice; the second answer is heard.
    Duplicate,
}

/// When faults come, and how often each has come.
#[derive(Debug)]
pub(crate) struct Faults {
    dice: Dice,
    per_mille: i64,
    thrown: BTreeMap<Fault, u32>,
}

impl Faults {
    pub(crate) fn new(seed: u64, per_mille: i64) -> Self {
        Self { dice: Dice(seed), per_mille, thrown: BTreeMap::new() }
    }

    /// As `SWEEP_FAULTS` says, `0.05` or `0.05:SEED`; none without it.
    pub(crate) fn of_the_run() -> Self {
        let Ok(text) = std::env::var("SWEEP_FAULTS") else { return Self::new(0, 0) };
        let (rate, seed) = text.split_once(':').unwrap_or((&text, "1"));
        let rate: f64 = rate.parse().expect("SWEEP_FAULTS is a rate");
        Self::new(seed.parse().expect("a seed after the rate"), (rate * 1_000.0) as i64)
    }

    fn throw(&mut self) -> Option<Fault> {
        if !self.dice.happens(self.per_mille) {
            return None;
        }
        let faults = [Fault::Unavailable, Fault::ExecutedThenTimeout, Fault::Duplicate];
        let fault = faults[self.dice.below(3) as usize];
        *self.thrown.entry(fault).or_default() += 1;
        Some(fault)
    }
}

/// A store, and the faults on the way to it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    store: store::Store,
    faults: Arc<Mutex<Faults>>,
}

impl Store {
    pub(crate) fn new(store: store::Store, faults: Faults) -> Self {
        Self { store, faults: Arc::new(Mutex::new(faults)) }
    }

    /// Without faults: an answer that was lost cannot be told from the first by whoever asks again, and some tests are
    /// about just that answer.
    pub(crate) fn reliable(&self) -> &store::Store {
        &self.store
    }

    pub(crate) fn into_inner(self) -> store::Store {
        self.store
    }

    /// The same faults before another store.
    pub(crate) fn before(&self, store: store::Store) -> Self {
        Self { store, faults: Arc::clone(&self.faults) }
    }

    /// How often faults have come.
    pub(crate) fn thrown(&self) -> u32 {
        self.faults.lock().unwrap().thrown.values().sum()
    }

    /// Makes a call until there is an answer, as a worker does.
    pub(crate) async fn write<O: Op + Clone>(&self, op: O) -> Result<O::Output, Error> {
        self.call(|| self.store.write(op.clone())).await
    }

    /// As [`Store::write`], where samplers may have to be asked first.
    pub(crate) async fn lease(&self, lease: &Lease) -> Result<Leased, Error> {
        self.call(|| self.store.lease(lease)).await
    }

    async fn call<T, F: Future<Output = Result<T, Error>>>(&self, call: impl Fn() -> F) -> Result<T, Error> {
        loop {
            let fault = self.faults.lock().unwrap().throw();
            match fault {
                None => return call().await,
                Some(Fault::Unavailable) => {}
                Some(Fault::ExecutedThenTimeout) => drop(call().await),
                Some(Fault::Duplicate) => {
                    drop(call().await);
                    return call().await;
                }
            }
        }
    }

    pub(crate) async fn read<O: Op>(&self, op: O) -> Result<O::Output, Error> {
        self.store.read(op).await
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.store.changes()
    }

    pub(crate) fn commits(&self) -> u64 {
        self.store.commits()
    }

    pub(crate) async fn close(&self) {
        self.store.close().await;
    }
}
