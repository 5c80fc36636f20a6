//! What holds for every family: shapes, places of tensors, members, sidecars.

use serde::Deserialize;
use sweeps::recipe::{HeadInit, Location, Method, Recipe};
use tch::{Kind, Tensor};

use super::*;
use crate::trainer::{Ensemble, Member, Rule, Setup};
use crate::tuning::{Entry, Linear, Step};

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

/// What enters where a method starts.
fn entering(ensemble: &Ensemble, backbone: &Backbone, images: &Tensor) -> Tensor {
    let Entry::Block(first) = ensemble.entry() else { return images.shallow_clone() };
    let (plain, step) = (Linear::new(backbone.arch()), Step::evaluation(1));
    backbone.blocks(backbone.embed(images), 0..first, &plain, step)
}

#[test]
fn every_method_of_a_family_trains_all_that_it_holds() {
    for (arch, side) in tiny::families() {
        let backbone = tiny::backbone(arch.clone(), Kind::Double);
        let (images, labels) = tiny::batch(side, 4, 2, Kind::Double);
        let family = arch.family();
        // Side-tuning needs images that AlexNet can take.
        for method in family.methods().iter().filter(|name| **name != "sidetune") {
            let location = if family.locations().contains(&Location::Prepend) { "prepend" } else { "pad" };
            let further = match *method {
                "vpt_shallow" => format!(r#", "prompt_length": 2, "location": "{location}""#),
                "vpt_deep" | "gated" | "spt_deep" | "spt_shallow" | "cvpt" => {
                    r#", "prompt_length": 2"#.into()
                }
                "condense" => r#", "prompt_length": 2, "pruning_ratio": 0.5"#.into(),
                "e2vpt" => r#", "prompt_length": 2, "kv_prompt_length": 2, "segments": 4"#.into(),
                "partial_k" => r#", "trained_blocks": 1"#.into(),
                "mlp_k" => r#", "mlp_layers": 2"#.into(),
                _ => String::new(),
            };
            let json = format!(r#"{{"backbone": "b", "task": "t", "method": "{method}", "lr": 1{further}}}"#);
            let recipe = Recipe::from_json(&json).unwrap();
            assert_eq!(recipe.check_family(family), Ok(()));
            let setup = Setup {
                method: &recipe.method,
                head: HeadInit::Vpt,
                setr: None,
                classes: 2,
                image_size: side,
                rule: Rule::Sgd,
                members: &[Member { seed: 1, wd: 0.0, wd_head: 0.0, momentum: 0.9 }],
                kept: None,
            };
            let mut ensemble = Ensemble::new(&backbone, &setup);
            let x = entering(&ensemble, &backbone, &images);
            let loss = ensemble.train_step(&backbone, x, &labels.unsqueeze(0), &[0.01]);
            assert!(loss.isfinite().all().int64_value(&[]) == 1, "{method} on {arch}");
            for param in ensemble.params() {
                assert!(param.value.grad().defined(), "{} of {method} on {arch}", param.name);
            }
        }
    }
}

#[test]
fn the_last_blocks_of_swin_bring_what_merges_patches_between_them() {
    let backbone = tiny::backbone(tiny::swin(), Kind::Float);
    let trained = |blocks: u32| -> Vec<String> {
        let method = Method::PartialK { blocks, norm: true };
        let built = crate::tuning::build(&method, &backbone, 16, &[1], None);
        built.promoted.into_iter().map(|param| param.name).collect()
    };
    // Two stages of two blocks: the third block from the end is the last one of the first stage.
    let merges = |names: &[String]| names.iter().any(|name| name.starts_with("layers.0.downsample."));
    assert!(!merges(&trained(2)) && merges(&trained(3)));
    assert!(
        trained(1).iter().all(|name| name.starts_with("layers.1.blocks.1.") || name.starts_with("norm."))
    );
    let bias = crate::tuning::build(&Method::Bias { lr_factor: 1.0 }, &backbone, 16, &[1], None);
    assert!(bias.promoted.iter().any(|param| param.name.ends_with("relative_position_bias_table")));
}
