//! What pruning has left of a method's prompts.

use tch::{Device, Kind, Tensor};

/// The prompts that stay. A method is built anew with it; nothing is cut out of tensors that an optimiser holds.
#[derive(Debug, Default)]
pub struct Kept {
    /// Indices of the tokens that stay, ascending: one list for all blocks (E²VPT), or one per prompted block, each of
    /// its own length (prompt condensation). Empty: all stay.
    pub tokens: Vec<Vec<i64>>,
    /// `[P, segments]` of zeros and ones over all P tokens; `None`: all stay.
    pub segments: Option<Tensor>,
}

impl Kept {
    /// The list that applies to prompted block `i`.
    pub(crate) fn of(&self, i: usize) -> Option<&[i64]> {
        self.tokens
            .get(i)
            .or_else(|| self.tokens.first().filter(|_| self.tokens.len() == 1))
            .map(Vec::as_slice)
    }

    /// `[P]` of zeros and ones.
    pub(super) fn token_mask(&self, length: i64) -> Tensor {
        let mask = Tensor::zeros([length], (Kind::Float, Device::Cpu));
        match self.of(0) {
            None => mask.ones_like(),
            Some(kept) => mask.index_fill(0, &Tensor::from_slice(kept), 1.0),
        }
    }
}
