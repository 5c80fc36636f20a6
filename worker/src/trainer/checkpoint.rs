//! Where a run is: everything that the next step depends on, and nothing else. It can be written between any two steps
//! and read again by another process, on another machine. Randomness needs no state: each draw is a function of seed and
//! position.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use super::ensemble::Ensemble;
use super::prune::Pruned;
use super::rewind::Snapshots;
use super::run::{Job, Metrics};
use crate::artifacts::{Contents, FileError};

const FORMAT: &str = "promptsweep checkpoint 1";
const POSITION: &str = "position";
const RUN: &str = "run";
const SNAPSHOT: &str = "snapshot.";

/// The position of a run, and what it has measured so far.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    /// Index into the list of phases.
    pub phase: usize,
    /// Epochs done within the phase.
    pub epoch: u32,
    /// Steps done within the epoch.
    pub step: u64,
    /// Sum of the losses of the images that these steps have seen.
    pub loss: f64,
    /// Optimiser steps of the phase.
    pub steps: u64,
    /// The metrics of each epoch that has ended, in order, over all phases.
    pub epochs: Vec<Metrics>,
    /// The metrics of the run that are final already.
    pub metrics: Metrics,
    /// What earlier attempts cost: seconds by the names of the metrics.
    pub spent: Metrics,
}

/// A checkpoint that a run cannot start from.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckpointError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("it is of another run: recipe, seed, backbone or training images differ")]
    Foreign,
    #[error("its position cannot be read")]
    Position(#[from] serde_json::Error),
    #[error("it holds no values of epoch {epoch}, which the run goes back to")]
    Epoch { epoch: u32 },
    #[error("its tensor `{name}` is missing or has another shape")]
    Tensor { name: String },
}

/// What a checkpoint must have been made with to be of use: 64 hexadecimal digits.
pub(super) fn fingerprint(job: &Job, backbone: &str, images: &str) -> String {
    let mut hash = Sha256::new();
    for part in [&job.recipe.to_json(), &job.seed.to_string(), backbone, images] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// What tells apart the training before pruning: 64 hexadecimal digits, the same for all trials that have it in common.
/// `None`: the job does not prune.
pub(super) fn prefix(job: &Job, start: Option<&str>, backbone: &str, images: (&str, &str)) -> Option<String> {
    let prefix = job.recipe.prefix()?.hash;
    let (train, eval) = images;
    let mut hash = Sha256::new();
    for part in [&prefix, &job.seed.to_string(), start.unwrap_or_default(), backbone, train, eval] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Some(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// The bytes of a checkpoint of the run `run`.
///
/// # Errors
/// When a tensor is of a type that cannot be written.
pub(super) fn write(
    run: &str,
    position: &Position,
    ensemble: &Ensemble,
    pruned: Option<&Pruned>,
    snapshots: &Snapshots,
) -> Result<Vec<u8>, CheckpointError> {
    let tensors = pruned.map(Pruned::tensors).unwrap_or_default();
    let mut contents = Contents { tensors, ..Contents::default() };
    for (epoch, values) in snapshots {
        for (name, value) in values {
            contents.tensors.insert(format!("{SNAPSHOT}{epoch}.{name}"), value.shallow_clone());
        }
    }
    contents.metadata.insert(RUN.to_owned(), run.to_owned());
    contents.metadata.insert(POSITION.to_owned(), serde_json::to_string(position)?);
    for param in ensemble.saved() {
        contents.tensors.insert(format!("param.{}", param.name), param.value.detach());
    }
    for (name, buffer) in ensemble.optimizer().buffers() {
        contents.tensors.insert(format!("optimizer.{name}"), buffer.shallow_clone());
    }
    Ok(contents.encode(FORMAT)?)
}

/// A checkpoint that belongs to one of the runs; its tensors are still to be taken over by [`restore`].
///
/// # Errors
/// Bytes that are no checkpoint, or one of another run.
pub(super) fn read(runs: &[&str], bytes: &[u8]) -> Result<(Position, Contents), CheckpointError> {
    let contents = Contents::decode(bytes, FORMAT)?;
    if !runs.contains(&contents.value::<String>(RUN)?.as_str()) {
        return Err(CheckpointError::Foreign);
    }
    let position = serde_json::from_str(&contents.value::<String>(POSITION)?)?;
    Ok((position, contents))
}

/// Values after some epochs, to go back to.
pub(super) fn snapshots(contents: &Contents, device: Device) -> Snapshots {
    let mut snapshots = Snapshots::new();
    for (name, value) in &contents.tensors {
        let Some((epoch, name)) = name.strip_prefix(SNAPSHOT).and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        let Ok(epoch) = epoch.parse() else { continue };
        snapshots.entry(epoch).or_default().insert(name.to_owned(), value.to_device(device));
    }
    snapshots
}

/// Brings an ensemble that was made for the same phase to where the checkpoint was written.
///
/// # Errors
/// A tensor that is missing or has another shape. The ensemble must not be used then.
pub(super) fn restore(
    ensemble: &mut Ensemble,
    position: &Position,
    contents: &Contents,
) -> Result<(), CheckpointError> {
    let copy = |name: String, target: &Tensor| match contents.tensors.get(&name) {
        Some(found) if found.size() == target.size() && found.kind() == target.kind() => {
            tch::no_grad(|| target.shallow_clone().copy_(found));
            Ok(())
        }
        _ => Err(CheckpointError::Tensor { name }),
    };
    for param in ensemble.saved() {
        copy(format!("param.{}", param.name), &param.value)?;
    }
    for (name, buffer) in ensemble.optimizer().buffers() {
        copy(format!("optimizer.{name}"), buffer)?;
    }
    ensemble.optimizer_mut().set_steps(position.steps);
    Ok(())
}
