//! The shape of a vision transformer, as a backbone's sidecar states it. Numbers only, no tensors.

use serde::{Deserialize, Serialize};

use crate::backbone::{ArchError, Place, TensorShape};

/// Everything about a ViT's shape that its weights do not say by themselves, and what they say for the check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arch {
    /// Width of a token.
    pub dim: u32,
    /// Number of blocks.
    pub depth: u32,
    pub heads: u32,
    /// Side of a square patch in pixels.
    pub patch_size: u32,
    /// Side of the square image that the position table belongs to.
    pub image_size: u32,
    /// Width of the hidden layer of a block's MLP.
    pub mlp_dim: u32,
    pub layer_norm_eps: f64,
    /// Whether the blocks scale their branches (`ls1.gamma`, `ls2.gamma`).
    pub layer_scale: bool,
    pub pool: Pool,
    pub position_resize: PositionResize,
}

/// How the last block's tokens become one feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// `norm`, then the class token (supervised, MoCo v3, DINO).
    Cls,
    /// The mean over all tokens but CLS, prompts included, then `norm` (MAE in the Gated and SPT code).
    MeanNorm,
    /// The same mean, then `fc_norm` (MAE in the VPT code).
    MeanFcNorm,
}

/// How the position table is brought to another grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionResize {
    /// Half-pixel centres, no antialiasing, as DINOv2 does.
    Bicubic,
    /// Corners on corners: `scipy.ndimage.zoom(order=1)` of the Google npz loaders.
    Bilinear,
}

impl Arch {
    /// Checks that the numbers fit each other.
    pub fn check(&self) -> Result<(), ArchError> {
        let positive = [
            ("dim", self.dim),
            ("depth", self.depth),
            ("heads", self.heads),
            ("patch_size", self.patch_size),
            ("image_size", self.image_size),
            ("mlp_dim", self.mlp_dim),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ArchError::Zero(name));
        }
        if !self.dim.is_multiple_of(self.heads) {
            return Err(ArchError::Heads { heads: self.heads, dim: self.dim });
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            return Err(ArchError::Patches { patch_size: self.patch_size, image_size: self.image_size });
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps > 0.0) {
            return Err(ArchError::Eps);
        }
        Ok(())
    }

    /// Side of the grid of patches that the position table belongs to.
    pub fn grid(&self) -> u32 {
        self.image_size / self.patch_size
    }

    /// Checks that images of `size` pixels fall into patches.
    pub fn check_image_size(&self, size: i64) -> Result<(), ArchError> {
        let patch = i64::from(self.patch_size);
        if size < patch || size % patch != 0 {
            return Err(ArchError::ImageSize { size, patch_size: self.patch_size });
        }
        Ok(())
    }

    /// Numbers that enter block `first` for one image of `size` pixels. Behind the last block only what is pooled counts.
    pub fn entering(&self, first: usize, size: i64) -> i64 {
        let dim = i64::from(self.dim);
        if first >= self.depth as usize && self.pool == Pool::Cls {
            return dim;
        }
        (1 + (size / i64::from(self.patch_size)).pow(2)) * dim
    }

    /// Where a tensor is read.
    pub fn place(&self, name: &str) -> Place {
        let block = name.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse().ok());
        match block {
            Some(block) => Place::Block(block),
            None if name.starts_with(self.pool.norm()) => Place::Norm,
            None => Place::Embedding,
        }
    }

    /// Every tensor of the checkpoint under its timm name, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let (d, m, p) = (self.dim as usize, self.mlp_dim as usize, self.patch_size as usize);
        let tokens = 1 + (self.grid() as usize).pow(2);
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[usize]| all.push(TensorShape { name, shape: shape.to_vec() });
        add("cls_token".into(), &[1, 1, d]);
        add("pos_embed".into(), &[1, tokens, d]);
        add("patch_embed.proj.weight".into(), &[d, 3, p, p]);
        add("patch_embed.proj.bias".into(), &[d]);
        for i in 0..self.depth {
            for (layer, shape) in [
                ("norm1", &[d] as &[usize]),
                ("attn.qkv", &[3 * d, d]),
                ("attn.proj", &[d, d]),
                ("norm2", &[d]),
                ("mlp.fc1", &[m, d]),
                ("mlp.fc2", &[d, m]),
            ] {
                add(format!("blocks.{i}.{layer}.weight"), shape);
                add(format!("blocks.{i}.{layer}.bias"), &shape[..1]);
            }
            if self.layer_scale {
                add(format!("blocks.{i}.ls1.gamma"), &[d]);
                add(format!("blocks.{i}.ls2.gamma"), &[d]);
            }
        }
        let norm = self.pool.norm();
        add(format!("{norm}.weight"), &[d]);
        add(format!("{norm}.bias"), &[d]);
        all
    }
}

impl Pool {
    /// The timm name of the last layer norm.
    pub fn norm(self) -> &'static str {
        match self {
            Pool::Cls | Pool::MeanNorm => "norm",
            Pool::MeanFcNorm => "fc_norm",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vit_b16() -> Arch {
        Arch {
            dim: 768,
            depth: 12,
            heads: 12,
            patch_size: 16,
            image_size: 224,
            mlp_dim: 3072,
            layer_norm_eps: 1e-6,
            layer_scale: false,
            pool: Pool::Cls,
            position_resize: PositionResize::Bicubic,
        }
    }

    #[test]
    fn published_sizes() {
        let parameters = |dim: u32, depth: u32, heads: u32, patch_size: u32| {
            let arch = Arch { dim, depth, heads, patch_size, mlp_dim: 4 * dim, ..vit_b16() };
            crate::backbone::Arch::from(arch).parameters()
        };
        assert_eq!(parameters(768, 12, 12, 16), 85_798_656);
        // As published, with a head for 1,000 classes: ViT-S/16, -L/16, -H/14.
        assert_eq!(parameters(384, 12, 6, 16) + 1000 * 385, 22_050_664);
        assert_eq!(parameters(1024, 24, 16, 16) + 1000 * 1025, 304_326_632);
        assert_eq!(parameters(1280, 32, 16, 14) + 1000 * 1281, 632_045_800);
    }

    #[test]
    fn the_pool_decides_the_last_norm() {
        let arch = Arch { pool: Pool::MeanFcNorm, ..vit_b16() };
        let names: Vec<String> = arch.tensors().into_iter().map(|t| t.name).collect();
        assert!(names.contains(&"fc_norm.weight".to_owned()));
        assert!(!names.contains(&"norm.weight".to_owned()));
    }

    #[test]
    fn numbers_that_do_not_fit_are_named() {
        assert_eq!(vit_b16().check(), Ok(()));
        assert_eq!(Arch { depth: 0, ..vit_b16() }.check(), Err(ArchError::Zero("depth")));
        assert_eq!(Arch { heads: 7, ..vit_b16() }.check(), Err(ArchError::Heads { heads: 7, dim: 768 }));
        assert_eq!(
            Arch { image_size: 225, ..vit_b16() }.check(),
            Err(ArchError::Patches { patch_size: 16, image_size: 225 })
        );
        assert_eq!(Arch { layer_norm_eps: 0.0, ..vit_b16() }.check(), Err(ArchError::Eps));
    }
}
