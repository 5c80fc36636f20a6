//! SETR's progressive upsampling (PUP): a layer norm on the tokens, then convolutions of 3×3, each with batch norm and ReLU
//! and followed by bilinear upsampling, then one of 1×1 to the classes.

use tch::{Device, Kind, Tensor};

use crate::tuning::{Decay, Param, seeded, stream};

/// The numbers of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    pub convolutions: u32,
    /// Factor of each upsampling.
    pub upsampling: i64,
    pub channels: i64,
}

impl HeadShape {
    /// On the last block: four convolutions, each ×2, so that patches of 16 pixels become pixels.
    pub fn main(channels: i64) -> HeadShape {
        HeadShape { convolutions: 4, upsampling: 2, channels }
    }

    /// On a block within: two convolutions, each ×4.
    pub fn auxiliary(channels: i64) -> HeadShape {
        HeadShape { convolutions: 2, upsampling: 4, channels }
    }
}

const LAYER_NORM_EPS: f64 = 1e-6;
const BATCH_NORM_EPS: f64 = 1e-5;
/// Of the new batch in the running statistics.
const BATCH_NORM_MOMENTUM: f64 = 0.1;

/// A head under the names `PREFIX.norm`, `PREFIX.conv.N`, `PREFIX.bn.N`, `PREFIX.classes`. All tensors have a member axis of
/// one, and all that are trained are decayed as the head is.
#[derive(Debug)]
pub struct Head {
    shape: HeadShape,
    norm: [Param; 2],
    layers: Vec<Layer>,
    classes: [Param; 2],
}

#[derive(Debug)]
struct Layer {
    convolution: Param,
    scale: Param,
    shift: Param,
    mean: Param,
    variance: Param,
}

impl Head {
    /// Convolutions start from N(0, 2/fan out), the classifier from N(0, 0.01²), norms as the identity. `rate`: factor of
    /// the learning rate.
    pub fn new(
        prefix: &str,
        shape: HeadShape,
        dim: i64,
        classes: i64,
        rate: f64,
        seed: i64,
        (kind, device): (Kind, Device),
    ) -> Head {
        let param = |name: &str, value: Tensor| {
            let value = value.to_kind(kind).to_device(device).unsqueeze(0);
            Param::new(format!("{prefix}.{name}"), value).at_rate(rate).decayed(Decay::Head)
        };
        let normal = |name: &str, std: f64, shape: &[i64]| {
            let stream = stream(seed, &format!("{prefix}.{name}"), 0);
            param(name, seeded(stream, || Tensor::randn(shape, (Kind::Float, Device::Cpu))) * std)
        };
        let buffer = |name: &str, value: Tensor| {
            Param::constant(format!("{prefix}.{name}"), value.to_kind(kind).to_device(device).unsqueeze(0))
        };
        let ones = |n: i64| Tensor::ones([n], (kind, device));
        let zeros = |n: i64| Tensor::zeros([n], (kind, device));
        let c = shape.channels;
        let layers = (0..shape.convolutions).map(|n| {
            let input = if n == 0 { dim } else { c };
            let std = (2.0 / (9 * c) as f64).sqrt();
            Layer {
                convolution: normal(&format!("conv.{n}.weight"), std, &[c, input, 3, 3]),
                scale: param(&format!("bn.{n}.weight"), ones(c)),
                shift: param(&format!("bn.{n}.bias"), zeros(c)),
                mean: buffer(&format!("bn.{n}.running_mean"), zeros(c)),
                variance: buffer(&format!("bn.{n}.running_var"), ones(c)),
            }
        });
        Head {
            shape,
            norm: [param("norm.weight", ones(dim)), param("norm.bias", zeros(dim))],
            layers: layers.collect(),
            classes: [
                normal("classes.weight", 0.01, &[classes, c, 1, 1]),
                param("classes.bias", zeros(classes)),
            ],
        }
    }

    pub fn params(&self) -> Vec<Param> {
        let layers = self.layers.iter().flat_map(|layer| [&layer.convolution, &layer.scale, &layer.shift]);
        self.norm.iter().chain(layers).chain(&self.classes).map(Param::share).collect()
    }

    /// Running means and variances.
    pub fn buffers(&self) -> Vec<Param> {
        self.layers.iter().flat_map(|layer| [&layer.mean, &layer.variance]).map(Param::share).collect()
    }

    /// Patches `[B, g², D]` to logits `[B, C, u·g, u·g]`. In training the statistics are the batch's, and the running ones
    /// follow them.
    pub fn forward(&self, patches: &Tensor, training: bool) -> Tensor {
        let (batch, count, dim) = patches.size3().expect("patches have three axes");
        let side = count.isqrt();
        let value = |param: &Param| param.value.get(0);
        let [weight, bias] = &self.norm;
        let x = patches.layer_norm([dim], Some(&value(weight)), Some(&value(bias)), LAYER_NORM_EPS, false);
        let mut x = x.transpose(1, 2).reshape([batch, dim, side, side]);
        for layer in &self.layers {
            x = x.conv2d(&value(&layer.convolution), None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1);
            x = x.batch_norm(
                Some(&value(&layer.scale)),
                Some(&value(&layer.shift)),
                Some(&value(&layer.mean)),
                Some(&value(&layer.variance)),
                training,
                BATCH_NORM_MOMENTUM,
                BATCH_NORM_EPS,
                false,
            );
            let size = x.size()[2] * self.shape.upsampling;
            x = x.relu().upsample_bilinear2d([size, size], false, None, None);
        }
        let [weight, bias] = &self.classes;
        x.conv2d(&value(weight), Some(&value(bias)), [1, 1], [0, 0], [1, 1], 1)
    }
}
