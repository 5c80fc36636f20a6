//! How long to wait before the coordinator is called again, and when to give up. Pure: the clock is a parameter.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(10);
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);

/// How long a stream without events must have held to count as well.
const HELD: Duration = Duration::from_secs(5);

/// One outage: how long nobody has answered, and the tries since the coordinator was last well.
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

    /// A stream that had opened has ended. The coordinator can be reached, so the time after which to give up starts
    /// anew; the pauses do so only after a stream that was well, so that a coordinator that breaks every stream at
    /// once is neither stormed nor announced each time.
    pub(crate) fn streamed(&mut self, open_for: Duration, had_events: bool) {
        self.since = None;
        if had_events || open_for >= HELD {
            self.tries = 0;
        }
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
    /// What became of `next` at some seconds after the start.
    fn lost(backoff: &mut Backoff, start: Instant, seconds: u64) -> Result<Duration, u64> {
        backoff.next(start + Duration::from_secs(seconds))
    }

    #[test]
    fn a_quiet_stream_that_held_ends_the_outage_before_it() {
        let (start, mut backoff) = (Instant::now(), Backoff::default());
        assert_eq!(lost(&mut backoff, start, 0), Ok(FIRST));
        backoff.streamed(Duration::from_secs(3600), false);
        assert!(backoff.is_fresh(), "the next outage is announced again");
        assert_eq!(lost(&mut backoff, start, 3601), Ok(FIRST), "and has its own ten minutes");
        assert_eq!(lost(&mut backoff, start, 4202), Err(10));
    }

    #[test]
    fn events_end_an_outage_however_short_the_stream() {
        let (start, mut backoff) = (Instant::now(), Backoff::default());
        assert_eq!(lost(&mut backoff, start, 0), Ok(FIRST));
        backoff.streamed(Duration::ZERO, true);
        assert!(backoff.is_fresh());
    }

    #[test]
    fn streams_that_break_at_once_are_one_outage_that_is_never_given_up() {
        let (start, mut backoff) = (Instant::now(), Backoff::default());
        for second in (0..3600).step_by(10) {
            assert!(lost(&mut backoff, start, second).is_ok(), "after {second} s");
            backoff.streamed(Duration::from_millis(1), false);
            assert!(!backoff.is_fresh());
        }
        assert_eq!(lost(&mut backoff, start, 3600), Ok(LONGEST));
    }
}
