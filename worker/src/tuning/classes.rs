//! VPT's prompts of classes (its ablation of how prompts start): one prompt for each class, the mean of the class token over
//! the class's training images, in a pass without prompts.
//!
//! With h₀ what enters block 0 and hᵢ what block i − 1 hands on, before the last norm, the prompts of block i start from h_L
//! (`class_final`), from hᵢ (`class_entering`) or from hᵢ₊₁ (`class_leaving`). The authors read the means from a file;
//! here they are computed from the images that the trial trains on.

use sweeps::recipe::{PromptInit, Vpt};
use tch::{Kind, Tensor};

use super::{Linear, Step};
use crate::backbone::Backbone;

/// Images in one forward pass.
const CHUNK: i64 = 16;

/// The prompts `[n, C, D]` of the blocks that `method` prompts. `labels`: `[N]`, of the training set, in which every class
/// occurs; `images` gives its normalised images `[b, 3, S, S]` by index.
pub fn prompts(
    method: &Vpt,
    backbone: &Backbone,
    labels: &Tensor,
    images: impl Fn(&[i64]) -> Tensor,
) -> Tensor {
    let means = means(backbone, i64::from(method.prompt_length), labels, images);
    let depth = backbone.arch().depth();
    let first = i64::from(method.insertion_depth);
    let blocks = first..first + i64::from(method.blocks(depth));
    let rows = blocks.map(|block| match method.init {
        PromptInit::ClassEntering => means.get(block),
        PromptInit::ClassLeaving => means.get(block + 1),
        _ => means.get(i64::from(depth)),
    });
    Tensor::stack(&rows.collect::<Vec<_>>(), 0)
}

/// The mean class token of each class at h₀ … h_L: `[L + 1, C, D]`.
fn means(backbone: &Backbone, classes: i64, labels: &Tensor, images: impl Fn(&[i64]) -> Tensor) -> Tensor {
    let arch = backbone.arch();
    let (depth, dim) = (arch.depth() as usize, i64::from(arch.dim()));
    let (kind, device) = backbone.options();
    let plain = Linear::new(arch);
    let mut sums = Tensor::zeros([depth as i64 + 1, classes, dim], (Kind::Double, device));
    let n = labels.size()[0];
    tch::no_grad(|| {
        for start in (0..n).step_by(CHUNK as usize) {
            let index: Vec<i64> = (start..n.min(start + CHUNK)).collect();
            let mut x = backbone.embed(&images(&index));
            let mut tokens = vec![x.select(1, 0)];
            for block in 0..depth {
                x = backbone.blocks(x, block..block + 1, &plain, Step::evaluation(1));
                tokens.push(x.select(1, 0));
            }
            let tokens = Tensor::stack(&tokens, 0).to_kind(Kind::Double); // [L + 1, b, D]
            let of = labels.narrow(0, start, index.len() as i64).to_device(device);
            let _ = sums.index_add_(1, &of, &tokens);
        }
    });
    let counts = labels.to_device(device).bincount(None::<&Tensor>, classes).unsqueeze(1);
    (sums / counts).to_kind(kind)
}
