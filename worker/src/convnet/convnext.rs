//! ConvNeXt of the official code (Liu et al., CVPR 2022).

use std::ops::Range;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::layers::{Conv, mean_places, norm_channels};
use crate::backbone::{ArchError, LayerNorm, Linear, Place, TensorShape, Weights};

/// The shape of a ConvNeXt. It takes images of any size from 32 pixels on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arch {
    pub stages: Vec<Stage>,
    pub layer_norm_eps: f64,
}

/// Blocks of one width; every stage but the first halves the map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    pub depth: u32,
    pub dim: u32,
}

/// Side of a patch of the first convolution.
const PATCH: i64 = 4;

impl Arch {
    pub fn check(&self) -> Result<(), ArchError> {
        let mut positive = vec![("stages", u32::try_from(self.stages.len()).unwrap_or(u32::MAX))];
        for stage in &self.stages {
            positive.extend([("depth", stage.depth), ("dim", stage.dim)]);
        }
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ArchError::Zero(name));
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps > 0.0) {
            return Err(ArchError::Eps);
        }
        Ok(())
    }

    /// Each stage needs a map to halve.
    pub fn check_image_size(&self, size: i64) -> Result<(), ArchError> {
        let least = PATCH << (self.stages.len() - 1);
        if size >= least { Ok(()) } else { Err(ArchError::TooSmall { size, least }) }
    }

    pub fn depth(&self) -> u32 {
        self.stages.iter().map(|stage| stage.depth).sum()
    }

    pub fn feature_dim(&self) -> u32 {
        self.stages.last().map_or(0, |stage| stage.dim)
    }

    /// The stage of every block.
    fn blocks(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.stages.iter().enumerate().flat_map(|(s, stage)| (0..stage.depth).map(move |j| (s, j)))
    }

    /// Numbers that enter a block for one image of `size` pixels; behind the last block only the mean counts.
    pub fn entering(&self, first: usize, size: i64) -> i64 {
        let Some((stage, _)) = self.blocks().nth(first) else { return i64::from(self.feature_dim()) };
        let side = (size / PATCH) >> stage;
        i64::from(self.stages[stage].dim) * side * side
    }

    /// Where a tensor is read. What halves the map belongs to the last block before it.
    pub fn place(&self, name: &str) -> Place {
        let before = |stage: usize| self.blocks().filter(|(s, _)| *s < stage).count();
        let parts: Vec<&str> = name.split('.').collect();
        let number = |i: usize| parts.get(i).and_then(|part| part.parse::<usize>().ok());
        match (parts[0], number(1), number(2)) {
            ("downsample_layers", Some(0), _) => Place::Embedding,
            ("downsample_layers", Some(stage), _) => Place::Block(before(stage) - 1),
            ("stages", Some(stage), Some(index)) => Place::Block(before(stage) + index),
            _ => Place::Norm,
        }
    }

    /// Every tensor under its official name, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[usize]| all.push(TensorShape { name, shape: shape.to_vec() });
        for (s, stage) in self.stages.iter().enumerate() {
            let c = stage.dim as usize;
            let down = format!("downsample_layers.{s}");
            let (input, side, conv, norm) = match s.checked_sub(1) {
                None => (3, PATCH as usize, 0, (1, c)),
                Some(before) => {
                    let input = self.stages[before].dim as usize;
                    (input, 2, 1, (0, input))
                }
            };
            add(format!("{down}.{conv}.weight"), &[c, input, side, side]);
            add(format!("{down}.{conv}.bias"), &[c]);
            add(format!("{down}.{}.weight", norm.0), &[norm.1]);
            add(format!("{down}.{}.bias", norm.0), &[norm.1]);
            for j in 0..stage.depth {
                let block = format!("stages.{s}.{j}");
                add(format!("{block}.gamma"), &[c]);
                for (layer, shape) in [
                    ("dwconv", &[c, 1, 7, 7] as &[usize]),
                    ("norm", &[c]),
                    ("pwconv1", &[4 * c, c]),
                    ("pwconv2", &[c, 4 * c]),
                ] {
                    add(format!("{block}.{layer}.weight"), shape);
                    add(format!("{block}.{layer}.bias"), &shape[..1]);
                }
            }
        }
        let last = self.feature_dim() as usize;
        add("norm.weight".into(), &[last]);
        add("norm.bias".into(), &[last]);
        all
    }
}

/// A frozen ConvNeXt.
#[derive(Debug)]
pub struct Convnext {
    patch: Conv,
    patch_norm: LayerNorm,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

/// `y = x + γ · W₂ gelu(W₁ norm(dwconv x))`, and what halves the map behind the last block of a stage.
#[derive(Debug)]
struct Block {
    dwconv: Conv,
    norm: LayerNorm,
    pwconv1: Linear,
    pwconv2: Linear,
    gamma: Tensor,
    halving: Option<(LayerNorm, Conv)>,
}

impl Convnext {
    /// Builds the backbone from weights that were checked against `arch`.
    pub fn new(arch: &Arch, mut weights: Weights) -> Convnext {
        let (w, eps) = (&mut weights, arch.layer_norm_eps);
        let patch = Conv::biased(w, "downsample_layers.0.0", PATCH, 0, 1);
        let patch_norm = LayerNorm::new(w, "downsample_layers.0.1", eps);
        let mut blocks: Vec<Block> = Vec::new();
        for (stage, index) in arch.blocks() {
            if index == 0
                && let Some(last) = blocks.last_mut()
            {
                let down = format!("downsample_layers.{stage}");
                let norm = LayerNorm::new(w, &format!("{down}.0"), eps);
                last.halving = Some((norm, Conv::biased(w, &format!("{down}.1"), 2, 0, 1)));
            }
            blocks.push(Block::new(w, &format!("stages.{stage}.{index}"), arch.stages[stage].dim, eps));
        }
        Convnext { patch, patch_norm, blocks, norm: LayerNorm::new(w, "norm", eps) }
    }

    /// Images `[B, 3, S, S]`, normalised, to the map entering block 0, `[B, C, S/4, S/4]`.
    pub fn embed(&self, images: &Tensor) -> Tensor {
        norm_channels(&self.patch_norm, &self.patch.forward(images))
    }

    pub fn blocks(&self, x: Tensor, range: Range<usize>) -> Tensor {
        range.fold(x, |x, layer| self.blocks[layer].forward(&x))
    }

    /// The mean over all places, then `norm`, `[N, C, H, W]` → `[N, C]`.
    pub fn pool(&self, x: &Tensor) -> Tensor {
        self.norm.forward(&mean_places(x).flatten(1, -1))
    }
}

impl Block {
    fn new(weights: &mut Weights, name: &str, dim: u32, eps: f64) -> Block {
        Block {
            dwconv: Conv::biased(weights, &format!("{name}.dwconv"), 1, 3, i64::from(dim)),
            norm: LayerNorm::new(weights, &format!("{name}.norm"), eps),
            pwconv1: Linear::new(weights, &format!("{name}.pwconv1")),
            pwconv2: Linear::new(weights, &format!("{name}.pwconv2")),
            gamma: weights.take(&format!("{name}.gamma")),
            halving: None,
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let y = self.norm.forward(&self.dwconv.forward(x).permute([0, 2, 3, 1])); // [N, H, W, C]
        let y = self.pwconv2.forward(&self.pwconv1.forward(&y).gelu("none")) * &self.gamma;
        let x = x + y.permute([0, 3, 1, 2]);
        match &self.halving {
            Some((norm, conv)) => conv.forward(&norm_channels(norm, &x)),
            None => x,
        }
    }
}
