//! VPT's location `below`: P further channels of the image. The patch embedding gets 3 + P input channels; its weights on
//! the first three start from the checkpoint, and all of it is trained.

use sweeps::recipe::{self, Pooling};
use tch::Tensor;

use super::vpt::pooled;
use super::{Entry, Init, Param, Step, Tuning, batch_of, per_sample};
use crate::backbone::Backbone;
use crate::vit::Arch;

const WEIGHT: &str = "patch_embed.proj.weight";
const BIAS: &str = "patch_embed.proj.bias";

#[derive(Debug)]
pub(super) struct Below {
    /// `[K, 1, P, S, S]`.
    prompt: Param,
    /// `[1, D, 3 + P, p, p]`.
    weight: Param,
    /// `[1, D]`.
    bias: Param,
    pooling: Pooling,
}

impl Below {
    pub(super) fn new(
        method: &recipe::Vpt,
        arch: &Arch,
        backbone: &Backbone,
        image_size: i64,
        init: &Init<'_>,
    ) -> Below {
        let (p, channels) = (i64::from(arch.patch_size), i64::from(method.prompt_length));
        let dim = i64::from(arch.dim);
        // As torch starts a convolution: U(±1/√fan in).
        let bound = (((3 + channels) * p * p) as f64).sqrt().recip();
        let new = init.uniform(WEIGHT, (-bound, bound), &[dim, channels, p, p]);
        let weight = Tensor::cat(&[backbone.tensor(WEIGHT).unsqueeze(0), new], 2);
        let shape = [1, channels, image_size, image_size];
        Below {
            prompt: Param::new("prompt", init.prompt(arch.patch_size, dim, &shape)),
            weight: Param::new(WEIGHT, weight),
            bias: Param::new(BIAS, backbone.tensor(BIAS).copy().unsqueeze(0)),
            pooling: method.pooling,
        }
    }
}

impl Tuning for Below {
    fn params(&self) -> Vec<Param> {
        vec![self.prompt.share(), self.weight.share(), self.bias.share()]
    }

    fn entry(&self) -> Entry {
        Entry::Images
    }

    fn weights(&self, _backbone: &Backbone) -> Vec<(String, Tensor)> {
        [&self.weight, &self.bias].map(|param| (param.name.clone(), param.value.get(0))).into()
    }

    fn images(&self, images: Tensor, step: Step<'_>) -> Tensor {
        let channels = per_sample(&self.prompt.value.select(1, 0), batch_of(&images, step));
        Tensor::cat(&[images, channels], 1) // [K·B, 3 + P, S, S]
    }

    fn pool(&self, backbone: &Backbone, x: &Tensor) -> Tensor {
        pooled(self.pooling, 0, backbone, x)
    }
}
