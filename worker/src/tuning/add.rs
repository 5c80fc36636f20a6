//! VPT's locations `add` and `add_1`: `x ← x + P`, with one vector for each token (CLS and patches), or one for all.
//!
//! Deep prompts are added to the hidden state that enters each prompted block.

use sweeps::recipe::{self, Location, Pooling};
use tch::Tensor;

use super::vpt::pooled;
use super::{Entry, Init, Param, Site, Tuning, dropped, per_sample};
use crate::backbone::Backbone;
use crate::vit::Arch;

#[derive(Debug)]
pub(super) struct Add {
    /// `[K, n, 1 + N, D]` or `[K, n, 1, D]`.
    prompt: Param,
    first: usize,
    dropout: f64,
    pooling: Pooling,
}

impl Add {
    pub(super) fn new(method: &recipe::Vpt, arch: &Arch, image_size: i64, init: &Init<'_>) -> Add {
        let grid = image_size / i64::from(arch.patch_size);
        let tokens = if method.location == Location::Add { 1 + grid * grid } else { 1 };
        let (blocks, dim) = (i64::from(method.blocks(arch.depth)), i64::from(arch.dim));
        Add {
            prompt: Param::new("prompt", init.prompt(arch.patch_size, dim, &[blocks, tokens, dim])),
            first: method.insertion_depth as usize,
            dropout: method.prompt_dropout,
            pooling: method.pooling,
        }
    }
}

impl Tuning for Add {
    fn params(&self) -> Vec<Param> {
        vec![self.prompt.share()]
    }

    fn entry(&self) -> Entry {
        Entry::Block(self.first)
    }

    fn tokens(&self, x: Tensor, at: Site<'_>) -> Tensor {
        match at.layer.checked_sub(self.first) {
            Some(i) if (i as i64) < self.prompt.value.size()[1] => {
                let batch = x.size()[0] / at.step.members;
                let p = per_sample(&self.prompt.value.select(1, i as i64), batch); // [K·B, 1 + N or 1, D]
                x + dropped(p, self.dropout, at)
            }
            _ => x,
        }
    }

    fn pool(&self, backbone: &Backbone, x: &Tensor) -> Tensor {
        pooled(self.pooling, 0, backbone, x)
    }
}
