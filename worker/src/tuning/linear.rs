//! Linear probing: y = W z + b on the frozen feature z. Trains the head alone.

use super::{Entry, Param, Tuning};
use crate::backbone::Arch;

/// The plain backbone: no hook does anything.
#[derive(Debug)]
pub struct Linear {
    depth: usize,
}

impl Linear {
    pub fn new(arch: &Arch) -> Linear {
        Linear { depth: arch.depth() as usize }
    }
}

impl Tuning for Linear {
    fn params(&self) -> Vec<Param> {
        Vec::new()
    }

    fn entry(&self) -> Entry {
        Entry::Block(self.depth)
    }
}
