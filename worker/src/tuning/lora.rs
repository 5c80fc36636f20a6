//! LoRA (Hu et al., ICLR 2022) on queries and values: `W ← W + α/r · B A`, A ~ N(0, 1/r²), B = 0.

use tch::Tensor;

use super::{Entry, Init, Param, Site, Tuning, per_member};
use crate::vit::Arch;

#[derive(Debug)]
pub(super) struct Lora {
    /// Per block A `[K, r, D]` and B `[K, D, r]` of the queries, then of the values.
    blocks: Vec<[Param; 4]>,
    /// α/r.
    scale: f64,
}

impl Lora {
    pub(super) fn new(rank: u32, alpha: f64, arch: &Arch, init: &Init<'_>) -> Lora {
        let (dim, r) = (i64::from(arch.dim), i64::from(rank));
        let down = |name: String| {
            let value = init.normal(&name, (r as f64).recip(), &[r, dim]);
            Param::new(name, value)
        };
        let up = |name: String| Param::new(name, init.constant(0.0, &[dim, r]));
        let block = |i: u32| {
            let name = |part: &str| format!("lora.{i}.{part}.weight");
            [down(name("q.down")), up(name("q.up")), down(name("v.down")), up(name("v.up"))]
        };
        Lora { blocks: (0..arch.depth).map(block).collect(), scale: alpha / f64::from(rank) }
    }
}

impl Tuning for Lora {
    fn params(&self) -> Vec<Param> {
        self.blocks.iter().flatten().map(Param::share).collect()
    }

    fn entry(&self) -> Entry {
        Entry::Block(0)
    }

    fn qkv(&self, y: &Tensor, qkv: Tensor, at: Site<'_>) -> Tensor {
        let [qa, qb, va, vb] = &self.blocks[at.layer];
        let update =
            |a: &Param, b: &Param| per_member(&per_member(y, &a.value, None), &b.value, None) * self.scale;
        let q = update(qa, qb); // [K·B, T, D]
        qkv + Tensor::cat(&[&q, &q.zeros_like(), &update(va, vb)], 2)
    }
}
