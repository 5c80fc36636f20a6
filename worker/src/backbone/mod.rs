//! Frozen backbones of every family behind one interface: images → tokens → blocks → feature.
//!
//! A family is its own module (`vit`, …) that knows its shape, its tensors and its forward pass. Here lies what a
//! trainer needs to know of any of them, and nothing about methods beyond their hooks.

mod arch;
mod layers;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tiny;
mod weights;

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::convnet::{Convnext, Resnet};
use crate::swin::Swin;
use crate::tuning::{Step, Tuning};
use crate::vit::{Pool, Vit};

pub use arch::{Arch, ArchError, Place, TensorShape};
pub(crate) use layers::{LayerNorm, Linear};
pub use weights::{Weights, WeightsError};

/// A frozen backbone.
#[derive(Debug)]
pub struct Backbone {
    arch: Arch,
    weights: Weights,
    net: Net,
}

#[derive(Debug)]
enum Net {
    Vit(Vit),
    Swin(Swin),
    Resnet(Resnet),
    Convnext(Convnext),
}

impl Backbone {
    /// Builds the backbone from weights that were checked against `arch`.
    pub fn new(arch: Arch, weights: Weights) -> Backbone {
        let shared = weights.share();
        let net = match &arch {
            Arch::Vit(arch) => Net::Vit(Vit::new(arch.clone(), shared)),
            Arch::Swin(arch) => Net::Swin(Swin::new(arch.clone(), shared)),
            Arch::Resnet(arch) => Net::Resnet(Resnet::new(arch, shared)),
            Arch::Convnext(arch) => Net::Convnext(Convnext::new(arch, shared)),
        };
        Backbone { arch, weights, net }
    }

    /// The same backbone with some of its tensors replaced, for a method that trains them. Handles are copied, not
    /// numbers, so that this may be done in every step.
    pub fn with(&self, replaced: Vec<(String, Tensor)>) -> Backbone {
        let weights = self.weights.with(replaced);
        match &self.net {
            Net::Swin(swin) => {
                let net = Net::Swin(swin.with(weights.share()));
                Backbone { arch: self.arch.clone(), weights, net }
            }
            Net::Vit(_) | Net::Resnet(_) | Net::Convnext(_) => Backbone::new(self.arch.clone(), weights),
        }
    }

    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// A tensor of the checkpoint by its name, one of [`Arch::tensors`].
    pub fn tensor(&self, name: &str) -> &Tensor {
        self.weights.get(name).unwrap_or_else(|| panic!("`{name}` is not a tensor of this backbone"))
    }

    /// What its tensors hold, and where they are.
    pub fn options(&self) -> (Kind, Device) {
        self.weights.options()
    }

    /// The vision transformer that it is, if it is one.
    pub fn vit(&self) -> Option<&Vit> {
        match &self.net {
            Net::Vit(vit) => Some(vit),
            _ => None,
        }
    }

    /// Images `[B, 3, S, S]`, normalised, to what enters block 0: tokens `[B, T, C]`, or a map `[B, C, H, W]` in a
    /// convolutional network.
    pub fn embed(&self, images: &Tensor) -> Tensor {
        match &self.net {
            Net::Vit(vit) => vit.embed(images),
            Net::Swin(swin) => swin.embed(images),
            Net::Resnet(resnet) => resnet.embed(images),
            Net::Convnext(convnext) => convnext.embed(images),
        }
    }

    /// Runs blocks on what fused trials have at their entrance, members first.
    pub fn blocks(&self, x: Tensor, range: Range<usize>, tuning: &dyn Tuning, step: Step<'_>) -> Tensor {
        match &self.net {
            Net::Vit(vit) => vit.blocks(x, range, tuning, step),
            Net::Swin(swin) => swin.blocks(x, range, tuning, step),
            Net::Resnet(resnet) => resnet.blocks(x, range),
            Net::Convnext(convnext) => convnext.blocks(x, range),
        }
    }

    /// What [`Backbone::pool`] reads of the last block's output; it gives the same feature.
    pub fn essence(&self, x: Tensor) -> Tensor {
        match &self.arch {
            Arch::Vit(vit) if vit.pool == Pool::Cls => x.narrow(1, 0, 1).contiguous(),
            Arch::Vit(_) | Arch::Swin(_) => x,
            Arch::Resnet(_) | Arch::Convnext(_) => x.mean_dim([2i64, 3].as_slice(), true, None),
        }
    }

    /// What the last block hands on to the head's input `[K·B, D]`.
    pub fn pool(&self, x: &Tensor) -> Tensor {
        match &self.net {
            Net::Vit(vit) => vit.pool(x),
            Net::Swin(swin) => swin.pool(x),
            Net::Resnet(resnet) => resnet.pool(x),
            Net::Convnext(convnext) => convnext.pool(x),
        }
    }
}
