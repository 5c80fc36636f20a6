//! The whole backbone, in three pieces that a trainer can run apart: embedding, blocks, pooling.

use std::ops::Range;

use tch::Tensor;

use super::block::Block;
use super::{Arch, Pool, resize_positions};
use crate::backbone::{LayerNorm, Weights};
use crate::tuning::{Site, Step, Tuning};

/// A frozen pre-norm ViT.
#[derive(Debug)]
pub struct Vit {
    arch: Arch,
    cls_token: Tensor,
    pos_embed: Tensor,
    /// `[D, C, p, p]`; C is 3 unless a method gives images more channels.
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
            patch_weight: w.take("patch_embed.proj.weight"),
            patch_bias: w.take("patch_embed.proj.bias"),
            blocks: (0..arch.depth as usize).map(|i| Block::new(w, i, &arch)).collect(),
            norm: LayerNorm::new(w, arch.pool.norm(), arch.layer_norm_eps),
            arch,
        }
    }

    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// The patch embedding of images `[B, 3, S, S]`, normalised: `[B, N, D]`.
    ///
    /// It is a convolution whose stride is its width, so it is written as one matrix product. Rows and columns beyond the
    /// last whole patch are left out, as a convolution does.
    pub fn patches(&self, images: &Tensor) -> Tensor {
        let (b, c, s, _) = images.size4().expect("images have four axes");
        let p = i64::from(self.arch.patch_size);
        let g = s / p;
        let patches = images
            .narrow(2, 0, g * p)
            .narrow(3, 0, g * p)
            .reshape([b, c, g, p, g, p])
            .permute([0, 2, 4, 1, 3, 5]) // [B, g, g, 3, p, p]
            .reshape([b, g * g, c * p * p]);
        let weight = self.patch_weight.reshape([i64::from(self.arch.dim), -1]); // [D, C·p·p]
        patches.linear(&weight, Some(&self.patch_bias))
    }

    /// Images `[B, 3, S, S]`, normalised, to the tokens entering block 0, `[B, 1+N, D]`:
    /// `[CLS, patches] + positions`, the position table brought to the grid of the images.
    pub fn embed(&self, images: &Tensor) -> Tensor {
        let x = self.patches(images);
        let g = images.size()[3] / i64::from(self.arch.patch_size);
        let cls = self.cls_token.expand([x.size()[0], 1, x.size()[2]], false);
        Tensor::cat(&[cls, x], 1) + resize_positions(&self.pos_embed, g, self.arch.position_resize)
    }

    /// Runs blocks on tokens `[K·B, T, D]` of `members` fused trials.
    pub fn blocks(&self, x: Tensor, range: Range<usize>, tuning: &dyn Tuning, step: Step<'_>) -> Tensor {
        let depth = self.blocks.len();
        range.fold(x, |x, layer| {
            let block = &self.blocks[layer];
            block.forward(x, tuning, Site { layer, depth, block, step })
        })
    }

    /// Tokens after the last block to the head's input, `[K·B, T, D]` → `[K·B, D]`.
    pub fn pool(&self, x: &Tensor) -> Tensor {
        match self.arch.pool {
            Pool::Cls => self.norm.forward(&x.select(1, 0)),
            Pool::MeanNorm | Pool::MeanFcNorm => self.pool_mean(&x.narrow(1, 1, x.size()[1] - 1)),
        }
    }

    /// The mean of some of the tokens, `[K·B, n, D]` → `[K·B, D]`. The norm comes before the mean where CLS usually
    /// feeds the head, and behind it where the mean does.
    pub fn pool_mean(&self, x: &Tensor) -> Tensor {
        match self.arch.pool {
            Pool::Cls => self.norm.forward(x).mean_dim(1, false, None),
            Pool::MeanNorm | Pool::MeanFcNorm => self.norm.forward(&x.mean_dim(1, false, None)),
        }
    }
}
