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
    /// Workers that may be lost while they run the trial before it is parked as poison. `None`: any number.
    pub poison_after: Option<u32>,
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
        let failed_on = match &trial.state {
            State::Running { worker } => Some(worker.clone()),
            _ => None,
        };
        let failed = Trial { failures, failed_on, ..trial.clone() };
        if is_final {
            (Trial { state: State::Failed { class, message, at: now }, ..failed }, Event::Failed { end })
        } else {
            // A bad node says nothing about the trial: the next node need not wait longer for it.
            let nth = if class == FailureClass::BadNode { 1 } else { failures };
            let not_before = now.saturating_add(self.wait_ms(&failed, nth));
            (Trial { state: State::Queued { not_before }, ..failed }, Event::Requeued { end })
        }
    }

    pub(super) fn after_interruption(
        &self,
        trial: &Trial,
        cause: Cause,
        message: String,
        now: Millis,
    ) -> (Trial, Event) {
        let interruptions = trial.interruptions + 1;
        let lost = trial.lost + u32::from(cause == Cause::WorkerLost);
        let taken = Trial { interruptions, lost, ..trial.clone() };
        let end = End { how: How::Interrupted(cause), message };
        let ceiling = if self.poison_after.is_some_and(|limit| lost >= limit.max(1)) {
            Some((FailureClass::Poison, format!("{lost} workers were lost while they ran it")))
        } else if interruptions >= MAX_INTERRUPTIONS {
            let text = format!("{interruptions} attempts were taken away or lost their worker");
            Some((FailureClass::BadNode, text))
        } else {
            None
        };
        if let Some((class, text)) = ceiling {
            let state =
                State::Failed { class, message: format!("{text}; the last: {}", end.message), at: now };
            return (Trial { state, ..taken }, Event::Failed { end });
        }
        // One lost worker is the worker's misfortune; from the second on the trial may be its cause, and slows down.
        let wait = match cause {
            Cause::WorkerLost if lost > 1 => self.wait_ms(&taken, lost - 1),
            _ => 0,
        };
        let state = State::Queued { not_before: now.saturating_add(wait) };
        (Trial { state, ..taken }, Event::Requeued { end })
    }

    /// The wait after the `nth` failure: `first · factor^(nth − 1)`, at most `max`, less up to a fifth, so that trials
    /// that failed together do not come back together. The same trial and attempt always wait the same.
    fn wait_ms(&self, trial: &Trial, nth: u32) -> Millis {
        let exponent = f64::from(nth.saturating_sub(1));
        let wait = (self.first_ms as f64 * self.factor.max(1.0).powf(exponent)).min(self.max_ms as f64);
        let seed = (trial.id.0 as u64) ^ (u64::from(trial.attempt) << 48);
        let unit = (mix(seed) >> 11) as f64 / (1u64 << 53) as f64;
        (wait * (1.0 - 0.2 * unit)) as Millis
    }
}

/// The output function of SplitMix64: every input bit reaches every output bit.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
