//! How the tensors of a new run are made.

use tch::{Device, Kind, Tensor};

use super::{seeded, stream};
use crate::backbone::Backbone;

/// Draws for each member from its own seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Init<'a> {
    pub(super) seeds: &'a [i64],
    pub(super) kind: Kind,
    pub(super) device: Device,
}

impl<'a> Init<'a> {
    /// Tensors beside those of `backbone`.
    pub(super) fn new(seeds: &'a [i64], backbone: &Backbone) -> Init<'a> {
        let (kind, device) = backbone.options();
        Init { seeds, kind, device }
    }

    /// K.
    pub(super) fn members(&self) -> i64 {
        self.seeds.len() as i64
    }

    /// Stacks one tensor per member, drawn on the CPU so that every device starts alike: `[K, …]`.
    pub(super) fn draw(&self, purpose: &str, draw: impl Fn() -> Tensor) -> Tensor {
        let drawn: Vec<Tensor> =
            self.seeds.iter().map(|&seed| seeded(stream(seed, purpose, 0), &draw)).collect();
        Tensor::stack(&drawn, 0).to_kind(self.kind).to_device(self.device)
    }

    /// N(0, `std`²).
    pub(super) fn normal(&self, purpose: &str, std: f64, shape: &[i64]) -> Tensor {
        self.draw(purpose, || Tensor::empty(shape, (Kind::Float, Device::Cpu)).normal_(0.0, std))
    }

    /// U(`low`, `high`).
    pub(super) fn uniform(&self, purpose: &str, (low, high): (f64, f64), shape: &[i64]) -> Tensor {
        self.draw(purpose, || Tensor::empty(shape, (Kind::Float, Device::Cpu)).uniform_(low, high))
    }

    /// The same value for every member.
    pub(super) fn constant(&self, value: f64, shape: &[i64]) -> Tensor {
        let shape = [&[self.members()], shape].concat();
        Tensor::full(shape, value, (self.kind, self.device))
    }

    /// Prompts `[K, …]` ~ U(−v, v), v = √(6 / (3p² + d)) with patch side p and width d (VPT, section 3.2 and its code).
    pub(super) fn prompt(&self, patch: u32, width: i64, shape: &[i64]) -> Tensor {
        let v = (6.0 / (3 * i64::from(patch).pow(2) + width) as f64).sqrt();
        self.uniform("prompt", (-v, v), shape)
    }
}
