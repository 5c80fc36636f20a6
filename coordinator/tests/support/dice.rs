//! Chance that a seed repeats, and the faults that it throws at a store.

use std::collections::BTreeMap;

use coordinator::store::{Error, Op, Store};

/// SplitMix64: the same numbers from the same seed, for ever.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is above 0.
    pub(crate) fn below(&mut self, end: i64) -> i64 {
        (self.next() >> 1) as i64 % end
    }

    /// Whether something of this many per mille happens.
    pub(crate) fn happens(&mut self, per_mille: i64) -> bool {
        self.below(1_000) < per_mille
    }
}

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

/// A store behind a bad network.
#[derive(Debug)]
pub(crate) struct Faults {
    dice: Dice,
    per_mille: i64,
    /// How often each was thrown.
    pub(crate) thrown: BTreeMap<Fault, u32>,
}

impl Faults {
    pub(crate) fn new(seed: u64, per_mille: i64) -> Self {
        Self { dice: Dice(seed), per_mille, thrown: BTreeMap::new() }
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

    /// Makes a call until there is an answer, as a worker does.
    pub(crate) async fn write<O: Op + Clone>(&mut self, store: &Store, op: &O) -> Result<O::Output, Error> {
        loop {
            match self.throw() {
                None => return store.write(op.clone()).await,
                Some(Fault::Unavailable) => {}
                Some(Fault::ExecutedThenTimeout) => drop(store.write(op.clone()).await),
                Some(Fault::Duplicate) => {
                    drop(store.write(op.clone()).await);
                    return store.write(op.clone()).await;
                }
            }
        }
    }
}
