//! Layers of convolutional networks on frozen weights, on maps `[N, C, H, W]`.

use tch::Tensor;

use crate::backbone::{LayerNorm, Weights};

/// A convolution, with its bias where the checkpoint has one.
#[derive(Debug)]
pub(super) struct Conv {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: i64,
    padding: i64,
    groups: i64,
}

impl Conv {
    pub(super) fn plain(weights: &mut Weights, name: &str, stride: i64, padding: i64) -> Conv {
        Conv { weight: weights.take(&format!("{name}.weight")), bias: None, stride, padding, groups: 1 }
    }

    pub(super) fn biased(weights: &mut Weights, name: &str, stride: i64, padding: i64, groups: i64) -> Conv {
        let bias = Some(weights.take(&format!("{name}.bias")));
        Conv { bias, groups, ..Conv::plain(weights, name, stride, padding) }
    }

    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        x.conv2d(&self.weight, self.bias.as_ref(), stride, padding, [1, 1], self.groups)
    }
}

/// Batch normalisation by the running statistics: the frozen backbone is always in evaluation mode.
#[derive(Debug)]
pub(super) struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: f64,
}

impl BatchNorm {
    pub(super) fn new(weights: &mut Weights, name: &str, eps: f64) -> BatchNorm {
        let mut take = |part: &str| weights.take(&format!("{name}.{part}"));
        BatchNorm {
            weight: take("weight"),
            bias: take("bias"),
            mean: take("running_mean"),
            variance: take("running_var"),
            eps,
        }
    }

    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let (weight, bias) = (Some(&self.weight), Some(&self.bias));
        x.batch_norm(weight, bias, Some(&self.mean), Some(&self.variance), false, 0.0, self.eps, false)
    }
}

/// A layer norm over the channels of a map.
pub(super) fn norm_channels(norm: &LayerNorm, x: &Tensor) -> Tensor {
    norm.forward(&x.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
}

/// The mean over all places, `[N, C, H, W]` → `[N, C, 1, 1]`.
pub(super) fn mean_places(x: &Tensor) -> Tensor {
    x.mean_dim([2i64, 3].as_slice(), true, None)
}
