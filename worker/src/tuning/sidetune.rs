//! Side-tuning (Zhang et al., ECCV 2020) as VPT compares with it: a small network looks at the image beside the frozen
//! backbone, and `z ← α z + (1 − α) W s(image)`, α = σ(a), a starting at 0.
//!
//! The small network is AlexNet's convolutions, trained. VPT starts them from ImageNet; here they start as torch starts
//! convolutions, since no such weights come with a backbone.

use tch::Tensor;

use super::{Entry, Init, Param, Step, Tuning, batch_of, per_member, per_sample};
use crate::backbone::Arch;

/// A network beside the backbone.
pub trait Side: std::fmt::Debug {
    fn params(&self) -> Vec<Param>;
    /// Images `[K·B, 3, S, S]` to features `[K·B, F]`.
    fn features(&self, images: &Tensor, members: i64) -> Tensor;
}

/// The mix of the backbone's feature with a side network's.
#[derive(Debug)]
pub(super) struct Sidetune {
    side: Box<dyn Side>,
    /// a, `[K]`.
    alpha: Param,
    /// W, `[K, D, F]`.
    projection: Param,
}

impl Sidetune {
    /// `width`: F, the number of the side network's features.
    pub(super) fn new(side: Box<dyn Side>, width: i64, arch: &Arch, init: &Init<'_>) -> Sidetune {
        let bound = (width as f64).sqrt().recip(); // torch's linear layers
        let weight = init.uniform("side.proj", (-bound, bound), &[i64::from(arch.dim()), width]);
        Sidetune {
            side,
            alpha: Param::new("side.alpha", init.constant(0.0, &[])),
            projection: Param::new("side.proj.weight", weight),
        }
    }
}

impl Tuning for Sidetune {
    fn params(&self) -> Vec<Param> {
        let mut all = vec![self.alpha.share(), self.projection.share()];
        all.extend(self.side.params());
        all
    }

    fn entry(&self) -> Entry {
        Entry::Images
    }

    fn feature(&self, z: Tensor, images: Option<&Tensor>, step: Step<'_>) -> Tensor {
        let images = images.expect("a method whose entry is the images gets them");
        let side = self.side.features(images, step.members); // [K·B, F]
        let side = per_member(&side, &self.projection.value, None); // [K·B, D]
        let batch = batch_of(&z, step);
        let alpha = per_sample(&self.alpha.value.sigmoid(), batch).unsqueeze(1);
        &alpha * z + (1.0 - &alpha) * side
    }
}

/// AlexNet's five convolutions. Members run side by side as groups.
#[derive(Debug)]
pub(super) struct AlexNet {
    /// Weight `[K, out, in, k, k]` and bias `[K, out]` of each.
    layers: Vec<(Param, Param)>,
}

/// Index in torchvision's `features`, channels in and out, kernel, stride, padding, and whether pooling follows.
const LAYERS: [(usize, i64, i64, i64, i64, i64, bool); 5] = [
    (0, 3, 64, 11, 4, 2, true),
    (3, 64, 192, 5, 1, 2, true),
    (6, 192, 384, 3, 1, 1, false),
    (8, 384, 256, 3, 1, 1, false),
    (10, 256, 256, 3, 1, 1, true),
];

impl AlexNet {
    pub(super) fn new(init: &Init<'_>) -> AlexNet {
        let layer = |&(index, channels, out, kernel, ..): &(usize, i64, i64, i64, i64, i64, bool)| {
            let bound = ((channels * kernel * kernel) as f64).sqrt().recip();
            let tensor = |part: &str, shape: &[i64]| {
                let name = format!("side.net.{index}.{part}");
                let value = init.uniform(&name, (-bound, bound), shape);
                Param::new(name, value)
            };
            (tensor("weight", &[out, channels, kernel, kernel]), tensor("bias", &[out]))
        };
        AlexNet { layers: LAYERS.iter().map(layer).collect() }
    }

    /// Number of features of an image, 9216 at 224 pixels; `None` if it is too small to be pooled so often.
    pub(super) fn width(image_size: i64) -> Option<i64> {
        let mut side = image_size;
        for (_, _, _, kernel, stride, padding, is_pooled) in LAYERS {
            side = (side + 2 * padding - kernel).div_euclid(stride) + 1;
            if is_pooled {
                side = (side - 3).div_euclid(2) + 1;
            }
            if side < 1 {
                return None;
            }
        }
        Some(256 * side * side)
    }
}

impl Side for AlexNet {
    fn params(&self) -> Vec<Param> {
        self.layers.iter().flat_map(|(weight, bias)| [weight.share(), bias.share()]).collect()
    }

    fn features(&self, images: &Tensor, members: i64) -> Tensor {
        // [K·B, C, S, S] → [B, K·C, S, S]
        let size = images.size();
        let batch = size[0] / members;
        let mut x = images.reshape([members, batch, size[1], size[2], size[3]]).transpose(0, 1).reshape([
            batch,
            members * size[1],
            size[2],
            size[3],
        ]);
        for ((weight, bias), (_, _, _, _, stride, padding, is_pooled)) in self.layers.iter().zip(LAYERS) {
            let (weight, bias) = (weight.value.flatten(0, 1), bias.value.flatten(0, 1));
            x = x.conv2d(&weight, Some(&bias), [stride; 2], [padding; 2], [1, 1], members).relu();
            if is_pooled {
                x = x.max_pool2d([3, 3], [2, 2], [0, 0], [1, 1], false);
            }
        }
        x.reshape([batch, members, -1]).transpose(0, 1).flatten(0, 1) // [K·B, F]
    }
}
