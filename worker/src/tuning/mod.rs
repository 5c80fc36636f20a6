//! Methods of visual prompt tuning, one file per method beside its equation, over the hook sites of a frozen backbone.
//!
//! Every tuned tensor has a leading axis K of *members*: trials that are trained together on one backbone. The batch of
//! a step is `[K·B, …]`, members first. Nothing here mixes members. Methods that train tensors of the backbone itself
//! ([`is_fusable`]) have one member, K = 1, since members share the backbone.

mod adapter;
mod add;
mod below;
mod build;
pub mod classes;
mod cvpt;
mod e2vpt;
mod gated;
mod head;
mod init;
mod kept;
mod linear;
mod lora;
mod noise;
mod ops;
mod pad;
mod param;
mod pixels;
mod promoted;
mod sidetune;
pub mod spt;
mod ssf;
mod swin;
mod vpt;

use tch::Tensor;

use crate::backbone::Backbone;
use crate::swin::Order;
use crate::vit::Block;

pub use build::{Built, beside, build, is_fusable};
pub use head::Head;
pub use kept::Kept;
pub use linear::Linear;
pub use noise::{Noise, seeded, stream};
pub use param::{Decay, Param};
pub use sidetune::Side;

use init::Init;
use ops::{attention, batch_of, dropped, insert, per_member, per_sample};

/// What a forward pass starts from: the earliest thing that the method touches. What comes before it depends on the
/// image alone and needs no gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// Normalised images `[·, 3, S, S]`.
    Images,
    /// The tokens that enter a block, `[·, T, D]`; the number of blocks stands for the head.
    Block(usize),
}

/// One forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// K.
    pub members: i64,
    /// Where dropout draws from; `None` in evaluation.
    pub noise: Option<Noise<'a>>,
    /// Dropout behind the embedding and behind both layers of each MLP of a ViT, in training.
    pub dropout: f64,
    /// Stochastic depth at the last block, in training; it grows linearly from 0 at the first.
    pub drop_path: f64,
}

impl Step<'_> {
    pub fn evaluation<'a>(members: i64) -> Step<'a> {
        Step { members, noise: None, dropout: 0.0, drop_path: 0.0 }
    }

    /// Dropout inside the backbone, in training only.
    pub(crate) fn dropped(self, x: Tensor, purpose: &str) -> Tensor {
        match self.noise {
            Some(noise) if self.dropout > 0.0 => noise.dropout(&x, self.dropout, purpose),
            _ => x,
        }
    }
}

/// A block in a forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    pub layer: usize,
    /// L.
    pub depth: usize,
    pub block: &'a Block,
    pub step: Step<'a>,
}

/// What a method does to the backbone. Every hook defaults to the identity, so that a method with no hook is the plain
/// backbone. Tokens are `[K·B, T, D]`; their order is `[CLS, prompts, patches]`.
pub trait Tuning: std::fmt::Debug {
    /// The method's tensors, the head's excepted.
    fn params(&self) -> Vec<Param>;

    /// Tensors that are saved with the parameters but not optimised.
    fn buffers(&self) -> Vec<Param> {
        Vec::new()
    }

    /// Factors on prompts, all 1 until something is pruned, whose gradients say what matters. Leaves, trained or not.
    fn masks(&self) -> Vec<Param> {
        Vec::new()
    }

    /// Where the forward pass starts.
    fn entry(&self) -> Entry;

    /// Dropout inside the backbone in training.
    fn dropout(&self) -> f64 {
        0.0
    }

    /// Stochastic depth of the backbone's blocks in training.
    fn drop_path(&self) -> f64 {
        0.0
    }

    /// Brings parameters back into their domain, in place; called at the start of every forward pass.
    fn constrain(&self) {}

    /// Tensors of the backbone that the method replaces in this pass, by its name in the checkpoint.
    fn weights(&self, _backbone: &Backbone) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// The images `[K·B, C, S', S']` that are embedded, given `[K·B, 3, S, S]`. Asked for only where the entry is
    /// [`Entry::Images`].
    fn images(&self, images: Tensor, _step: Step<'_>) -> Tensor {
        images
    }

    /// Swin only: prompts `[K·B, P, C]` that take the slots at the entrance of block `layer`, for `samples` = K·B; `None`
    /// leaves the slots as they are.
    fn slots(&self, _layer: usize, _samples: i64, _step: Step<'_>) -> Option<Tensor> {
        None
    }

    /// Swin only: which windows get whose prompts.
    fn window_order(&self) -> Order {
        Order::BatchMajor
    }

    /// The sequence that enters block `at.layer`.
    fn tokens(&self, x: Tensor, _at: Site<'_>) -> Tensor {
        x
    }

    /// Queries, keys and values `[K·B, T, 3D]` of the normalised tokens `y`.
    fn qkv(&self, _y: &Tensor, qkv: Tensor, _at: Site<'_>) -> Tensor {
        qkv
    }

    /// Attention of block `at.layer` on queries, keys and values `[K·B, H, T, d]`; returns `[K·B, H, T, d]`.
    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, _at: Site<'_>) -> Tensor {
        attention(q, k, v)
    }

    /// The residual stream behind the attention, given what entered the block.
    fn attended(&self, _entered: &Tensor, computed: Tensor, _at: Site<'_>) -> Tensor {
        computed
    }

    /// The MLP's input `y` = norm₂(`x`).
    fn mlp_input(&self, _x: &Tensor, y: Tensor, _at: Site<'_>) -> Tensor {
        y
    }

    /// The MLP's output before it is added to the residual stream.
    fn mlp(&self, h: Tensor, _at: Site<'_>) -> Tensor {
        h
    }

    /// What block `at.layer` hands on, given what entered it (after [`Tuning::tokens`]) and what it computed.
    fn boundary(&self, _entered: &Tensor, computed: Tensor, _at: Site<'_>) -> Tensor {
        computed
    }

    /// What leaves the last block as one vector, `[K·B, T, D]` → `[K·B, D]`.
    fn pool(&self, backbone: &Backbone, x: &Tensor) -> Tensor {
        backbone.pool(x)
    }

    /// The head's input `[K·B, D]`, after pooling. `images` are there if the method's entry asks for them.
    fn feature(&self, z: Tensor, _images: Option<&Tensor>, _step: Step<'_>) -> Tensor {
        z
    }
}

#[cfg(test)]
mod identity_tests;
#[cfg(test)]
mod matrix_tests;
#[cfg(test)]
mod spt_tests;
#[cfg(test)]
mod tests;
