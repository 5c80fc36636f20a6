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
    pub fn forward(&self, x: Tensor, tuning: &dyn Tuning, at: Site<'_>) -> Tensor {
        let x = tuning.tokens(x, at);
        let (a, z) = match &self.layer_scale {
            None => (None, None),
            Some((ls1, ls2)) => (Some(ls1), Some(ls2)),
        };
        let attention = self.attention(&self.norm1.forward(&x), tuning, at);
        let x1 = tuning.attended(&x, &x + branch(scaled(attention, a), "attention", at), at);
        let h = self.mlp(&tuning.mlp_input(&x1, self.norm2.forward(&x1), at), at);
        let x2 = &x1 + branch(scaled(tuning.mlp(h, at), z), "mlp", at);
        tuning.boundary(&x, x2, at)
    }

    /// Self-attention on `[K·B, T, D]`: heads split off, the method's attention, heads joined again.
    fn attention(&self, y: &Tensor, tuning: &dyn Tuning, at: Site<'_>) -> Tensor {
        let (n, t, dim) = y.size3().expect("tokens have three axes");
        let qkv = tuning.qkv(y, self.qkv.forward(y), at);
        let qkv = qkv.reshape([n, t, 3, self.heads, dim / self.heads]).permute([2, 0, 3, 1, 4]); // [3, N, H, T, d]
        let out = tuning.attention(&qkv.get(0), &qkv.get(1), &qkv.get(2), at); // [N, H, T, d]
        self.joined(&out)
    }

    /// Cross-attention with the weights of the block's self-attention: queries of `x` `[N, T, D]`, keys and values of
    /// `context` `[N, P, D]`, neither normalised; returns `[N, T, D]`.
    pub fn cross_attention(&self, x: &Tensor, context: &Tensor) -> Tensor {
        let dim = x.size()[2];
        let project = |x: &Tensor, part: i64| {
            let rows = |t: &Tensor| t.narrow(0, part * dim, dim);
            let (n, t, _) = x.size3().expect("tokens have three axes");
            let y = x.linear(&rows(&self.qkv.weight), Some(&rows(&self.qkv.bias)));
            y.reshape([n, t, self.heads, dim / self.heads]).transpose(1, 2) // [N, H, ·, d]
        };
        let (q, k, v) = (project(x, 0), project(context, 1), project(context, 2));
        self.joined(&Tensor::scaled_dot_product_attention(
            &q,
            &k,
            &v,
            None::<&Tensor>,
            0.0,
            false,
            None,
            false,
        ))
    }

    /// Heads `[N, H, T, d]` side by side through the output projection, `[N, T, D]`.
    fn joined(&self, heads: &Tensor) -> Tensor {
        let (n, h, t, d) = heads.size4().expect("heads have four axes");
        self.proj.forward(&heads.transpose(1, 2).reshape([n, t, h * d]))
    }

    fn mlp(&self, y: &Tensor, at: Site<'_>) -> Tensor {
        let dropped = |x: Tensor, layer: u8| at.step.dropped(x, &format!("dropout mlp {layer} {}", at.layer));
        dropped(self.fc2.forward(&dropped(self.fc1.forward(y).gelu("none"), 1)), 2)
    }
}

fn scaled(x: Tensor, gamma: Option<&Tensor>) -> Tensor {
    match gamma {
        None => x,
        Some(gamma) => x * gamma,
    }
}

/// Stochastic depth: in training a branch is dropped for whole samples, with a rate that grows with the block.
fn branch(x: Tensor, name: &str, at: Site<'_>) -> Tensor {
    let rate = at.step.drop_path * at.layer as f64 / at.depth.saturating_sub(1).max(1) as f64;
    match at.step.noise {
        Some(noise) if rate > 0.0 => noise.drop_path(&x, rate, &format!("drop path {name} {}", at.layer)),
        _ => x,
    }
}
