//! Linear probing: y = W z + b on the frozen feature z. Trains the head alone.
//!
//! The same, with dropout inside the backbone, is what `full` and others have that train the backbone's own tensors.

use super::{Entry, Param, Tuning};
use crate::backbone::Arch;

/// The plain backbone: no hook does anything.
#[derive(Debug)]
pub struct Linear {
    depth: usize,
    dropout: f64,
    drop_path: f64,
}

impl Linear {
    pub fn new(arch: &Arch) -> Linear {
        Linear { depth: arch.depth() as usize, dropout: 0.0, drop_path: 0.0 }
    }

    /// The same with dropout and stochastic depth inside the backbone, in training.
    pub(super) fn with_noise(self, dropout: f64, drop_path: f64) -> Linear {
        Linear { dropout, drop_path, ..self }
    }
}

impl Tuning for Linear {
    fn params(&self) -> Vec<Param> {
        Vec::new()
    }

    fn dropout(&self) -> f64 {
        self.dropout
    }

    fn drop_path(&self) -> f64 {
        self.drop_path
    }

    fn entry(&self) -> Entry {
        Entry::Block(self.depth)
    }
}
