//! A tiny random backbone for tests.

use tch::{Device, Kind, Tensor};

use super::{Arch, Backbone, TensorShape, Weights};
use crate::tuning::seeded;
use crate::vit::{self, Pool, PositionResize};

/// Four blocks of 2 heads × 6, 3×3 patches of 4 pixels.
pub(crate) fn arch() -> vit::Arch {
    vit::Arch {
        dim: 12,
        depth: 4,
        heads: 2,
        patch_size: 4,
        image_size: 12,
        mlp_dim: 20,
        layer_norm_eps: 1e-6,
        layer_scale: true,
        pool: Pool::Cls,
        position_resize: PositionResize::Bicubic,
    }
}

/// The arch's tensors, drawn from N(0, 0.3²); scales are around 1.
pub(crate) fn tensors(arch: &Arch, kind: Kind) -> Vec<(String, Tensor)> {
    let draw = |TensorShape { name, shape }: TensorShape| {
        let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let value = Tensor::randn(shape, (kind, Device::Cpu)) * 0.3;
        let scale = name.contains("norm") && name.ends_with("weight") || name.ends_with("gamma");
        (name, if scale { value + 1.0 } else { value })
    };
    seeded(7, || arch.tensors().into_iter().map(draw).collect())
}

pub(crate) fn backbone(arch: impl Into<Arch>, kind: Kind) -> Backbone {
    let arch = arch.into();
    let weights = Weights::new(tensors(&arch, kind), &arch, kind, Device::Cpu);
    Backbone::new(arch, weights.expect("the tensors were made from the arch"))
}

/// Images `[n, 3, S, S]` ~ N(0, 1) and labels `[n]` below `classes`.
pub(crate) fn batch(side: i64, n: i64, classes: i64, kind: Kind) -> (Tensor, Tensor) {
    let images = seeded(11, || Tensor::randn([n, 3, side, side], (kind, Device::Cpu)));
    (images, Tensor::arange(n, (Kind::Int64, Device::Cpu)).remainder(classes))
}
