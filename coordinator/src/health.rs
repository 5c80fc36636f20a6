//! Which workers are sick, and which errors are one. Pure.
//!
//! A worker on which attempts fail in a row rests longer and longer between trials, so that it cannot eat a sweep before
//! anybody knows whose fault it is. It is quarantined once trials that failed on it have succeeded elsewhere: then it is
//! the worker's. A success clears it of both.

use crate::trial::{FailureClass, Millis};

/// Trials that failed on a worker and succeeded elsewhere, before it is quarantined.
pub const BLAME_LIMIT: usize = 3;
/// Failures in a row from which on a worker rests.
const STRIKES_BEFORE_REST: u32 = 3;
const REST_FIRST: Millis = 10_000;
const REST_LONGEST: Millis = 300_000;
/// Bytes of an error's fingerprint.
const FINGERPRINT: usize = 256;

/// What a worker's latest attempts say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// Attempts that failed since the last success.
    pub strikes: u32,
    /// When the first of them did.
    pub failing_since: Option<Millis>,
    /// No trial is leased to the worker before.
    pub rests_until: Millis,
}

impl Health {
    /// After an attempt that failed.
    #[must_use]
    pub fn after_failure(self, class: FailureClass, now: Millis) -> Self {
        if !is_suspect(class) {
            return self;
        }
        let strikes = self.strikes.saturating_add(1);
        let rest = match strikes.checked_sub(STRIKES_BEFORE_REST) {
            Some(beyond) => (REST_FIRST << beyond.min(16)).min(REST_LONGEST),
            None => 0,
        };
        Self { strikes, failing_since: self.failing_since.or(Some(now)), rests_until: now + rest }
    }

    /// After an attempt that succeeded.
    #[must_use]
    pub fn after_success(self) -> Self {
        Self::default()
    }

    /// Whether the worker may be at fault, so that blame is worth counting.
    #[must_use]
    pub fn is_suspect(self) -> bool {
        self.strikes as usize >= BLAME_LIMIT
    }
}

/// Whether a failure may be the worker's fault. What the recipe alone decides is not.
#[must_use]
pub const fn is_suspect(class: FailureClass) -> bool {
    !matches!(class, FailureClass::InvalidConfig | FailureClass::Diverged | FailureClass::Poison)
}

/// How an error reads: its first line, numbers and addresses left out, so that the same error of two trials is one.
#[must_use]
pub fn fingerprint(message: &str) -> String {
    let line = message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let mut text = String::new();
    for word in line.split_whitespace() {
        let separator = if text.is_empty() { "" } else { " " };
        text.push_str(separator);
        let mut in_number = false;
        for c in without_address(word).chars() {
            if !c.is_ascii_digit() {
                text.push(c);
            } else if !in_number {
                text.push('#');
            }
            in_number = c.is_ascii_digit();
        }
    }
    text.truncate(text.floor_char_boundary(FINGERPRINT));
    text
}

/// A word up to the `0x` of an address in it.
fn without_address(word: &str) -> &str {
    word.find("0x").map_or(word, |start| &word[..start + 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_make_a_worker_rest_longer_and_longer() {
        let mut health = Health::default();
        let mut rests = Vec::new();
        for now in [1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000, 8_000, 9_000] {
            health = health.after_failure(FailureClass::CodeError, now);
            rests.push(health.rests_until - now);
        }
        assert_eq!(rests, [0, 0, 10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000]);
        assert_eq!((health.strikes, health.failing_since), (9, Some(1_000)));
        assert!(health.is_suspect());
        assert_eq!(health.after_success(), Health::default());
        let tired = Health { strikes: u32::MAX, ..health };
        assert_eq!(tired.after_failure(FailureClass::Timeout, 0).rests_until, REST_LONGEST);
    }

    #[test]
    fn what_the_recipe_decides_is_not_held_against_a_worker() {
        for class in FailureClass::ALL {
            let struck = Health::default().after_failure(class, 7).strikes == 1;
            let innocent =
                matches!(class, FailureClass::InvalidConfig | FailureClass::Diverged | FailureClass::Poison);
            assert_eq!(struck, !innocent, "{class:?}");
        }
    }

    #[test]
    fn the_same_error_of_two_trials_is_one() {
        let one = fingerprint("\n  shape [64, 197, 768] does not match at 0x7f3a01bc\nstack of trial 1");
        let two = fingerprint("shape [8, 1, 12] does not match at 0x11\nstack of trial 2");
        assert_eq!(one, "shape [#, #, #] does not match at #");
        assert_eq!(one, two);
        assert_ne!(one, fingerprint("shape [8, 1] does not match at 0x11"));
        assert_eq!(fingerprint(""), "");
        assert!(fingerprint(&"é".repeat(1_000)).len() <= FINGERPRINT);
    }
}
