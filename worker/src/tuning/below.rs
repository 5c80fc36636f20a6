//! VPT's location `below`: P further channels of the image. The convolution that embeds images gets 3 + P input channels;
//! its weights on the first three start from the checkpoint, and all of it is trained, on a ResNet with the norm behind it.

use sweeps::recipe::{self, Pooling, PromptInit};
use tch::Tensor;

use super::pixels::strip;
use super::vpt::pooled;
use super::{Entry, Init, Param, Step, Tuning, batch_of, per_sample};
use crate::backbone::{Arch, Backbone};
use crate::data;

#[derive(Debug)]
pub(super) struct Below {
    /// `[K, 1, P, S, S]`.
    prompt: Param,
    /// Whether the channels are brought to the mean of ImageNet's means and deviations.
    is_normalised: bool,
    /// `[1, D, 3 + P, p, p]`.
    weight: Param,
    /// What else of the embedding is trained, `[1, D]` each.
    rest: Vec<Param>,
    pooling: Pooling,
}

/// Names of a backbone's embedding: its convolution's weight, and what is trained beside it.
fn embedding(arch: &Arch) -> (&'static str, &'static [&'static str]) {
    match arch {
        Arch::Resnet(_) => ("conv1.weight", &["bn1.weight", "bn1.bias"]),
        _ => ("patch_embed.proj.weight", &["patch_embed.proj.bias"]),
    }
}

impl Below {
    pub(super) fn new(method: &recipe::Vpt, backbone: &Backbone, image_size: i64, init: &Init<'_>) -> Below {
        let (name, rest) = embedding(backbone.arch());
        let old = backbone.tensor(name);
        let (dim, channels, side) = (old.size()[0], i64::from(method.prompt_length), old.size()[2]);
        let shape = [dim, channels, side, side];
        let bound = match backbone.arch() {
            // Xavier uniform over all 3 + P channels.
            Arch::Resnet(_) => 6.0 / ((3 + channels + dim) * side * side) as f64,
            // As prompts start.
            _ => 6.0 / (3 * side * side + dim) as f64,
        }
        .sqrt();
        let weight = Tensor::cat(&[old.unsqueeze(0), init.uniform(name, (-bound, bound), &shape)], 2);
        let started = |name: &&str| Param::new(*name, backbone.tensor(name).copy().unsqueeze(0));
        let (patch, width) = (side as u32, dim as u32);
        Below {
            prompt: Param::new(
                "prompt",
                strip(method.init, patch, width, init, &[1, channels, image_size, image_size]),
            ),
            is_normalised: method.init == PromptInit::Imagenet,
            weight: Param::new(name, weight),
            rest: rest.iter().map(started).collect(),
            pooling: method.pooling,
        }
    }

    fn embedding(&self) -> impl Iterator<Item = &Param> {
        std::iter::once(&self.weight).chain(&self.rest)
    }
}

impl Tuning for Below {
    fn params(&self) -> Vec<Param> {
        std::iter::once(&self.prompt).chain(self.embedding()).map(Param::share).collect()
    }

    fn entry(&self) -> Entry {
        Entry::Images
    }

    fn weights(&self, _backbone: &Backbone) -> Vec<(String, Tensor)> {
        self.embedding().map(|param| (param.name.clone(), param.value.get(0))).collect()
    }

    fn images(&self, images: Tensor, step: Step<'_>) -> Tensor {
        let channels = self.prompt.value.select(1, 0); // [K, P, S, S]
        let channels = if self.is_normalised { data::to_imagenet_grey(&channels) } else { channels };
        Tensor::cat(&[images.shallow_clone(), per_sample(&channels, batch_of(&images, step))], 1) // [K·B, 3 + P, S, S]
    }

    fn pool(&self, backbone: &Backbone, x: &Tensor) -> Tensor {
        pooled(self.pooling, 0, backbone, x)
    }
}
