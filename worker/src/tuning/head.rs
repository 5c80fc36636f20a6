//! The head: logits = W z + b, one matrix per member; with hidden layers for VPT's MLP-k.
//!
//! A hidden layer is `z ← dropout(BN(relu(W z + b)))` on width D; MLP-k has k − 1 of them before the linear layer.

use sweeps::recipe::{Fidelity, HeadInit, Method};
use tch::Tensor;

use super::{Decay, Init, Param, Step, per_member};
use crate::backbone::Backbone;

/// W `[K, C, D]` and b `[K, C]`. The bias is not decayed (VPT code), but in CVPT's code it is.
#[derive(Debug)]
pub struct Head {
    hidden: Vec<Hidden>,
    dropout: f64,
    weight: Param,
    bias: Param,
}

impl Head {
    /// - `Vpt`: W ~ N(0, 2/C) (Kaiming normal, fan out), b = −ln 99, a prior of 0.01 for every class.
    /// - `Spt`: W ~ N(0, 0.02²), b = 0.
    /// - `Zero`: all zero.
    pub fn new(how: HeadInit, method: &Method, classes: i64, backbone: &Backbone, seeds: &[i64]) -> Head {
        let init = Init::new(seeds, backbone);
        let dim = i64::from(backbone.arch().dim());
        let normal = |std: f64| init.normal("head", std, &[classes, dim]);
        let (weight, bias) = match how {
            HeadInit::Vpt => (normal((2.0 / classes as f64).sqrt()), -(99f64.ln())),
            HeadInit::Spt => (normal(0.02), 0.0),
            HeadInit::Zero => (init.constant(0.0, &[classes, dim]), 0.0),
        };
        let (layers, dropout) = match method {
            Method::MlpK { layers, dropout } => (*layers as usize, *dropout),
            _ => (1, 0.0),
        };
        let bias_decay = match method {
            Method::Cvpt(cvpt) if cvpt.fidelity == Fidelity::Code => Decay::Head,
            _ => Decay::Never,
        };
        Head {
            hidden: (0..layers - 1).map(|i| Hidden::new(i, dim, &init)).collect(),
            dropout,
            weight: Param::new("head.weight", weight).decayed(Decay::Head),
            bias: Param::new("head.bias", init.constant(bias, &[classes])).decayed(bias_decay),
        }
    }

    pub fn params(&self) -> Vec<Param> {
        let hidden = self.hidden.iter().flat_map(|h| [&h.weight, &h.bias, &h.scale, &h.shift]);
        hidden.chain([&self.weight, &self.bias]).map(Param::share).collect()
    }

    /// Running means and variances of the hidden layers.
    pub fn buffers(&self) -> Vec<Param> {
        self.hidden.iter().flat_map(|h| [&h.running_mean, &h.running_var]).map(Param::share).collect()
    }

    /// Features `[K·B, D]` to logits `[K, B, C]`.
    pub fn forward(&self, z: &Tensor, step: Step<'_>) -> Tensor {
        let hidden = self.hidden.iter().enumerate().fold(z.shallow_clone(), |z, (i, hidden)| {
            let z = hidden.forward(&z, step);
            match step.noise {
                Some(noise) if self.dropout > 0.0 => noise.dropout(&z, self.dropout, &format!("head {i}")),
                _ => z,
            }
        });
        let logits = per_member(&hidden, &self.weight.value, Some(&self.bias.value)); // [K·B, C]
        logits.reshape([step.members, -1, logits.size()[1]])
    }
}

#[derive(Debug)]
struct Hidden {
    /// `[K, D, D]`, ~ N(0, 2/D).
    weight: Param,
    bias: Param,
    /// Batch norm: γ and β `[K, D]`.
    scale: Param,
    shift: Param,
    running_mean: Param,
    running_var: Param,
}

impl Hidden {
    fn new(index: usize, dim: i64, init: &Init<'_>) -> Hidden {
        let name = |part: &str| format!("head.mlp.{index}.{part}");
        let bound = (dim as f64).sqrt().recip();
        let weight = init.normal(&name("weight"), (2.0 / dim as f64).sqrt(), &[dim, dim]);
        let bias = init.uniform(&name("bias"), (-bound, bound), &[dim]);
        let head = |part: &str, value: Tensor| Param::new(name(part), value).decayed(Decay::Head);
        Hidden {
            weight: head("weight", weight),
            bias: head("bias", bias),
            scale: head("bn.weight", init.constant(1.0, &[dim])),
            shift: head("bn.bias", init.constant(0.0, &[dim])),
            running_mean: Param::constant(name("bn.running_mean"), init.constant(0.0, &[dim])),
            running_var: Param::constant(name("bn.running_var"), init.constant(1.0, &[dim])),
        }
    }

    /// `[K·B, D]` → `[K·B, D]`. A batch of one image has no variance, so it is normalised by the running statistics.
    fn forward(&self, z: &Tensor, step: Step<'_>) -> Tensor {
        let dim = z.size()[1];
        let h = per_member(z, &self.weight.value, Some(&self.bias.value)).relu();
        let h = h.reshape([step.members, -1, dim]).transpose(0, 1); // [B, K, D]
        let (batch, channels) = (h.size()[0], step.members * dim);
        let flat = |param: &Param| Some(param.value.reshape([channels]));
        let h = h.reshape([batch, channels]).batch_norm(
            flat(&self.scale),
            flat(&self.shift),
            flat(&self.running_mean),
            flat(&self.running_var),
            step.noise.is_some() && batch > 1,
            0.1,
            1e-5,
            false,
        );
        h.reshape([batch, step.members, dim]).transpose(0, 1).reshape([-1, dim])
    }
}
