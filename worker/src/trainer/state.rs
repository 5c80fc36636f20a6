//! Where a run is: everything that the next step depends on, and nothing else. It can be written between any two epochs
//! and read again by another process.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tch::Tensor;

use super::ensemble::Ensemble;

/// Position of a run among its phases. Randomness needs no state: each draw is a function of seed and position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    /// Index into the list of phases.
    pub phase: usize,
    /// Epochs done within the phase.
    pub epoch: u32,
}

/// A checkpoint that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("failed to write the checkpoint {path}")]
    Write { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("failed to read the checkpoint {path}")]
    Read { path: PathBuf, source: tch::TchError },
    #[error("the checkpoint {path} is of another run: `{name}` is missing or has another shape")]
    Other { path: PathBuf, name: String },
}

const POSITION: &str = "position";

impl State {
    /// Writes position, parameters and optimiser buffers to a safetensors file, atomically.
    pub fn save(self, ensemble: &Ensemble, path: &Path) -> Result<(), StateError> {
        let steps = ensemble.optimizer().steps();
        let position = Tensor::from_slice(&[self.phase as i64, i64::from(self.epoch), steps as i64]);
        let mut tensors = vec![(POSITION.to_owned(), position)];
        for param in ensemble.params() {
            tensors.push((format!("param.{}", param.name), param.value.detach()));
        }
        for (name, buffer) in ensemble.optimizer().buffers() {
            tensors.push((format!("optimizer.{name}"), buffer.shallow_clone()));
        }
        let partial = path.with_extension("partial");
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| StateError::Write {
            path: path.to_owned(),
            source,
        };
        Tensor::write_safetensors(&tensors, &partial).map_err(|e| failed(Box::new(e)))?;
        std::fs::rename(&partial, path).map_err(|e| failed(Box::new(e)))
    }

    /// Reads a checkpoint into an ensemble that was made from the same recipe.
    pub fn load(ensemble: &mut Ensemble, path: &Path) -> Result<State, StateError> {
        let tensors: HashMap<String, Tensor> = Tensor::read_safetensors(path)
            .map_err(|source| StateError::Read { path: path.to_owned(), source })?
            .into_iter()
            .collect();
        let copy = |name: String, target: &Tensor| match tensors.get(&name) {
            Some(found) if found.size() == target.size() => {
                tch::no_grad(|| target.shallow_clone().copy_(found));
                Ok(())
            }
            _ => Err(StateError::Other { path: path.to_owned(), name }),
        };
        for param in ensemble.params() {
            copy(format!("param.{}", param.name), &param.value)?;
        }
        for (name, buffer) in ensemble.optimizer().buffers() {
            copy(format!("optimizer.{name}"), buffer)?;
        }
        let numbers = tensors.get(POSITION).and_then(|t| Vec::<i64>::try_from(t).ok()).unwrap_or_default();
        let [phase, epoch, steps] = numbers[..] else {
            return Err(StateError::Other { path: path.to_owned(), name: POSITION.to_owned() });
        };
        let negative = |_| StateError::Other { path: path.to_owned(), name: POSITION.to_owned() };
        ensemble.optimizer_mut().set_steps(u64::try_from(steps).map_err(negative)?);
        Ok(State {
            phase: usize::try_from(phase).map_err(negative)?,
            epoch: u32::try_from(epoch).map_err(negative)?,
        })
    }
}
