//! One pre-norm transformer block with the hook sites of [`Tuning`].

use tch::Tensor;

use super::Arch;
use crate::backbone::{LayerNorm, Linear, Weights};
use crate::tuning::{Site, Tuning};

/// A block: `x₁ = x + ls₁·attn(norm₁ x)`, `x₂ = x₁ + ls₂·mlp(norm₂ x₁)`.
#[derive(Debug)]
pub struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    /// `ls1.gamma` and `ls2.gamma`.
    layer_scale: Option<(Tensor, Tensor)>,
    heads: i64,
}

impl Block {
    pub(super) fn new(weights: &mut Weights, index: usize, arch: &Arch) -> Block {
        let name = |part: &str| format!("blocks.{index}.{part}");
        Block {
            norm1: LayerNorm::new(weights, &name("norm1"), arch.layer_norm_eps),
            qkv: Linear::new(weights, &name("attn.qkv")),
            proj: Linear::new(weights, &name("attn.proj")),
            norm2: LayerNorm::new(weights, &name("norm2"), arch.layer_norm_eps),
            fc1: Linear::new(weights, &name("mlp.fc1")),
            fc2: Linear::new(weights, &name("mlp.fc2")),
            layer_scale: arch
                .layer_scale
                .then(|| (weights.take(&name("ls1.gamma")), weights.take(&name("ls2.gamma")))),
            heads: i64::from(arch.heads),
        }
    }

    /// The block with a method's hooks. `x`: `[K·B, T, D]`, members first; returns `[K·B, T', D]`.
    pub fn forward(&self, x: Tensor, tuning: &dyn Tuning, at: Site) -> Tensor {
        let x = tuning.tokens(x, at);
        let (a, z) = match &self.layer_scale {
            None => (None, None),
            Some((ls1, ls2)) => (Some(ls1), Some(ls2)),
        };
        let x1 = &x + scaled(self.attention(&self.norm1.forward(&x), tuning, at), a);
        let x2 = &x1 + scaled(tuning.mlp(self.mlp(&self.norm2.forward(&x1)), at), z);
        tuning.boundary(&x, x2, at)
    }

    /// Self-attention on `[K·B, T, D]`: heads split off, the method's attention, heads joined again.
    fn attention(&self, y: &Tensor, tuning: &dyn Tuning, at: Site) -> Tensor {
        let (n, t, dim) = y.size3().expect("tokens have three axes");
        let qkv = self.qkv.forward(y).reshape([n, t, 3, self.heads, dim / self.heads]); // [N, T, 3, H, d]
        let qkv = qkv.permute([2, 0, 3, 1, 4]); // [3, N, H, T, d]
        let out = tuning.attention(&qkv.get(0), &qkv.get(1), &qkv.get(2), at); // [N, H, T, d]
        self.proj.forward(&out.transpose(1, 2).reshape([n, t, dim]))
    }

    fn mlp(&self, y: &Tensor) -> Tensor {
        self.fc2.forward(&self.fc1.forward(y).gelu("none"))
    }
}

fn scaled(x: Tensor, gamma: Option<&Tensor>) -> Tensor {
    match gamma {
        None => x,
        Some(gamma) => x * gamma,
    }
}
