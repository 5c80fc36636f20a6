//! How long to wait before the coordinator is called again, and when to give up. Pure: the clock is a parameter.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(10);
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);

/// One outage: the tries since the last event.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    since: Option<Instant>,
    tries: u32,
}

impl Backoff {
    /// `true` before the first failure of an outage.
    pub(crate) fn is_fresh(&self) -> bool {
        self.tries == 0
    }

    /// How long to wait before the next try.
    ///
    /// # Errors
    /// The length of the outage in minutes, when it is time to give up.
    pub(crate) fn next(&mut self, now: Instant) -> Result<Duration, u64> {
        let outage = now.saturating_duration_since(*self.since.get_or_insert(now));
        if outage >= GIVE_UP_AFTER {
            return Err(outage.as_secs() / 60);
        }
        let pause = FIRST.saturating_mul(1 << self.tries.min(16)).min(LONGEST);
        self.tries += 1;
        Ok(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_bound_and_end_after_ten_minutes() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        assert!(backoff.is_fresh());
        let pauses: Vec<_> = (0..8).map(|_| backoff.next(start).expect("early").as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        assert!(!backoff.is_fresh());
        assert_eq!(backoff.next(start + Duration::from_secs(599)), Ok(LONGEST));
        assert_eq!(backoff.next(start + Duration::from_secs(601)), Err(10));
    }
}
