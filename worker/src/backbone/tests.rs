//! What holds for every family: shapes, places of tensors, members, sidecars.

use serde::Deserialize;
use tch::{Kind, Tensor};

use super::*;
use crate::tuning::{Linear, Step};

/// What enters every block, what leaves the last one, and the feature.
fn boundaries(backbone: &Backbone, images: &Tensor) -> Vec<Tensor> {
    let (plain, step) = (Linear::new(backbone.arch()), Step::evaluation(1));
    let mut all = vec![backbone.embed(images)];
    for layer in 0..backbone.arch().depth() as usize {
        let x = all[layer].shallow_clone();
        all.push(backbone.blocks(x, layer..layer + 1, &plain, step));
    }
    all.push(backbone.pool(&all[all.len() - 1]));
    all
}

#[test]
fn a_tensor_is_read_first_where_its_place_says() {
    for (arch, side) in tiny::families() {
        let backbone = tiny::backbone(arch.clone(), Kind::Double);
        let (images, _) = tiny::batch(side, 2, 2, Kind::Double);
        let before = boundaries(&backbone, &images);
        for TensorShape { name, .. } in arch.tensors() {
            let other = backbone.tensor(&name) * 1.5 + 0.1;
            let after = boundaries(&backbone.with(vec![(name.clone(), other)]), &images);
            let first = before.iter().zip(&after).position(|(a, b)| !a.equal(b)).unwrap_or(usize::MAX);
            let expected = match arch.place(&name) {
                Place::Embedding => 0,
                Place::Block(block) => block + 1,
                Place::Norm => before.len() - 1,
            };
            assert_eq!(first, expected, "{} of {}", name, arch.family().name());
        }
    }
}

#[test]
fn as_many_numbers_enter_a_block_as_are_foretold() {
    for (arch, side) in tiny::families() {
        let backbone = tiny::backbone(arch.clone(), Kind::Float);
        let (images, _) = tiny::batch(side, 2, 2, Kind::Float);
        let all = boundaries(&backbone, &images);
        let depth = arch.depth() as usize;
        for (first, x) in all[..depth].iter().enumerate() {
            let numbers = x.numel() as i64 / 2;
            assert_eq!(arch.entering(first, side), numbers, "block {first} of {}", arch.family().name());
        }
        let essence = backbone.essence(all[depth].shallow_clone());
        assert_eq!(arch.entering(depth, side), essence.numel() as i64 / 2, "{}", arch.family().name());
        assert_eq!(all[depth + 1].size(), [2, i64::from(arch.dim())]);
        let off = (backbone.pool(&essence) - &all[depth + 1]).abs().max().double_value(&[]);
        assert!(off < 1e-6, "{} is off by {off}", arch.family().name());
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    for (arch, side) in tiny::families() {
        let backbone = tiny::backbone(arch.clone(), Kind::Double);
        let (images, _) = tiny::batch(side, 3, 2, Kind::Double);
        let features = |images: &Tensor| boundaries(&backbone, images).pop().unwrap();
        let off = (features(&images).narrow(0, 1, 1) - features(&images.narrow(0, 1, 1))).abs().max();
        assert!(off.double_value(&[]) < 1e-12, "{}", arch.family().name());
    }
}

#[test]
fn sidecars_of_all_families_are_read_as_written() {
    for (arch, side) in tiny::families() {
        let json = serde_json::to_value(&arch).unwrap();
        assert_eq!(json["family"], arch.family().name());
        assert_eq!(Arch::deserialize(&json).unwrap(), arch);
        assert_eq!((arch.check(), arch.check_image_size(side)), (Ok(()), Ok(())).clone(), "{arch}");
    }
}

#[test]
fn gradients_reach_what_is_replaced() {
    for (arch, side) in tiny::families() {
        let backbone = tiny::backbone(arch.clone(), Kind::Double);
        let (images, _) = tiny::batch(side, 2, 2, Kind::Double);
        let trained: Vec<(String, Tensor)> = arch
            .tensors()
            .into_iter()
            .filter(TensorShape::is_parameter)
            .map(|t| (t.name.clone(), backbone.tensor(&t.name).copy().set_requires_grad(true)))
            .collect();
        let replaced = trained.iter().map(|(name, leaf)| (name.clone(), leaf.shallow_clone())).collect();
        let features = boundaries(&backbone.with(replaced), &images).pop().unwrap();
        (&features * &features).sum(Kind::Double).backward();
        for (name, leaf) in trained {
            assert!(leaf.grad().defined(), "{name} of {}", arch.family().name());
        }
    }
}
