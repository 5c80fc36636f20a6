//! What becomes of a trial whose attempt ended without a result.

use serde::{Deserialize, Serialize};

use super::{Cause, End, Event, FailureClass, How, MAX_INTERRUPTIONS, Millis, State, Trial};

/// A sweep's `retry`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Attempts that may fail before the trial does; at least 1.
    pub max_attempts: u32,
    /// Wait after the first failure.
    pub first_ms: u64,
    /// Growth of the wait from one failure to the next.
    pub factor: f64,
    /// Longest wait.
    pub max_ms: u64,
    /// Classes that end the trial at once.
    pub never: Vec<FailureClass>,
}

impl Policy {
    pub(super) fn after_failure(
        &self,
        trial: &Trial,
        class: FailureClass,
        message: String,
        now: Millis,
    ) -> (Trial, Event) {
        let failures = trial.failures + 1;
        let is_final = class == FailureClass::Diverged
            || self.never.contains(&class)
            || failures >= self.max_attempts.max(1);
        let end = End { how: How::Failed(class), message: message.clone() };
        let failed = Trial { failures, ..trial.clone() };
        if is_final {
            (Trial { state: State::Failed { class, message, at: now }, ..failed }, Event::Failed { end })
        } else {
            let not_before = now.saturating_add(self.wait_ms(&failed));
            (Trial { state: State::Queued { not_before }, ..failed }, Event::Requeued { end })
        }
    }

    /// The wait after the `failures`-th failure: `first · factor^(failures − 1)`, at most `max`, less up to a fifth, so
    /// that trials that failed together do not come back together. The same trial and attempt always wait the same.
    fn wait_ms(&self, trial: &Trial) -> Millis {
        let exponent = f64::from(trial.failures.saturating_sub(1));
        let wait = (self.first_ms as f64 * self.factor.max(1.0).powf(exponent)).min(self.max_ms as f64);
        let seed = (trial.id.0 as u64) ^ (u64::from(trial.attempt) << 48);
        let unit = (mix(seed) >> 11) as f64 / (1u64 << 53) as f64;
        (wait * (1.0 - 0.2 * unit)) as Millis
    }
}

pub(super) fn after_interruption(
    trial: &Trial,
    cause: Cause,
    message: String,
    now: Millis,
) -> (Trial, Event) {
    let interruptions = trial.interruptions + 1;
    let end = End { how: How::Interrupted(cause), message };
    let taken = Trial { interruptions, ..trial.clone() };
    if interruptions >= MAX_INTERRUPTIONS {
        let message = format!(
            "{interruptions} attempts were taken away or lost their worker; the last: {}",
            end.message
        );
        let state = State::Failed { class: FailureClass::BadNode, message, at: now };
        (Trial { state, ..taken }, Event::Failed { end })
    } else {
        (Trial { state: State::Queued { not_before: now }, ..taken }, Event::Requeued { end })
    }
}

/// The output function of SplitMix64: every input bit reaches every output bit.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
