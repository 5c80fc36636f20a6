//! Workers come and go.

use super::random_word;
use crate::offer::{Backbone, Offer};
use crate::store::Op;
use crate::store::error::Error;
use crate::store::rows::{WorkerRow, to_json};
use crate::store::sql::workers::{self, Announcement};
use crate::store::tx::Tx;
use crate::trial::{Millis, WorkerId};

/// A worker says what it offers. The same instance keeps its id.
#[derive(Debug, Clone)]
pub struct Register {
    pub instance: String,
    pub name: String,
    pub offer: Offer,
    pub slots: u32,
}

impl Op for Register {
    type Output = WorkerRow;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<WorkerRow, Error> {
        workers::lock_offers(tx).await?;
        self.check_backbones(&workers::live(tx).await?)?;
        let id = format!("{}-{}", self.name, random_word(6));
        let announcement = Announcement {
            id: &id,
            instance: &self.instance,
            name: &self.name,
            capabilities_json: to_json(&self.offer),
            slots: i64::from(self.slots),
        };
        workers::register(tx, announcement, now).await
    }
}

impl Register {
    /// Refuses weights that go by a name under which another live worker has other weights.
    fn check_backbones(&self, live: &[WorkerRow]) -> Result<(), Error> {
        for other in live.iter().filter(|row| row.instance != self.instance) {
            let offer = other.offer()?;
            for own in &self.offer.backbones {
                let differs = |its: &&Backbone| its.name == own.name && its.sha256 != own.sha256;
                if let Some(its) = offer.backbones.iter().find(differs) {
                    return Err(Error::TwoBackbones {
                        backbone: own.name.clone(),
                        worker: self.name.clone(),
                        sha256: own.sha256.clone(),
                        other: other.id.clone(),
                        other_sha256: its.sha256.clone(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// A worker asks for no more trials.
#[derive(Debug, Clone)]
pub struct Drain {
    pub worker: WorkerId,
}

impl Op for Drain {
    type Output = ();

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<(), Error> {
        workers::drain(tx, &self.worker, now).await
    }

    fn wakes(_output: &()) -> bool {
        false
    }
}

/// Lifts the quarantine of a worker, given by its id or its name.
#[derive(Debug, Clone)]
pub struct Release {
    pub worker: String,
}

impl Op for Release {
    type Output = Vec<WorkerRow>;

    async fn run<T: Tx>(&self, tx: &mut T, _now: Millis) -> Result<Vec<WorkerRow>, Error> {
        let released = workers::release(tx, &self.worker).await?;
        if released.is_empty() { Err(Error::NoSuchWorker(self.worker.clone())) } else { Ok(released) }
    }
}
