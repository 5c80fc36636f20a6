//! E²VPT (Han et al., ICCV 2023): visual prompts in every block, key-value prompts in its attention, and masks that say
//! which tokens and which segments of tokens can go.
//!
//! `K ← [P_K; K]`, `V ← [P_V; V]` in every head, behind the projections (equation 4 of the paper; P_K = P_V as the code
//! has it by default). Queries stay, so the sequence does not grow. `P̃ = ρ_token · ρ_segment · P` (equations 5 and 6):
//! the masks multiply prompts behind dropout and are shared by all blocks. Segment s of S owns the dimensions s, s + S,
//! s + 2S, … (the code's `repeat`).
//!
//! Paper: masks are constant, and pruned tokens are taken out. Code: the optimiser trains the masks until they are
//! pruned, and a pruned token stays in the sequence as a zero vector, which takes attention.

use sweeps::recipe::{self, Deep, Fidelity, KvBlocks, KvPosition};
use tch::Tensor;

use super::vpt::Vpt;
use super::{Entry, Init, Kept, Param, Site, Tuning, attention, per_sample};
use crate::backbone::Backbone;
use crate::vit::Arch;

#[derive(Debug)]
pub(super) struct E2vpt {
    prompts: Vpt,
    /// Keys' prompts, and values' unless they are the same: `[K, L or 1, H, V, d]`.
    keys: Param,
    values: Option<Param>,
    position: KvPosition,
    /// `[K, P]`.
    token_mask: Param,
    /// `[K, P, S]`.
    segment_mask: Param,
    is_mask_trained: bool,
}

impl E2vpt {
    pub(super) fn new(method: &recipe::E2vpt, arch: &Arch, init: &Init<'_>, kept: Option<&Kept>) -> E2vpt {
        let is_code = method.fidelity == Fidelity::Code;
        let vpt = recipe::Vpt {
            prompt_dropout: method.prompt_dropout,
            deep: Some(Deep::default()),
            ..recipe::Vpt::shallow(method.prompt_length)
        };
        let prompts = Vpt::new(&vpt, arch, init, kept.filter(|_| !is_code));

        let blocks = if method.kv_blocks == KvBlocks::All { i64::from(arch.depth) } else { 1 };
        let (heads, length) = (i64::from(arch.heads), i64::from(method.kv_prompt_length));
        let head_dim = i64::from(arch.dim / arch.heads);
        // Xavier uniform of the code on one block's [V, d]-shaped tensor: v = √(6 / (V·d)).
        let bound = (6.0 / (length * head_dim).max(1) as f64).sqrt();
        let kv = |name: &str| {
            Param::new(name, init.uniform(name, (-bound, bound), &[blocks, heads, length, head_dim]))
        };
        let (keys, values) = if method.kv_share {
            (kv("kv_prompt"), None)
        } else {
            (kv("kv_prompt.k"), Some(kv("kv_prompt.v")))
        };

        let is_mask_trained = is_code && kept.is_none();
        let (token_mask, segment_mask) = masks(method, init, kept, is_code);
        let mask = |name: &str, value: Tensor| {
            if is_mask_trained { Param::new(name, value) } else { Param::constant(name, value) }
        };
        E2vpt {
            prompts,
            keys,
            values,
            position: method.kv_position,
            token_mask: mask("token_mask", token_mask),
            segment_mask: mask("piece_mask", segment_mask),
            is_mask_trained,
        }
    }

    /// Keys or values `[K·B, H, T, d]` with a block's prompts beside them.
    fn extended(&self, x: &Tensor, prompts: &Param, at: Site<'_>) -> Tensor {
        let layer = at.layer as i64;
        if layer >= prompts.value.size()[1] {
            return x.shallow_clone();
        }
        let p = per_sample(&prompts.value.select(1, layer), x.size()[0] / at.step.members); // [K·B, H, V, d]
        match self.position {
            KvPosition::Before => Tensor::cat(&[&p, x], 2),
            KvPosition::After => Tensor::cat(&[x, &p], 2),
        }
    }

    /// ρ_token · ρ_segment · P, of prompts `[K·B, P, D]`.
    fn masked(&self, p: &Tensor, at: Site<'_>) -> Tensor {
        let batch = p.size()[0] / at.step.members;
        let segments = self.segment_mask.value.size()[2];
        let wide = self.segment_mask.value.repeat([1, 1, p.size()[2] / segments]); // [K, P, D]
        let mask = wide * self.token_mask.value.unsqueeze(2);
        p * per_sample(&mask, batch)
    }
}

/// The masks `[K, P]` and `[K, P, S]`: ones, or what pruning left.
fn masks(method: &recipe::E2vpt, init: &Init<'_>, kept: Option<&Kept>, is_code: bool) -> (Tensor, Tensor) {
    let (length, segments) = (i64::from(method.prompt_length), i64::from(method.segments));
    let Some(kept) = kept else {
        return (init.constant(1.0, &[length]), init.constant(1.0, &[length, segments]));
    };
    let members = init.members();
    let ready = |mask: &Tensor| {
        let shape = [&[members], mask.size().as_slice()].concat();
        mask.to_kind(init.kind).to_device(init.device).unsqueeze(0).expand(shape, false).contiguous()
    };
    let segment_mask = match &kept.segments {
        Some(mask) => ready(mask),
        None => init.constant(1.0, &[length, segments]),
    };
    match kept.of(0).filter(|_| !is_code) {
        None => (ready(&kept.token_mask(length)), segment_mask),
        Some(tokens) => {
            let rows = Tensor::from_slice(tokens).to_device(init.device);
            (init.constant(1.0, &[tokens.len() as i64]), segment_mask.index_select(1, &rows))
        }
    }
}

impl Tuning for E2vpt {
    fn params(&self) -> Vec<Param> {
        let mut all = self.prompts.params();
        all.extend(std::iter::once(&self.keys).chain(&self.values).map(Param::share));
        if self.is_mask_trained {
            all.extend(self.masks());
        }
        all
    }

    fn buffers(&self) -> Vec<Param> {
        if self.is_mask_trained { Vec::new() } else { self.masks() }
    }

    fn masks(&self) -> Vec<Param> {
        vec![self.token_mask.share(), self.segment_mask.share()]
    }

    fn entry(&self) -> Entry {
        Entry::Block(0)
    }

    fn tokens(&self, x: Tensor, at: Site<'_>) -> Tensor {
        self.prompts.enter(x, at, |p| self.masked(&p, at))
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, at: Site<'_>) -> Tensor {
        let values = self.values.as_ref().unwrap_or(&self.keys);
        attention(q, &self.extended(k, &self.keys, at), &self.extended(v, values, at))
    }

    fn pool(&self, backbone: &Backbone, x: &Tensor) -> Tensor {
        self.prompts.pool(backbone, x)
    }
}
