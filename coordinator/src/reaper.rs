//! Once a second: takes back what lost workers held. Whether any other worker is alive does not matter.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::store::Store;
use crate::store::ops::Reap;
use crate::trial::Millis;

const TICK: Duration = Duration::from_secs(1);

/// Reaps until `shutdown`. It starts one grace late, so that after a restart live workers renew before anything of
/// theirs is taken back.
pub async fn run(store: Store, ttl: Duration, grace: Duration, shutdown: CancellationToken) {
    let reap = Reap { ttl: ttl.as_millis() as Millis, grace: grace.as_millis() as Millis };
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + grace, TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        loop {
            match store.write(reap).await {
                Ok(reaped) => {
                    if reaped.attempts > 0 || reaped.workers > 0 {
                        let (attempts, workers) = (reaped.attempts, reaped.workers);
                        tracing::warn!(attempts, workers, "leases ran out");
                    }
                    if !reaped.is_full {
                        break;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "reaping failed; tried again next second");
                    break;
                }
            }
        }
    }
}
