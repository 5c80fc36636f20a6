//! The whole backbone, in three pieces that a trainer can run apart: embedding, blocks, pooling.

use std::ops::Range;

use tch::Tensor;

use super::block::Block;
use super::{Arch, Pool, resize_positions};
use crate::backbone::{LayerNorm, Weights};
use crate::tuning::{Step, Tuning};

/// A frozen pre-norm ViT.
#[derive(Debug)]
pub struct Vit {
    arch: Arch,
    cls_token: Tensor,
    pos_embed: Tensor,
    /// `[D, 3·p·p]`.
    patch_weight: Tensor,
    patch_bias: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Vit {
    /// Builds the backbone from weights that were checked against `arch`.
    pub fn new(arch: Arch, mut weights: Weights) -> Vit {
        let w = &mut weights;
        Vit {
            cls_token: w.take("cls_token"),
            pos_embed: w.take("pos_embed"),
            patch_weight: w.take("patch_embed.proj.weight").reshape([i64::from(arch.dim), -1]),
            patch_bias: w.take("patch_embed.proj.bias"),
            blocks: (0..arch.depth as usize).map(|i| Block::new(w, i, &arch)).collect(),
            norm: LayerNorm::new(w, arch.pool.norm(), arch.layer_norm_eps),
            arch,
        }
    }

    /// Images `[B, 3, S, S]`, normalised, to the tokens entering block 0, `[B, 1+N, D]`:
    /// `[CLS, patches] + positions`, the position table brought to the grid of the images.
    ///
    /// The patch embedding is a convolution whose stride is its width, so it is written as one matrix product. Rows and
    /// columns beyond the last whole patch are left out, as a convolution does.
    pub fn embed(&self, images: &Tensor) -> Tensor {
        let (b, c, s, _) = images.size4().expect("images have four axes");
        let p = i64::from(self.arch.patch_size);
        let g = s / p;
        let patches = images
            .narrow(2, 0, g * p)
            .narrow(3, 0, g * p)
            .reshape([b, c, g, p, g, p])
            .permute([0, 2, 4, 1, 3, 5]) // [B, g, g, 3, p, p]
            .reshape([b, g * g, c * p * p]);
        let x = patches.linear(&self.patch_weight, Some(&self.patch_bias)); // [B, N, D]
        let cls = self.cls_token.expand([b, 1, i64::from(self.arch.dim)], false);
        Tensor::cat(&[cls, x], 1) + resize_positions(&self.pos_embed, g, self.arch.position_resize)
    }

    /// Runs blocks on tokens `[K·B, T, D]` of `members` fused trials.
    pub fn blocks(&self, x: Tensor, range: Range<usize>, tuning: &dyn Tuning, step: Step<'_>) -> Tensor {
        range.fold(x, |x, layer| self.blocks[layer].forward(x, tuning, step.at(layer)))
    }

    /// Tokens after the last block to the head's input, `[K·B, T, D]` → `[K·B, D]`.
    pub fn pool(&self, x: &Tensor) -> Tensor {
        match self.arch.pool {
            Pool::Cls => self.norm.forward(&x.select(1, 0)),
            Pool::MeanNorm | Pool::MeanFcNorm => {
                let rest = x.narrow(1, 1, x.size()[1] - 1);
                self.norm.forward(&rest.mean_dim(1, false, None))
            }
        }
    }
}
