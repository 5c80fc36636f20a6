//! Linear probing: y = W z + b on the frozen feature z. Trains the head alone.

use super::{Param, Tuning};
use crate::vit::Arch;

/// The plain ViT: no hook does anything.
#[derive(Debug)]
pub struct Linear {
    depth: usize,
}

impl Linear {
    pub fn new(arch: &Arch) -> Linear {
        Linear { depth: arch.depth as usize }
    }
}

impl Tuning for Linear {
    fn params(&self) -> Vec<Param> {
        Vec::new()
    }

    fn first_block(&self) -> usize {
        self.depth
    }
}
