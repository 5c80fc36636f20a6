//! Who stands beside a run: hears what comes of it, keeps its checkpoints, and may ask it to stop.

use super::run::Metrics;

/// Called between steps; a run does not go on before a call has returned.
pub trait Attendant {
    /// An epoch has ended; the epochs of all phases count together, from 1. An attempt that goes on from a checkpoint
    /// tells the epochs before it again.
    fn epoch(&mut self, epoch: u32, metrics: &Metrics);

    /// Something that people should know of.
    fn note(&mut self, message: &str) {
        tracing::info!(message);
    }

    /// Whether the run is to stop here, after a last checkpoint.
    fn is_leaving(&self) -> bool {
        false
    }

    /// Whether it is time for a checkpoint.
    fn is_checkpoint_due(&self) -> bool {
        false
    }

    /// Whether others wait for the end of the run's training before pruning, and after which epochs its values are to be
    /// kept for them.
    fn keeps(&self) -> Option<&[u32]> {
        None
    }

    /// Keeps that end.
    fn share(&mut self, _bytes: Vec<u8>) {}

    /// Keeps the bytes of a checkpoint, in the place of the one before. `epoch`: epochs that have ended. That it cannot
    /// be kept is for the attendant to say; the run goes on.
    fn checkpoint(&mut self, _bytes: Vec<u8>, _epoch: u32) {}
}

impl<F: FnMut(u32, &Metrics)> Attendant for F {
    fn epoch(&mut self, epoch: u32, metrics: &Metrics) {
        self(epoch, metrics);
    }
}
