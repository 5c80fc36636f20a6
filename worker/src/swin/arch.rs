//! The shape of a Swin transformer. Numbers only, no tensors.

use serde::{Deserialize, Serialize};

use crate::backbone::{ArchError, Place, TensorShape};

/// A Swin transformer of the official code. Images have one size: windows have to tile every stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arch {
    /// Side of the square image.
    pub image_size: u32,
    pub patch_size: u32,
    /// Width of a token in the first stage; it doubles with each stage.
    pub dim: u32,
    /// Side of a window in tokens; see [`Arch::window_in`].
    pub window: u32,
    pub stages: Vec<Stage>,
    pub layer_norm_eps: f64,
}

/// Blocks of one width.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    pub depth: u32,
    pub heads: u32,
    /// Width of the hidden layer of a block's MLP.
    pub mlp_dim: u32,
}

impl Arch {
    pub fn check(&self) -> Result<(), ArchError> {
        let (patch_size, image_size) = (self.patch_size, self.image_size);
        let stages = u32::try_from(self.stages.len()).unwrap_or(u32::MAX);
        let mut positive = vec![
            ("image_size", image_size),
            ("patch_size", patch_size),
            ("dim", self.dim),
            ("window", self.window),
            ("stages", stages),
        ];
        for stage in &self.stages {
            positive.extend([("depth", stage.depth), ("heads", stage.heads), ("mlp_dim", stage.mlp_dim)]);
        }
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ArchError::Zero(name));
        }
        // The widths and grids of more stages would overflow.
        let too_deep = stages > 8 || self.dim > 1 << 16;
        if too_deep {
            return Err(ArchError::Stages { stages, dim: self.dim });
        }
        for (s, stage) in self.stages.iter().enumerate() {
            let dim = self.dim << s;
            if !dim.is_multiple_of(stage.heads) {
                return Err(ArchError::Heads { heads: stage.heads, dim });
            }
        }
        let merged = u64::from(patch_size) << (stages - 1);
        let tiles = |s: usize| self.side(s) % self.window_in(s) == 0;
        if !u64::from(image_size).is_multiple_of(merged) || !(0..self.stages.len()).all(tiles) {
            return Err(ArchError::Windows { image_size, unit: merged * u64::from(self.window) });
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps > 0.0) {
            return Err(ArchError::Eps);
        }
        Ok(())
    }

    /// The size is part of the shape: shift masks and windows belong to it.
    pub fn check_image_size(&self, size: i64) -> Result<(), ArchError> {
        let only = i64::from(self.image_size);
        if size == only { Ok(()) } else { Err(ArchError::OneSize { size, only }) }
    }

    /// Number of blocks of all stages.
    pub fn depth(&self) -> u32 {
        self.stages.iter().map(|stage| stage.depth).sum()
    }

    /// Width of the last stage.
    pub fn feature_dim(&self) -> u32 {
        self.width(self.stages.len().saturating_sub(1))
    }

    /// Width of a stage.
    pub fn width(&self, stage: usize) -> u32 {
        self.dim << stage
    }

    /// Side of a stage's grid of tokens.
    pub fn side(&self, stage: usize) -> i64 {
        i64::from(self.image_size / self.patch_size) >> stage
    }

    /// Side of a stage's windows: where the grid is no larger than a window, it is the one window.
    pub fn window_in(&self, stage: usize) -> i64 {
        i64::from(self.window).min(self.side(stage))
    }

    /// The stage of a block, and the block's index within it.
    pub fn locate(&self, layer: usize) -> (usize, usize) {
        let mut block = layer;
        for (s, stage) in self.stages.iter().enumerate() {
            if block < stage.depth as usize {
                return (s, block);
            }
            block -= stage.depth as usize;
        }
        (self.stages.len(), block)
    }

    /// Numbers that enter a block, or the final norm, for one image.
    pub fn entering(&self, first: usize) -> i64 {
        let stage = self.locate(first).0.min(self.stages.len() - 1);
        self.side(stage).pow(2) * i64::from(self.width(stage))
    }

    /// Where a tensor is read. The merging of patches belongs to the last block before it.
    pub fn place(&self, name: &str) -> Place {
        let before =
            |stage: usize| self.stages.iter().take(stage).map(|stage| stage.depth as usize).sum::<usize>();
        let parts: Vec<&str> = name.split('.').collect();
        let number = |i: usize| parts.get(i).and_then(|part| part.parse::<usize>().ok());
        match (parts[0], number(1), parts.get(2), number(3)) {
            ("patch_embed", ..) => Place::Embedding,
            ("layers", Some(stage), Some(&"blocks"), Some(block)) => Place::Block(before(stage) + block),
            ("layers", Some(stage), ..) => Place::Block(before(stage + 1) - 1),
            _ => Place::Norm,
        }
    }

    /// Every tensor under its official name, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let (d, p) = (self.dim as usize, self.patch_size as usize);
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[usize]| all.push(TensorShape { name, shape: shape.to_vec() });
        add("patch_embed.proj.weight".into(), &[d, 3, p, p]);
        for name in ["patch_embed.proj.bias", "patch_embed.norm.weight", "patch_embed.norm.bias"] {
            add(name.into(), &[d]);
        }
        for (s, stage) in self.stages.iter().enumerate() {
            let (c, m) = (d << s, stage.mlp_dim as usize);
            let offsets = (2 * self.window_in(s) as usize - 1).pow(2);
            for j in 0..stage.depth {
                let block = format!("layers.{s}.blocks.{j}");
                for (layer, shape) in [
                    ("norm1", &[c] as &[usize]),
                    ("attn.qkv", &[3 * c, c]),
                    ("attn.proj", &[c, c]),
                    ("norm2", &[c]),
                    ("mlp.fc1", &[m, c]),
                    ("mlp.fc2", &[c, m]),
                ] {
                    add(format!("{block}.{layer}.weight"), shape);
                    add(format!("{block}.{layer}.bias"), &shape[..1]);
                }
                let table = format!("{block}.attn.relative_position_bias_table");
                add(table, &[offsets, stage.heads as usize]);
            }
            if s + 1 < self.stages.len() {
                let merge = format!("layers.{s}.downsample");
                add(format!("{merge}.norm.weight"), &[4 * c]);
                add(format!("{merge}.norm.bias"), &[4 * c]);
                add(format!("{merge}.reduction.weight"), &[2 * c, 4 * c]);
            }
        }
        let last = self.feature_dim() as usize;
        add("norm.weight".into(), &[last]);
        add("norm.bias".into(), &[last]);
        all
    }
}
