//! Leasing where configurations are chosen while results come in: what a worker's free slot is to run is chosen when it
//! asks, and not before, so that the choice knows of all that has ended.

use super::Store;
use super::error::Error;
use super::ops::{Lease, Leased, Propose, Suggest};

/// How often another coordinator may be faster.
const ROUNDS: usize = 4;

impl Store {
    /// Leases. When it is the turn of a sweep whose sampler has yet to say what is next, it is asked first: read and
    /// thought about outside the transaction that writes.
    ///
    /// # Errors
    /// Those of [`Lease`].
    pub async fn lease(&self, lease: &Lease) -> Result<Leased, Error> {
        for _ in 0..ROUNDS {
            let leased = self.write(Lease { may_ask: true, ..lease.clone() }).await?;
            if leased.asks.is_empty() {
                return Ok(leased);
            }
            let mut has_asked = false;
            for ask in leased.asks {
                let propose = Propose { sweep: ask.sweep, worker: lease.worker.clone(), trials: ask.trials };
                if let Some(proposal) = self.read(propose).await? {
                    has_asked = true;
                    self.write(Suggest { proposal }).await?;
                }
            }
            if !has_asked {
                break;
            }
        }
        self.write(Lease { may_ask: false, ..lease.clone() }).await
    }
}
