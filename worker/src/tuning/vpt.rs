//! Visual Prompt Tuning (Jia et al., ECCV 2022), shallow and deep, with prompts as tokens.
//!
//! Shallow (equations 4–6): `[x₁, Z₁, E₁] = L₁([x₀, P, E₀])`, afterwards the slots `Z` evolve as ordinary tokens.
//! Deep (equation 7): `[xᵢ, _, Eᵢ] = Lᵢ([xᵢ₋₁, Pᵢ₋₁, Eᵢ₋₁])`, each prompted block gets its own prompts in the slots.
//!
//! Both are one function here: n prompted blocks from block `first` on, shallow being n = 1. Behind the last prompted
//! block the slots evolve, or are taken out (`noexpand`). Prompts carry no position embedding. With a projection, P is
//! `W P' + b`, one W for all blocks. Dropout draws a mask per sample, behind the projection. After condensation blocks
//! have different numbers of prompts.

use sweeps::recipe::{self, Deep, Fidelity, Pooling};
use tch::Tensor;

use super::{Entry, Init, Kept, Param, Site, Tuning, dropped, insert, per_member, per_sample};
use crate::backbone::Backbone;
use crate::vit::Arch;

#[derive(Debug)]
pub(super) struct Vpt {
    /// `[K, n, P, d]`; index 0 of n belongs to block `first`. `[K, ΣP, d]` where blocks differ in P.
    prompt: Param,
    /// W `[K, D, d]` and b `[K, D]`.
    projection: Option<(Param, Param)>,
    /// Prompts of each prompted block.
    lengths: Vec<i64>,
    first: usize,
    dropout: f64,
    is_shared: bool,
    is_removed: bool,
    /// The first prompts overwrite patches instead of being inserted: the VPT code's slip in reverse-deep runs.
    overwrites: bool,
    pooling: Pooling,
    drop_path: f64,
    /// Whether what starts at random is trained.
    is_trained: bool,
}

impl Vpt {
    pub(super) fn new(method: &recipe::Vpt, arch: &Arch, init: &Init<'_>, kept: Option<&Kept>) -> Vpt {
        let Deep { shared, noexpand, .. } = method.deep.unwrap_or_default();
        let length = i64::from(method.prompt_length);
        let blocks = method.blocks(arch.depth) as usize;
        let (dim, width) = (i64::from(arch.dim), i64::from(method.project.unwrap_or(arch.dim)));
        let lengths: Vec<i64> = (0..blocks)
            .map(|i| kept.and_then(|kept| kept.of(i)).map_or(length, |tokens| tokens.len() as i64))
            .collect();
        let stored = if shared { &lengths[..1] } else { &lengths[..] };
        let shape = if lengths.iter().all(|&n| n == lengths[0]) {
            vec![stored.len() as i64, lengths[0], width]
        } else {
            vec![stored.iter().sum(), width]
        };
        let param = |name: &str, value: Tensor| {
            if method.is_trained { Param::new(name, value) } else { Param::constant(name, value) }
        };
        // Kaiming normal, fan out: N(0, 2/D); the bias as torch's linear layers start.
        let bound = (width as f64).sqrt().recip();
        let projection = method.project.map(|_| {
            let weight = init.normal("prompt_proj.weight", (2.0 / dim as f64).sqrt(), &[dim, width]);
            let bias = init.uniform("prompt_proj.bias", (-bound, bound), &[dim]);
            (param("prompt_proj.weight", weight), param("prompt_proj.bias", bias))
        });
        Vpt {
            prompt: param("prompt", init.prompt(arch.patch_size, width, &shape)),
            projection,
            lengths,
            first: method.insertion_depth as usize,
            dropout: method.prompt_dropout,
            is_shared: shared,
            is_removed: noexpand,
            overwrites: method.deep.is_some()
                && method.fidelity == Fidelity::Code
                && method.insertion_depth > 0,
            pooling: method.pooling,
            drop_path: 0.0,
            is_trained: method.is_trained,
        }
    }

    /// The same with stochastic depth in the frozen blocks.
    pub(super) fn with_drop_path(self, drop_path: f64) -> Vpt {
        Vpt { drop_path, ..self }
    }

    /// Index of a block among the prompted ones and those behind them; `None` before the first.
    fn index(&self, layer: usize) -> Option<usize> {
        layer.checked_sub(self.first)
    }

    /// Prompts of prompted block `i`, `[K, P, D]`.
    fn prompts(&self, i: usize) -> Tensor {
        let i = if self.is_shared { 0 } else { i };
        let (start, length) = (self.lengths[..i].iter().sum(), self.lengths[i]);
        let value = &self.prompt.value;
        let flat = value.reshape([value.size()[0], -1, value.size()[value.dim() - 1]]); // [K, ΣP, d]
        let p = flat.narrow(1, start, length);
        match &self.projection {
            None => p,
            Some((weight, bias)) => per_member(&p, &weight.value, Some(&bias.value)),
        }
    }

    /// The sequence entering a block, its prompts `[K·B, P, D]` passed through `change` behind dropout.
    pub(super) fn enter(&self, x: Tensor, at: Site<'_>, change: impl Fn(Tensor) -> Tensor) -> Tensor {
        let Some(i) = self.index(at.layer) else { return x };
        let standing = if i > 0 { self.lengths.get(i - 1).copied() } else { None };
        if i < self.lengths.len() {
            let batch = x.size()[0] / at.step.members;
            let p = change(dropped(per_sample(&self.prompts(i), batch), self.dropout, at));
            let replaced = if i == 0 && self.overwrites { self.lengths[0] } else { standing.unwrap_or(0) };
            return insert(&x, &p, replaced);
        }
        match standing {
            Some(slots) if self.is_removed => {
                let rest = x.size()[1] - 1 - slots;
                Tensor::cat(&[x.narrow(1, 0, 1), x.narrow(1, 1 + slots, rest)], 1)
            }
            _ => x,
        }
    }

    fn tensors(&self) -> Vec<Param> {
        let projection = self.projection.iter().flat_map(|(weight, bias)| [weight, bias]);
        std::iter::once(&self.prompt).chain(projection).map(Param::share).collect()
    }

    /// Slots behind the last block.
    fn slots(&self, depth: usize) -> i64 {
        let is_gone = self.is_removed && self.first + self.lengths.len() < depth;
        if is_gone { 0 } else { self.lengths.last().copied().unwrap_or(0) }
    }
}

impl Tuning for Vpt {
    fn params(&self) -> Vec<Param> {
        if self.is_trained { self.tensors() } else { Vec::new() }
    }

    fn buffers(&self) -> Vec<Param> {
        if self.is_trained { Vec::new() } else { self.tensors() }
    }

    fn entry(&self) -> Entry {
        Entry::Block(self.first)
    }

    fn drop_path(&self) -> f64 {
        self.drop_path
    }

    fn tokens(&self, x: Tensor, at: Site<'_>) -> Tensor {
        self.enter(x, at, |p| p)
    }

    fn pool(&self, backbone: &Backbone, x: &Tensor) -> Tensor {
        pooled(self.pooling, self.slots(backbone.arch().depth() as usize), backbone, x)
    }
}

/// The pooling ablations (`VIT_POOL_TYPE` of the VPT code) on tokens with `slots` prompts behind CLS.
pub(super) fn pooled(pooling: Pooling, slots: i64, backbone: &Backbone, x: &Tensor) -> Tensor {
    let tokens = x.size()[1];
    let Some(vit) = backbone.vit() else { return backbone.pool(x) };
    match pooling {
        Pooling::Original => vit.pool(x),
        Pooling::Image => vit.pool_mean(&x.narrow(1, 1 + slots, tokens - 1 - slots)),
        Pooling::Prompt => vit.pool_mean(&x.narrow(1, 1, slots)),
        Pooling::ImagePrompt => vit.pool_mean(&x.narrow(1, 1, tokens - 1)),
    }
}
