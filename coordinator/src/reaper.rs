//! Once a second: takes back what lost workers held. Whether any other worker is alive does not matter.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::store::Store;
use crate::store::ops::Reap;
use crate::store::reads::ListSweeps;
use crate::trial::Millis;

const TICK: Duration = Duration::from_secs(1);

/// When reaping is fair. While the database was away, or this process stood still, nobody could renew: as after a
/// start, live workers get one grace before anything of theirs is taken back.
#[derive(Debug)]
struct Fairness {
    grace: Duration,
    /// Silence of this length means that renewals were missed.
    silence: Duration,
    last_answer: Instant,
    not_before: Instant,
}

impl Fairness {
    fn new(ttl: Duration, grace: Duration, now: Instant) -> Self {
        // A worker renews every third of a lease.
        let silence = (ttl / 3).max(3 * TICK);
        Self { grace, silence, last_answer: now, not_before: now + grace }
    }

    /// The database has answered. Whether it is fair to reap now.
    fn answered(&mut self, now: Instant) -> bool {
        if now - self.last_answer > self.silence {
            self.not_before = now + self.grace;
        }
        self.last_answer = now;
        now >= self.not_before
    }
}

/// Reaps until `shutdown`.
pub async fn run(store: Store, ttl: Duration, grace: Duration, shutdown: CancellationToken) {
    let reap = Reap { ttl: ttl.as_millis() as Millis, grace: grace.as_millis() as Millis };
    let mut fairness = Fairness::new(ttl, grace, Instant::now());
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        match store.read(ListSweeps { limit: 1 }).await {
            Ok(_) if fairness.answered(Instant::now()) => reap_all(&store, reap).await,
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "the database is away"),
        }
    }
}

async fn reap_all(store: &Store, reap: Reap) {
    loop {
        match store.write(reap).await {
            Ok(reaped) => {
                if reaped.attempts > 0 || reaped.workers > 0 {
                    let (attempts, workers) = (reaped.attempts, reaped.workers);
                    tracing::warn!(attempts, workers, "leases ran out");
                }
                if !reaped.is_full {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "reaping failed; tried again next second");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_start_or_a_silence_live_workers_get_a_grace() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut fairness = Fairness::new(60 * second, 15 * second, start);
        assert!(!fairness.answered(start + 14 * second));
        assert!(fairness.answered(start + 15 * second));
        assert!(fairness.answered(start + 35 * second), "a short silence misses no renewal");
        assert!(!fairness.answered(start + 56 * second));
        assert!(!fairness.answered(start + 70 * second));
        assert!(fairness.answered(start + 71 * second));
    }
}
