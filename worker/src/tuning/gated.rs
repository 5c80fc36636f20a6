//! Gated Prompt Tuning (Yoo et al., ICML 2023), for self-supervised ViTs.
//!
//! One set of prompts goes through all blocks, and a gate per block decides how much of it the block may rewrite:
//! `P ← g · P_out + (1 − g) · P_in`, `g = σ(γ)`, for every block but the last (section 3.2 of the paper).
//! Attention is sharpened or softened per block by a learned temperature: `softmax(Q Kᵀ / (√d · τ))` (section 3.3).
//!
//! The gate's logit starts at −`gate_init`. As in the authors' code, τ itself is clamped to [0.01, 10] at the start of
//! every forward pass, so that the optimiser steps from the clamped value.

use tch::Tensor;

use super::{Entry, Init, Param, Site, Tuning, attention, dropped, insert, per_sample};
use crate::vit::Arch;

#[derive(Debug)]
pub(super) struct Gated {
    /// `[K, 1, P, D]`.
    prompt: Param,
    /// γ, `[K, L − 1 − first]`: blocks `first` to L − 2. Absent when the prompts enter the last block.
    gate_logit: Option<Param>,
    /// τ, `[K, L − first]`: blocks `first` to L − 1.
    temperature: Option<Param>,
    first: usize,
    dropout: f64,
}

impl Gated {
    pub(super) fn new(
        prompt: Tensor,
        first: usize,
        dropout: f64,
        gate_init: f64,
        temperature: bool,
        arch: &Arch,
        init: &Init<'_>,
    ) -> Gated {
        let blocks = arch.depth as i64 - first as i64;
        let gates = (blocks > 1).then(|| init.constant(-gate_init, &[blocks - 1]));
        Gated {
            prompt: Param::new("prompt", prompt),
            gate_logit: gates.map(|value| Param::new("gate_logit", value)),
            temperature: temperature.then(|| Param::new("temperature", init.constant(1.0, &[blocks]))),
            first,
            dropout,
        }
    }

    /// Index of a block among those behind the insertion; `None` before it.
    fn index(&self, layer: usize) -> Option<i64> {
        layer.checked_sub(self.first).map(|i| i as i64)
    }
}

impl Tuning for Gated {
    fn params(&self) -> Vec<Param> {
        let optional = [&self.gate_logit, &self.temperature];
        std::iter::once(&self.prompt).chain(optional.into_iter().flatten()).map(Param::share).collect()
    }

    fn entry(&self) -> Entry {
        Entry::Block(self.first)
    }

    fn constrain(&self) {
        if let Some(temperature) = &self.temperature {
            let _ = tch::no_grad(|| temperature.value.shallow_clone().clamp_(0.01, 10.0));
        }
    }

    fn tokens(&self, x: Tensor, at: Site<'_>) -> Tensor {
        if at.layer != self.first {
            return x;
        }
        let p = per_sample(&self.prompt.value.select(1, 0), x.size()[0] / at.step.members); // [K·B, P, D]
        insert(&x, &dropped(p, self.dropout, at), 0)
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, at: Site<'_>) -> Tensor {
        let (Some(tau), Some(i)) = (&self.temperature, self.index(at.layer)) else {
            return attention(q, k, v);
        };
        let tau = per_sample(&tau.value.select(1, i), q.size()[0] / at.step.members).reshape([-1, 1, 1, 1]);
        // Not the fused kernel on q/τ: at τ near its lower bound the gradient of τ is a difference of large numbers, and
        // dividing the scores keeps two digits more of it (golden case gated_clamp_low).
        let d = q.size()[3] as f64;
        let scores = q.matmul(&k.transpose(-2, -1)) / d.sqrt() / tau; // [K·B, H, T, T]
        scores.softmax(-1, scores.kind()).matmul(v)
    }

    fn boundary(&self, entered: &Tensor, computed: Tensor, at: Site<'_>) -> Tensor {
        let (Some(gate), Some(i)) = (&self.gate_logit, self.index(at.layer)) else { return computed };
        if i >= gate.value.size()[1] {
            return computed;
        }
        let batch = computed.size()[0] / at.step.members;
        let g = per_sample(&gate.value.select(1, i).sigmoid(), batch).reshape([-1, 1, 1]); // [K·B, 1, 1]
        let length = self.prompt.value.size()[2];
        let slots = |x: &Tensor| x.narrow(1, 1, length);
        let mixed = &g * slots(&computed) + (1.0 - &g) * slots(entered);
        insert(&computed, &mixed, length)
    }
}
