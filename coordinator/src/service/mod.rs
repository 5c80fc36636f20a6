//! gRPC: decode, one call of the store, encode. Nothing is decided here but what is well-formed.

mod auth;
mod decode;
mod encode;
mod status;
mod sweeps;
mod workers;

use std::time::Duration;

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
    /// Ends streams and waiting calls.
    pub shutdown: CancellationToken,
}
