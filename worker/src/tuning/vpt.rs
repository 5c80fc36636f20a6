//! Visual Prompt Tuning (Jia et al., ECCV 2022), shallow and deep.
//!
//! Shallow (equations 4–6): `[x₁, Z₁, E₁] = L₁([x₀, P, E₀])`, afterwards the slots `Z` evolve as ordinary tokens.
//! Deep (equation 7): `[xᵢ, _, Eᵢ] = Lᵢ([xᵢ₋₁, Pᵢ₋₁, Eᵢ₋₁])`, each prompted block gets its own prompts in the slots.
//!
//! Both are one function here: n prompted blocks from block `first` on, shallow being n = 1. Behind the last prompted
//! block the slots evolve. Prompts carry no position embedding. Dropout draws a mask per sample.

use tch::Tensor;

use super::{Entry, Param, Site, Tuning, insert, per_sample};

#[derive(Debug)]
pub(super) struct Vpt {
    /// `[K, n, P, D]`; index 0 of n belongs to block `first`.
    prompt: Param,
    first: usize,
    dropout: f64,
}

impl Vpt {
    pub(super) fn new(prompt: Tensor, first: usize, dropout: f64) -> Vpt {
        Vpt { prompt: Param::new("prompt", prompt, true), first, dropout }
    }
}

impl Tuning for Vpt {
    fn params(&self) -> Vec<Param> {
        vec![self.prompt.share()]
    }

    fn entry(&self) -> Entry {
        Entry::Block(self.first)
    }

    fn tokens(&self, x: Tensor, at: Site<'_>) -> Tensor {
        let (blocks, length) = (self.prompt.value.size()[1], self.prompt.value.size()[2]);
        let i = at.layer as i64 - self.first as i64;
        if !(0..blocks).contains(&i) {
            return x;
        }
        let batch = x.size()[0] / at.step.members;
        let p = per_sample(&self.prompt.value.select(1, i), batch); // [K·B, P, D]
        insert(&x, &dropped(p, self.dropout, at), if i == 0 { 0 } else { length })
    }
}

/// Prompt dropout, in training only.
pub(super) fn dropped(p: Tensor, rate: f64, at: Site<'_>) -> Tensor {
    match at.step.noise {
        Some(noise) if rate > 0.0 => noise.dropout(&p, rate, at.layer),
        _ => p,
    }
}
