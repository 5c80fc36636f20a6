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

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::store::Store;

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
    /// Ends streams and waiting calls.
    pub shutdown: CancellationToken,
}
