//! gRPC: decode, one call of the store, encode. Nothing is decided here but what is well-formed.

mod auth;
mod decode;
mod encode;
mod results;
mod status;
mod sweeps;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::reads::AnyQueued;
use crate::store::{Error, Store};

pub use auth::{Auth, Token};

/// How often a waiting call looks for itself: another coordinator may have written.
const POLL: Duration = Duration::from_millis(500);

/// Both services.
#[derive(Debug, Clone)]
pub struct Service {
    pub store: Store,
    pub lease_ttl: Duration,
    /// Metrics may be held back this long by a worker.
    pub report_every: Duration,
    /// The turn to expand a sweep file.
    pub expansions: Arc<Semaphore>,
    /// What waiting workers ask first.
    pub gate: Arc<Gate>,
    /// Ends streams and waiting calls.
    pub shutdown: CancellationToken,
}

/// Whether there is anything to lease at all: one answer for all workers that wait, however many there are.
#[derive(Debug, Default)]
pub struct Gate {
    /// When it was last asked, and the answer.
    last: Mutex<Option<(Instant, bool)>>,
}

impl Gate {
    /// As of `since` or later.
    async fn is_open(&self, store: &Store, since: Instant) -> Result<bool, Error> {
        let mut last = self.last.lock().await;
        if let Some((_, answer)) = last.filter(|(at, _)| *at >= since) {
            return Ok(answer);
        }
        let at = Instant::now();
        let answer = store.read(AnyQueued).await?;
        *last = Some((at, answer));
        Ok(answer)
    }
}
