//! Cross Visual Prompt Tuning (ICCV 2025): a block attends to prompts through a frozen copy of its own attention, so the
//! sequence does not grow.
//!
//! `CA(x) = MHA(Q = x, K = V = Pᵢ)` with the weights of block i's self-attention and no norm. It joins the block at one of
//! five places; by default `x ← x + SA(LN₁ x)`, `x ← x + CA(x)`, `x ← x + MLP(LN₂ x)`.

use sweeps::recipe::{self, CrossInsertion};
use tch::Tensor;

use super::{Entry, Init, Param, Site, Tuning, dropped, per_sample};
use crate::vit::Arch;

#[derive(Debug)]
pub(super) struct Cvpt {
    /// `[K, L, P, D]`.
    prompt: Param,
    insertion: CrossInsertion,
    dropout: f64,
    drop_path: f64,
}

impl Cvpt {
    pub(super) fn new(method: &recipe::Cvpt, arch: &Arch, init: &Init<'_>) -> Cvpt {
        let shape = [i64::from(arch.depth), i64::from(method.prompt_length), i64::from(arch.dim)];
        // Xavier uniform as torch counts the fans of a tensor with three axes: in P·D, out L·D.
        let fans = shape[2] * (shape[0] + shape[1]);
        let bound = (6.0 / fans as f64).sqrt();
        Cvpt {
            prompt: Param::new("prompt", init.uniform("prompt", (-bound, bound), &shape)),
            insertion: method.insertion,
            dropout: method.prompt_dropout,
            drop_path: method.drop_path,
        }
    }

    /// `to + CA(x)` if the method joins the block `here`.
    fn join(&self, here: CrossInsertion, x: &Tensor, to: Tensor, at: Site<'_>) -> Tensor {
        if here != self.insertion {
            return to;
        }
        let batch = x.size()[0] / at.step.members;
        let p = per_sample(&self.prompt.value.select(1, at.layer as i64), batch); // [K·B, P, D]
        to + at.block.cross_attention(x, &dropped(p, self.dropout, at))
    }
}

impl Tuning for Cvpt {
    fn params(&self) -> Vec<Param> {
        vec![self.prompt.share()]
    }

    fn entry(&self) -> Entry {
        Entry::Block(0)
    }

    fn drop_path(&self) -> f64 {
        self.drop_path
    }

    fn tokens(&self, x: Tensor, at: Site<'_>) -> Tensor {
        let same = x.shallow_clone();
        self.join(CrossInsertion::BeforeAttention, &x, same, at)
    }

    fn attended(&self, entered: &Tensor, computed: Tensor, at: Site<'_>) -> Tensor {
        let x = self.join(CrossInsertion::Parallel, entered, computed, at);
        let same = x.shallow_clone();
        self.join(CrossInsertion::AfterAttention, &x, same, at)
    }

    fn mlp_input(&self, x: &Tensor, y: Tensor, at: Site<'_>) -> Tensor {
        self.join(CrossInsertion::IntoMlp, x, y, at)
    }

    fn boundary(&self, _entered: &Tensor, computed: Tensor, at: Site<'_>) -> Tensor {
        let same = computed.shallow_clone();
        self.join(CrossInsertion::AfterMlp, &computed, same, at)
    }
}
