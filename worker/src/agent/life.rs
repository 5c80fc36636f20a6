//! How long the agent will be here, and what can still be done in that time. Pure.

use std::time::Duration;

use super::facts::Time;

#[derive(Debug)]
pub(super) struct Life {
    /// When the agent will be asked to leave; `None`: nobody knows.
    leave_at: Option<Time>,
    /// The longest epoch of any run so far. The first of a run counts from its start, so that what comes before it
    /// (loading weights and images) is in there.
    epoch: Duration,
    /// Nothing more is begun.
    closing: bool,
}

impl Life {
    pub(super) fn new(leave_at: Option<Time>) -> Self {
        Self { leave_at, epoch: Duration::ZERO, closing: false }
    }

    pub(super) fn saw_epoch(&mut self, took: Duration) {
        self.epoch = self.epoch.max(took);
    }

    /// Whether a run of that many epochs would end in time, by what was seen so far.
    pub(super) fn suffices(&self, now: Time, epochs: u32) -> bool {
        self.leave_at.is_none_or(|at| now + self.epoch.saturating_mul(epochs.max(1)) <= at)
    }

    /// Begins nothing more from here on.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    /// Whether nothing more is to be begun: a run would not get as far as a checkpoint that is worth it, one epoch.
    pub(super) fn is_closing(&mut self, now: Time) -> bool {
        self.closing |= !self.suffices(now, 1);
        self.closing
    }

    /// When `is_closing` will turn, if it has not.
    pub(super) fn closes_at(&self) -> Option<Time> {
        let at = self.leave_at?.saturating_sub(self.epoch);
        // One tick beyond: at the moment itself an epoch still fits.
        (!self.closing).then_some(at + Duration::from_millis(1))
    }
}
