//! SSF (Lian et al., NeurIPS 2022): `y ← γ ⊙ y + β` behind the patch embedding, every norm and every linear layer.
//!
//! A scale and shift behind an affine operation is an affine operation: `γ ⊙ (W x + b) + β = (γ ⊙ W) x + (γ ⊙ b + β)`, so
//! the backbone runs with those weights, as the authors do for inference. γ ~ N(1, 0.02²), β ~ N(0, 0.02²).

use tch::Tensor;

use super::{Entry, Init, Param, Tuning};
use crate::backbone::Backbone;
use crate::vit::Arch;

#[derive(Debug)]
pub(super) struct Ssf {
    /// Each operation's timm name with γ and β, `[1, width]`.
    operations: Vec<(String, Param, Param)>,
}

impl Ssf {
    pub(super) fn new(arch: &Arch, init: &Init<'_>) -> Ssf {
        let operation = |name: String, width: i64| {
            let tensor = |part: &str, start: f64| {
                let name = format!("ssf.{name}.{part}");
                let value = init.normal(&name, 0.02, &[width]) + start;
                Param::new(name, value)
            };
            let (scale, shift) = (tensor("scale", 1.0), tensor("shift", 0.0));
            (name, scale, shift)
        };
        // Every operation has one bias.
        let biases = arch.tensors().into_iter().filter_map(|tensor| {
            let name = tensor.name.strip_suffix(".bias")?.to_owned();
            Some((name, tensor.shape[0] as i64))
        });
        Ssf { operations: biases.map(|(name, width)| operation(name, width)).collect() }
    }
}

impl Tuning for Ssf {
    fn params(&self) -> Vec<Param> {
        self.operations.iter().flat_map(|(_, scale, shift)| [scale.share(), shift.share()]).collect()
    }

    fn entry(&self) -> Entry {
        Entry::Images
    }

    fn weights(&self, backbone: &Backbone) -> Vec<(String, Tensor)> {
        let changed = self.operations.iter().flat_map(|(name, scale, shift)| {
            let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
            let (gamma, beta) = (scale.value.get(0), shift.value.get(0));
            let mut column = vec![1; backbone.tensor(&weight).dim()];
            column[0] = -1;
            let new_weight = backbone.tensor(&weight) * gamma.reshape(column);
            let new_bias = backbone.tensor(&bias) * gamma + beta;
            [(weight, new_weight), (bias, new_bias)]
        });
        changed.collect()
    }
}
