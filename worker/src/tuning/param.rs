//! A tensor that is tuned, and what the optimiser may do to it.

use tch::Tensor;

/// Which weight decay applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decay {
    Never,
    /// The trial's.
    Body,
    /// The trial's decay of the head.
    Head,
}

/// A tensor that is optimised, counted and saved.
#[derive(Debug)]
pub struct Param {
    /// Canonical name: `prompt`, `gate_logit`, `head.weight`; the timm name of a tensor of the backbone.
    pub name: String,
    /// `[K, …]`, a leaf.
    pub value: Tensor,
    pub decay: Decay,
    /// Factor of the learning rate.
    pub lr: f64,
}

impl Param {
    /// A trained tensor that is decayed as the trial says.
    pub(crate) fn new(name: impl Into<String>, value: Tensor) -> Param {
        Param { name: name.into(), value: value.set_requires_grad(true), decay: Decay::Body, lr: 1.0 }
    }

    /// A tensor that is kept as it is.
    pub(crate) fn constant(name: impl Into<String>, value: Tensor) -> Param {
        Param { name: name.into(), value: value.set_requires_grad(false), decay: Decay::Never, lr: 0.0 }
    }

    pub(crate) fn decayed(self, decay: Decay) -> Param {
        Param { decay, ..self }
    }

    pub(crate) fn at_rate(self, lr: f64) -> Param {
        Param { lr, ..self }
    }

    /// The same leaf under a second handle.
    pub fn share(&self) -> Param {
        Param { name: self.name.clone(), value: self.value.shallow_clone(), ..*self }
    }
}
