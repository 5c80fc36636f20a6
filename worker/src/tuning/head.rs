//! The linear head: logits = W z + b, one matrix per member.

use sweeps::recipe::HeadInit;
use tch::{Device, Kind, Tensor};

use super::{Init, Param};

/// W `[K, C, D]` and b `[K, C]`. The bias is never decayed (VPT code).
#[derive(Debug)]
pub struct Head {
    weight: Param,
    bias: Param,
}

impl Head {
    /// - `Vpt`: W ~ N(0, 2/C) (Kaiming normal, fan out), b = −ln 99, a prior of 0.01 for every class.
    /// - `Spt`: W ~ N(0, 0.02²), b = 0.
    /// - `Zero`: all zero.
    pub fn new(how: HeadInit, classes: i64, dim: i64, seeds: &[i64], kind: Kind, device: Device) -> Head {
        let init = Init { seeds, kind, device };
        let normal = |std: f64| {
            init.members("head", || {
                Tensor::empty([classes, dim], (Kind::Float, Device::Cpu)).normal_(0.0, std)
            })
        };
        let (weight, bias) = match how {
            HeadInit::Vpt => (normal((2.0 / classes as f64).sqrt()), -(99f64.ln())),
            HeadInit::Spt => (normal(0.02), 0.0),
            HeadInit::Zero => (init.constant(0.0, &[classes, dim]), 0.0),
        };
        let bias = init.constant(bias, &[classes]);
        Head { weight: Param::new("head.weight", weight, true), bias: Param::new("head.bias", bias, false) }
    }

    pub fn params(&self) -> Vec<Param> {
        vec![self.weight.share(), self.bias.share()]
    }

    /// Features `[K·B, D]` to logits `[K, B, C]`.
    pub fn forward(&self, z: &Tensor) -> Tensor {
        let (members, _, dim) = self.weight.value.size3().expect("the head's weight has three axes");
        let z = z.reshape([members, -1, dim]);
        self.bias.value.unsqueeze(1).baddbmm(&z, &self.weight.value.transpose(1, 2), 1.0, 1.0)
    }
}
