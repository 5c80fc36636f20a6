//! Frozen backbones of every family behind one interface: images → tokens → blocks → feature.
//!
//! A family is its own module (`vit`, …) that knows its shape, its tensors and its forward pass. Here lies what a
//! trainer needs to know of any of them, and nothing about methods beyond their hooks.

mod arch;
mod layers;
#[cfg(test)]
pub(crate) mod tiny;
mod weights;

use std::ops::Range;

use tch::Tensor;

use crate::tuning::{Step, Tuning};
use crate::vit::{Pool, Vit};

pub use arch::{Arch, ArchError, TensorShape};
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
}

impl Backbone {
    /// Builds the backbone from weights that were checked against `arch`.
    pub fn new(arch: Arch, weights: Weights) -> Backbone {
        let net = match &arch {
            Arch::Vit(arch) => Net::Vit(Vit::new(arch.clone(), weights.share())),
        };
        Backbone { arch, weights, net }
    }

    /// The same backbone with some of its tensors replaced, for a method that trains them. Handles are copied, not
    /// numbers, so that this may be done in every step.
    pub fn with(&self, replaced: Vec<(String, Tensor)>) -> Backbone {
        Backbone::new(self.arch.clone(), self.weights.with(replaced))
    }

    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// A tensor of the checkpoint by its name, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.weights.get(name)
    }

    /// Images `[B, 3, S, S]`, normalised, to what enters block 0; for a ViT the tokens `[B, 1+N, D]`.
    pub fn embed(&self, images: &Tensor) -> Tensor {
        match &self.net {
            Net::Vit(vit) => vit.embed(images),
        }
    }

    /// Runs blocks on what `members` fused trials have at their entrance, members first.
    pub fn blocks(&self, x: Tensor, range: Range<usize>, tuning: &dyn Tuning, step: Step<'_>) -> Tensor {
        match &self.net {
            Net::Vit(vit) => vit.blocks(x, range, tuning, step),
        }
    }

    /// What [`Backbone::pool`] reads of the last block's output. Pooling the rest away first changes no bit.
    pub fn essence(&self, x: Tensor) -> Tensor {
        match &self.arch {
            Arch::Vit(vit) if vit.pool == Pool::Cls => x.narrow(1, 0, 1).contiguous(),
            Arch::Vit(_) => x,
        }
    }

    /// What the last block hands on to the head's input `[K·B, D]`.
    pub fn pool(&self, x: &Tensor) -> Tensor {
        match &self.net {
            Net::Vit(vit) => vit.pool(x),
        }
    }
}
