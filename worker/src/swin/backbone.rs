//! The forward pass of a Swin transformer with prompt slots in front of the patches (VPT on Swin).
//!
//! In each block the slots are copied to every window, take part in its attention without position bias and unmasked, and
//! leave it as the mean over windows. Where patches are merged, slots are repeated four times along the channels.

use std::ops::Range;
use std::rc::Rc;

use tch::Tensor;

use super::window::{Order, Windows};
use super::{Arch, Stage};
use crate::backbone::{LayerNorm, Linear, Weights};
use crate::tuning::{Step, Tuning};

#[derive(Debug)]
pub struct Swin {
    arch: Arch,
    patch_weight: Tensor,
    patch_bias: Tensor,
    patch_norm: LayerNorm,
    blocks: Vec<Block>,
    /// Behind every stage but the last.
    merges: Vec<Merge>,
    norm: LayerNorm,
    /// One per stage. They depend on the shape alone, and are shared by backbones made from one another.
    windows: Rc<Vec<Windows>>,
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    /// `[(2w − 1)², H]`.
    bias_table: Tensor,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: i64,
    is_shifted: bool,
}

#[derive(Debug)]
struct Merge {
    norm: LayerNorm,
    /// `[2C, 4C]`.
    reduction: Tensor,
}

/// How a forward pass treats prompts.
#[derive(Clone, Copy)]
struct Pass {
    order: Order,
    members: i64,
}

impl Swin {
    /// Builds the backbone from weights that were checked against `arch`.
    pub fn new(arch: Arch, weights: Weights) -> Swin {
        let (kind, device) = weights.options();
        let windows = (0..arch.stages.len())
            .map(|s| Windows::new(arch.side(s), arch.window_in(s), kind, device))
            .collect();
        Swin::build(arch, weights, Rc::new(windows))
    }

    /// The same shape on other weights.
    pub fn with(&self, weights: Weights) -> Swin {
        Swin::build(self.arch.clone(), weights, Rc::clone(&self.windows))
    }

    fn build(arch: Arch, mut weights: Weights, windows: Rc<Vec<Windows>>) -> Swin {
        let (w, eps) = (&mut weights, arch.layer_norm_eps);
        let (mut blocks, mut merges) = (Vec::new(), Vec::new());
        for (s, stage) in arch.stages.iter().enumerate() {
            blocks.extend((0..stage.depth).map(|j| Block::new(w, s, j, stage, eps)));
            if s + 1 < arch.stages.len() {
                merges.push(Merge {
                    norm: LayerNorm::new(w, &format!("layers.{s}.downsample.norm"), eps),
                    reduction: w.take(&format!("layers.{s}.downsample.reduction.weight")),
                });
            }
        }
        Swin {
            patch_weight: w.take("patch_embed.proj.weight"),
            patch_bias: w.take("patch_embed.proj.bias"),
            patch_norm: LayerNorm::new(w, "patch_embed.norm", eps),
            norm: LayerNorm::new(w, "norm", eps),
            blocks,
            merges,
            arch,
            windows,
        }
    }

    /// Images `[B, 3, S, S]`, normalised, to the patches entering block 0, `[B, R², C]`.
    pub fn embed(&self, images: &Tensor) -> Tensor {
        let p = i64::from(self.arch.patch_size);
        let x = images.conv2d(&self.patch_weight, Some(&self.patch_bias), [p, p], [0, 0], [1, 1], 1);
        self.patch_norm.forward(&x.flatten(2, -1).transpose(1, 2))
    }

    /// Runs blocks on patches `[K·B, R², C]`. Returns `[prompts, patches]` of the stage that is reached.
    pub fn blocks(
        &self,
        patches: Tensor,
        range: Range<usize>,
        tuning: &dyn Tuning,
        step: Step<'_>,
    ) -> Tensor {
        let pass = Pass { order: tuning.window_order(), members: step.members };
        let (mut prompts, mut x) = (None, patches);
        for layer in range {
            let (stage, index) = self.arch.locate(layer);
            prompts = tuning.slots(layer, x.size()[0], step).or(prompts);
            (prompts, x) = self.blocks[layer].forward(prompts, x, &self.windows[stage], pass);
            if index + 1 == self.arch.stages[stage].depth as usize
                && let Some(merge) = self.merges.get(stage)
            {
                (prompts, x) = merge.forward(prompts, &x, self.windows[stage].side);
            }
        }
        join(prompts.as_ref(), &x)
    }

    /// Tokens after the last block to the head's input, `[K·B, T, C]` → `[K·B, C]`: `norm`, then the mean over all
    /// tokens, prompts included.
    pub fn pool(&self, x: &Tensor) -> Tensor {
        self.norm.forward(x).mean_dim(1, false, None)
    }
}

impl Block {
    fn new(weights: &mut Weights, stage: usize, index: u32, shape: &Stage, eps: f64) -> Block {
        let name = |part: &str| format!("layers.{stage}.blocks.{index}.{part}");
        Block {
            norm1: LayerNorm::new(weights, &name("norm1"), eps),
            qkv: Linear::new(weights, &name("attn.qkv")),
            proj: Linear::new(weights, &name("attn.proj")),
            bias_table: weights.take(&name("attn.relative_position_bias_table")),
            norm2: LayerNorm::new(weights, &name("norm2"), eps),
            fc1: Linear::new(weights, &name("mlp.fc1")),
            fc2: Linear::new(weights, &name("mlp.fc2")),
            heads: i64::from(shape.heads),
            is_shifted: index % 2 == 1,
        }
    }

    /// `x₁ = x + attn(norm₁ x)`, `x₂ = x₁ + mlp(norm₂ x₁)` on prompts `[N, P, C]` and patches `[N, R², C]`.
    fn forward(
        &self,
        prompts: Option<Tensor>,
        x: Tensor,
        windows: &Windows,
        pass: Pass,
    ) -> (Option<Tensor>, Tensor) {
        let slots = prompts.as_ref().map_or(0, |p| p.size()[1]);
        let x = join(prompts.as_ref(), &x);
        let x1 = &x + self.attention(&self.norm1.forward(&x), slots, windows, pass);
        let hidden = self.fc1.forward(&self.norm2.forward(&x1)).gelu("none");
        let x2 = &x1 + self.fc2.forward(&hidden);
        (prompts.map(|_| x2.narrow(1, 0, slots)), x2.narrow(1, slots, x2.size()[1] - slots))
    }

    /// Attention within (shifted) windows on `[N, P + R², C]`.
    fn attention(&self, y: &Tensor, slots: i64, windows: &Windows, pass: Pass) -> Tensor {
        let (n, t, c) = y.size3().expect("tokens have three axes");
        let (side, count) = (windows.side, windows.count());
        let grid = y.narrow(1, slots, t - slots).reshape([n, side, side, c]);
        let mask = windows.mask.as_ref().filter(|_| self.is_shifted);
        let roll = if mask.is_some() { windows.shift() } else { 0 };
        let cut = windows.cut(&rolled(grid, -roll)); // [N·W, w², C]
        let spread = (slots > 0).then(|| pass.order.spread(&y.narrow(1, 0, slots), pass.members, count));
        let out = self.attend(&join(spread.as_ref(), &cut), slots, windows, mask);
        let patches = windows.join(&out.narrow(1, slots, cut.size()[1]));
        let patches = rolled(patches, roll).reshape([n, side * side, c]);
        let gathered = (slots > 0).then(|| pass.order.gather(&out.narrow(1, 0, slots), pass.members, count));
        join(gathered.as_ref(), &patches)
    }

    /// `softmax(q kᵀ/√d + bias + mask) v` in each window, `[N·W, P + w², C]`. Prompts have neither bias nor mask.
    fn attend(&self, y: &Tensor, slots: i64, windows: &Windows, mask: Option<&Tensor>) -> Tensor {
        let (rows, t, c) = y.size3().expect("windows have three axes");
        let (h, patches) = (self.heads, t - slots);
        let qkv = self.qkv.forward(y).reshape([rows, t, 3, h, c / h]).permute([2, 0, 3, 1, 4]);
        let scores = qkv.get(0).matmul(&qkv.get(1).transpose(-2, -1)) / ((c / h) as f64).sqrt(); // [N·W, H, T, T]
        let bias = self.bias_table.index_select(0, &windows.offsets);
        let bias = bias.reshape([1, patches, patches, h]).permute([0, 3, 1, 2]);
        let bias = match mask {
            Some(mask) => bias + mask, // [W, H, w², w²]
            None => bias,
        };
        let bias = bias.constant_pad_nd([slots, 0, slots, 0]);
        let scores = scores.reshape([-1, bias.size()[0], h, t, t]) + bias;
        let weights = scores.reshape([rows, h, t, t]).softmax(-1, y.kind());
        self.proj.forward(&weights.matmul(&qkv.get(2)).transpose(1, 2).reshape([rows, t, c]))
    }
}

impl Merge {
    /// Four neighbours become one token of twice the width.
    fn forward(&self, prompts: Option<Tensor>, x: &Tensor, side: i64) -> (Option<Tensor>, Tensor) {
        let (n, _, c) = x.size3().expect("tokens have three axes");
        let half = side / 2;
        // Channels: (even row, even column), (odd, even), (even, odd), (odd, odd).
        let four = x.reshape([n, half, 2, half, 2, c]).permute([0, 1, 3, 4, 2, 5]);
        let four = four.reshape([n, half * half, 4 * c]);
        let reduce = |x: &Tensor| self.norm.forward(x).linear(&self.reduction, None::<&Tensor>);
        (prompts.map(|p| reduce(&p.repeat([1, 1, 4]))), reduce(&four))
    }
}

/// `[prompts, patches]`.
fn join(prompts: Option<&Tensor>, x: &Tensor) -> Tensor {
    match prompts {
        Some(prompts) => Tensor::cat(&[prompts, x], 1),
        None => x.shallow_clone(),
    }
}

/// A grid `[N, R, R, C]` rolled along both sides.
fn rolled(grid: Tensor, by: i64) -> Tensor {
    if by == 0 { grid } else { grid.roll([by, by], [1, 2]) }
}
