//! Tiny random backbones of every family, for tests.

use tch::{Device, Kind, Tensor};

use super::{Arch, Backbone, TensorShape, Weights};
use crate::convnet::{convnext, resnet};
use crate::swin;
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

/// Two stages of 8×8 and 4×4 patches, in windows of 2×2.
pub(crate) fn swin() -> swin::Arch {
    let stage = |depth, heads, mlp_dim| swin::Stage { depth, heads, mlp_dim };
    swin::Arch {
        image_size: 16,
        patch_size: 2,
        dim: 6,
        window: 2,
        stages: vec![stage(2, 1, 10), stage(2, 3, 14)],
        layer_norm_eps: 1e-5,
    }
}

pub(crate) fn resnet(block: resnet::BlockKind) -> resnet::Arch {
    let stage = |depth, width| resnet::Stage { depth, width };
    resnet::Arch { block, stem: 4, stages: vec![stage(1, 4), stage(2, 5)], batch_norm_eps: 1e-5 }
}

pub(crate) fn convnext() -> convnext::Arch {
    let stage = |depth, dim| convnext::Stage { depth, dim };
    convnext::Arch { stages: vec![stage(1, 4), stage(2, 6)], layer_norm_eps: 1e-6 }
}

/// One of each family, and the side of an image for it.
pub(crate) fn families() -> Vec<(Arch, i64)> {
    vec![
        (arch().into(), 12),
        (vit::Arch { pool: Pool::MeanFcNorm, ..arch() }.into(), 12),
        (swin().into(), 16),
        (resnet(resnet::BlockKind::Basic).into(), 21),
        (resnet(resnet::BlockKind::Bottleneck).into(), 21),
        (convnext().into(), 19),
    ]
}

/// The arch's tensors, drawn from N(0, 0.3²); scales are around 1.
pub(crate) fn tensors(arch: &Arch, kind: Kind) -> Vec<(String, Tensor)> {
    let draw = |TensorShape { name, shape }: TensorShape| {
        let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let value = Tensor::randn(shape, (kind, Device::Cpu)) * 0.3;
        let is_norm = name.contains("norm") || name.contains("bn");
        let is_scale = is_norm && name.ends_with("weight") || name.ends_with("gamma");
        let value = if name.ends_with("running_var") { value.abs() + 0.5 } else { value };
        (name, if is_scale { value + 1.0 } else { value })
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
