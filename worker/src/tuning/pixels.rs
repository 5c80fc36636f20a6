//! VPT's location `prepend_pixel`: a strip of pixels goes through the frozen patch embedding, which makes P tokens of it.
//! They get no position embedding and are inserted behind CLS before block 0.

use sweeps::recipe::{self, Pooling, PromptInit};
use tch::Tensor;

use super::vpt::pooled;
use super::{Entry, Init, Param, Site, Tuning, insert, per_sample};
use crate::backbone::Backbone;
use crate::data;
use crate::vit::Arch;

#[derive(Debug)]
pub(super) struct Pixels {
    /// `[K, 1, 3, p, p·P]`.
    prompt: Param,
    /// Whether the strip is brought to ImageNet's mean and deviation.
    is_normalised: bool,
    /// The frozen patch embedding, weight `[D, 3, p, p]` and bias `[D]`.
    patch: (Tensor, Tensor),
    pooling: Pooling,
}

impl Pixels {
    pub(super) fn new(method: &recipe::Vpt, arch: &Arch, backbone: &Backbone, init: &Init<'_>) -> Pixels {
        let p = i64::from(arch.patch_size);
        let shape = [1, 3, p, p * i64::from(method.prompt_length)];
        Pixels {
            prompt: Param::new("prompt", strip(method.init, arch.patch_size, arch.dim, init, &shape)),
            is_normalised: method.init == PromptInit::Imagenet,
            patch: (
                backbone.tensor("patch_embed.proj.weight").shallow_clone(),
                backbone.tensor("patch_embed.proj.bias").shallow_clone(),
            ),
            pooling: method.pooling,
        }
    }
}

/// Pixels that start as `how` says, on a backbone with patches of side `patch` and tokens of `width`.
pub(super) fn strip(how: PromptInit, patch: u32, width: u32, init: &Init<'_>, shape: &[i64]) -> Tensor {
    match how {
        PromptInit::Gaussian => init.normal("prompt", 1.0, shape),
        PromptInit::Imagenet => init.uniform("prompt", (0.0, 1.0), shape),
        _ => init.prompt(patch, i64::from(width), shape),
    }
}

impl Tuning for Pixels {
    fn params(&self) -> Vec<Param> {
        vec![self.prompt.share()]
    }

    fn entry(&self) -> Entry {
        Entry::Block(0)
    }

    fn tokens(&self, x: Tensor, at: Site<'_>) -> Tensor {
        if at.layer > 0 {
            return x;
        }
        let strips = self.prompt.value.select(1, 0); // [K, 3, p, p·P]
        let strips = if self.is_normalised { data::to_imagenet(&strips) } else { strips };
        let side = strips.size()[2];
        let (weight, bias) = &self.patch;
        let tokens = strips.conv2d(weight, Some(bias), [side, side], [0, 0], [1, 1], 1); // [K, D, 1, P]
        let p = per_sample(&tokens.flatten(2, -1).transpose(1, 2), x.size()[0] / at.step.members);
        insert(&x, &p, 0)
    }

    fn pool(&self, backbone: &Backbone, x: &Tensor) -> Tensor {
        let side = self.prompt.value.size()[3];
        pooled(self.pooling, self.prompt.value.size()[4] / side, backbone, x)
    }
}
