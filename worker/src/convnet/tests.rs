//! Sizes and shapes of convolutional backbones.

use proptest::prelude::*;
use tch::{Kind, Tensor};

use super::{convnext, resnet};
use crate::backbone::{Arch, ArchError, Backbone, tiny};
use crate::tuning::{Linear, Step};

fn resnet(block: resnet::BlockKind, depths: [u32; 4]) -> resnet::Arch {
    let stage = |s: usize| resnet::Stage { depth: depths[s], width: 64 << s };
    resnet::Arch { block, stem: 64, stages: (0..4).map(stage).collect(), batch_norm_eps: 1e-5 }
}

fn convnext(depths: [u32; 4], dim: u32) -> convnext::Arch {
    let stage = |s: usize| convnext::Stage { depth: depths[s], dim: dim << s };
    convnext::Arch { stages: (0..4).map(stage).collect(), layer_norm_eps: 1e-6 }
}

#[test]
fn published_sizes() {
    let parameters = |arch: Arch| arch.parameters();
    // As published, with a head for 1,000 classes.
    let resnet18 = resnet(resnet::BlockKind::Basic, [2, 2, 2, 2]).into();
    let resnet50 = resnet(resnet::BlockKind::Bottleneck, [3, 4, 6, 3]).into();
    assert_eq!(parameters(resnet18) + 1000 * 513, 11_689_512);
    assert_eq!(parameters(resnet50) + 1000 * 2049, 25_557_032);
    assert_eq!(parameters(convnext([3, 3, 9, 3], 96).into()) + 1000 * 769, 28_589_128);
    assert_eq!(parameters(convnext([3, 3, 27, 3], 128).into()) + 1000 * 1025, 88_591_464);
}

#[test]
fn numbers_that_do_not_fit_are_named() {
    let mut arch = convnext([3, 3, 27, 3], 128);
    assert_eq!(arch.check(), Ok(()));
    assert_eq!(arch.check_image_size(31), Err(ArchError::TooSmall { size: 31, least: 32 }));
    arch.stages.clear();
    assert_eq!(arch.check(), Err(ArchError::Zero("stages")));
    let zero_width = resnet::Arch { stem: 0, ..resnet(resnet::BlockKind::Basic, [1; 4]) };
    assert_eq!(zero_width.check(), Err(ArchError::Zero("stem")));
}

fn features(backbone: &Backbone, images: &Tensor) -> Tensor {
    let (depth, plain) = (backbone.arch().depth() as usize, Linear::new(backbone.arch()));
    backbone.pool(&backbone.blocks(backbone.embed(images), 0..depth, &plain, Step::evaluation(1)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn images_of_any_size_are_taken(
        depths in proptest::collection::vec(1u32..3, 1..4),
        width in 1u32..4,
        side in 16i64..40,
        is_bottleneck in any::<bool>(),
    ) {
        let block = if is_bottleneck { resnet::BlockKind::Bottleneck } else { resnet::BlockKind::Basic };
        let stages = depths.iter().map(|&depth| resnet::Stage { depth, width }).collect();
        let resnet = resnet::Arch { block, stem: 3, stages, batch_norm_eps: 1e-5 };
        let stages = depths.iter().enumerate();
        let stages = stages.map(|(s, &depth)| convnext::Stage { depth, dim: width + s as u32 }).collect();
        let convnext = convnext::Arch { stages, layer_norm_eps: 1e-6 };
        for arch in [Arch::from(resnet), Arch::from(convnext)] {
            prop_assert_eq!((arch.check(), arch.check_image_size(side)), (Ok(()), Ok(())));
            let backbone = tiny::backbone(arch.clone(), Kind::Float);
            let (images, _) = tiny::batch(side, 2, 2, Kind::Float);
            let z = features(&backbone, &images);
            prop_assert_eq!(z.size(), [2, i64::from(arch.dim())]);
            prop_assert!(z.isfinite().all().int64_value(&[]) == 1);
            let first = backbone.embed(&images);
            prop_assert_eq!(first.numel() as i64 / 2, arch.entering(0, side));
        }
    }
}
