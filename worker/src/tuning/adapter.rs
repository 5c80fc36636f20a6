//! Adapters (Pfeiffer et al., EACL 2021) as VPT compares with them: `h ← h + U gelu(D h + b) + c` behind each MLP, before
//! its residual, with a bottleneck of the backbone's width over `reduction`.
//!
//! Paper: D ~ N(0, 0.01²), U = 0. Code (KMnP/vpt): all four are zero, whereby D and U never get a gradient and only c is
//! trained, a vector per block.

use sweeps::recipe::Fidelity;
use tch::Tensor;

use super::{Entry, Init, Param, Site, Tuning, per_member};
use crate::vit::Arch;

#[derive(Debug)]
pub(super) struct Adapter {
    /// Per block D `[K, r, D]`, b `[K, r]`, U `[K, D, r]`, c `[K, D]`.
    blocks: Vec<[Param; 4]>,
}

impl Adapter {
    pub(super) fn new(reduction: u32, fidelity: Fidelity, arch: &Arch, init: &Init<'_>) -> Adapter {
        let (dim, width) = (i64::from(arch.dim), i64::from(arch.dim / reduction));
        let block = |i: u32| {
            let name = |part: &str| format!("adapter.{i}.{part}");
            let down = match fidelity {
                Fidelity::Paper => init.normal(&name("down.weight"), 0.01, &[width, dim]),
                Fidelity::Code => init.constant(0.0, &[width, dim]),
            };
            [
                Param::new(name("down.weight"), down),
                Param::new(name("down.bias"), init.constant(0.0, &[width])),
                Param::new(name("up.weight"), init.constant(0.0, &[dim, width])),
                Param::new(name("up.bias"), init.constant(0.0, &[dim])),
            ]
        };
        Adapter { blocks: (0..arch.depth).map(block).collect() }
    }
}

impl Tuning for Adapter {
    fn params(&self) -> Vec<Param> {
        self.blocks.iter().flatten().map(Param::share).collect()
    }

    fn entry(&self) -> Entry {
        Entry::Block(0)
    }

    fn mlp(&self, h: Tensor, at: Site<'_>) -> Tensor {
        let [down, b, up, c] = &self.blocks[at.layer];
        let z = per_member(&h, &down.value, Some(&b.value)).gelu("none"); // [K·B, T, r]
        h + per_member(&z, &up.value, Some(&c.value))
    }
}
