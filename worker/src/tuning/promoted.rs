//! Tensors of the backbone that are trained themselves: which they are, and their leaves.
//!
//! A promoted tensor keeps its name and starts from the checkpoint. In each forward pass it stands in for the
//! frozen one ([`Backbone::with`]). Members share a backbone, so K = 1.

use tch::{Device, Kind, Tensor};

use super::{Entry, Param, seeded, stream};
use crate::backbone::{Arch, Backbone, Place, TensorShape};

/// Which tensors of the backbone are trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Trained {
    Nothing,
    /// Every tensor whose name holds `bias` (BitFit), with a factor on its learning rate.
    Biases {
        lr_factor: f64,
    },
    /// The last blocks, and the last norm or not.
    Last {
        blocks: u32,
        norm: bool,
    },
    Everything,
    /// The class token; anew: from N(0, 10⁻¹²), as the VPT code's `cls-reinit`.
    Cls {
        anew: bool,
    },
}

impl Trained {
    fn is(self, name: &str, arch: &Arch) -> bool {
        match self {
            Trained::Nothing => false,
            Trained::Biases { .. } => name.contains("bias"),
            Trained::Everything => true,
            Trained::Cls { .. } => name == "cls_token",
            Trained::Last { blocks, norm } => match arch.place(name) {
                Place::Embedding => false,
                Place::Block(block) => block >= arch.depth().saturating_sub(blocks) as usize,
                Place::Norm => norm,
            },
        }
    }

    /// Names of the trained tensors.
    fn names(self, arch: &Arch) -> impl Iterator<Item = String> {
        let parameters =
            arch.tensors().into_iter().filter(TensorShape::is_parameter).map(|tensor| tensor.name);
        parameters.filter(move |name| self.is(name, arch))
    }

    /// The earliest thing that a trained tensor touches.
    pub(super) fn entry(self, arch: &Arch) -> Entry {
        let places = self.names(arch).map(|name| match arch.place(&name) {
            Place::Embedding => Entry::Images,
            Place::Block(block) => Entry::Block(block),
            // The norm is passed with what leaves the last block.
            Place::Norm => Entry::Block(arch.depth() as usize),
        });
        places.min().unwrap_or(Entry::Block(arch.depth() as usize))
    }

    /// The leaves `[1, …]`, copies of the checkpoint's tensors.
    pub(super) fn leaves(self, backbone: &Backbone, seed: i64) -> Vec<Param> {
        self.names(backbone.arch())
            .map(|name| {
                let frozen = backbone.tensor(&name);
                let value = match self {
                    Trained::Cls { anew: true } => seeded(stream(seed, "cls_token", 0), || {
                        Tensor::empty(frozen.size(), (Kind::Float, Device::Cpu)).normal_(0.0, 1e-6)
                    })
                    .to_kind(frozen.kind())
                    .to_device(frozen.device()),
                    _ => frozen.copy(),
                };
                let lr = if let Trained::Biases { lr_factor } = self { lr_factor } else { 1.0 };
                Param::new(name, value.unsqueeze(0)).at_rate(lr)
            })
            .collect()
    }
}
