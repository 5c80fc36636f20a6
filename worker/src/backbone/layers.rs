//! Layers that several families are made of, on frozen weights.

use tch::Tensor;

use super::Weights;

#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}

impl Linear {
    pub(crate) fn new(weights: &mut Weights, name: &str) -> Linear {
        Linear {
            weight: weights.take(&format!("{name}.weight")),
            bias: weights.take(&format!("{name}.bias")),
        }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, Some(&self.bias))
    }
}

/// Over the last axis.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub(crate) fn new(weights: &mut Weights, name: &str, eps: f64) -> LayerNorm {
        let (weight, bias) = (weights.take(&format!("{name}.weight")), weights.take(&format!("{name}.bias")));
        LayerNorm { weight, bias, eps }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, false)
    }
}
