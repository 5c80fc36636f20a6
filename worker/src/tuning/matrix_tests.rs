//! Every method on every family that it can tune: a step trains it, members stay apart, and numbers are counted by formula.

use proptest::prelude::*;
use sweeps::recipe::{Family, METHODS, Method, Recipe};
use tch::{Kind, Tensor};

use super::*;
use crate::backbone::{Arch, Backbone, tiny};
use crate::trainer::{Ensemble, Member, Rule, Setup};
use crate::vit::{self, Pool, PositionResize};

const CLASSES: i64 = 3;

/// A recipe's method from its keys. The backbone's name tells nothing.
fn method(name: &str, keys: &str) -> Method {
    let json = format!(r#"{{"backbone": "b", "task": "t", "lr": 1, "method": "{name}"{keys}}}"#);
    Recipe::from_json(&json).unwrap_or_else(|error| panic!("{json}: {error}")).method
}

/// A method's settings for tests, beside its location.
fn keys(name: &str, location: Option<&str>) -> String {
    let own = match name {
        "mlp_k" => r#", "mlp_layers": 3"#,
        "partial_k" => r#", "trained_blocks": 2"#,
        "adapter" => r#", "reduction": 3"#,
        "lora" => r#", "rank": 2"#,
        "e2vpt" => r#", "prompt_length": 2, "kv_prompt_length": 2, "segments": 4, "fidelity": "code""#,
        "gated" | "spt_shallow" | "spt_deep" | "cvpt" => r#", "prompt_length": 2"#,
        _ if matches!(location, Some("add" | "add_1")) => "",
        "vpt_shallow" | "vpt_deep" => r#", "prompt_length": 2"#,
        "condense" => r#", "prompt_length": 2, "pruning_ratio": 0.5"#,
        _ => "",
    };
    let place = location.map(|place| format!(r#", "location": "{place}""#)).unwrap_or_default();
    format!("{own}{place}")
}

/// All methods with all locations that a family offers; side-tuning, which needs larger images, is apart.
fn methods(family: Family) -> Vec<Method> {
    let mut all = Vec::new();
    for name in METHODS.iter().filter(|name| **name != "sidetune") {
        match family.capability(name) {
            None => {}
            Some(places) if places.is_empty() => all.push(method(name, &keys(name, None))),
            Some(places) => all.extend(places.iter().map(|place| method(name, &keys(name, Some(place))))),
        }
    }
    all
}

fn ensemble(backbone: &Backbone, method: &Method, image_size: i64, seeds: &[i64]) -> Ensemble {
    let member = |&seed: &i64| Member { seed, wd: 0.0, wd_head: 0.0, momentum: 0.9 };
    let members: Vec<Member> = seeds.iter().map(member).collect();
    let setup = Setup {
        method,
        head: sweeps::recipe::HeadInit::Spt,
        setr: None,
        classes: CLASSES,
        image_size,
        rule: Rule::Sgd,
        members: &members,
        kept: None,
    };
    Ensemble::new(backbone, &setup)
}

/// What enters where the method starts, as the trainer makes it.
fn entering(backbone: &Backbone, entry: Entry, images: &Tensor) -> Tensor {
    match entry {
        Entry::Images => images.shallow_clone(),
        Entry::Block(first) => {
            let plain = Linear::new(backbone.arch());
            tch::no_grad(|| backbone.blocks(backbone.embed(images), 0..first, &plain, Step::evaluation(1)))
        }
    }
}

fn repeated(x: &Tensor, members: i64) -> Tensor {
    Tensor::cat(&(0..members).map(|_| x.shallow_clone()).collect::<Vec<_>>(), 0)
}

#[test]
fn a_step_trains_every_tensor_of_every_method_on_every_family() {
    for (arch, side) in tiny::families() {
        let backbone = tiny::backbone(arch, Kind::Double);
        for method in methods(backbone.arch().family()) {
            let what = format!("{method:?} on {}", backbone.arch().family().name());
            let (images, labels) = tiny::batch(side, 4, CLASSES, Kind::Double);
            let mut one = ensemble(&backbone, &method, side, &[7]);
            // Tensors that start at zero pass no gradient on to those before them.
            for param in one.params() {
                let shifted = &param.value.detach() + 0.05;
                tch::no_grad(|| param.value.shallow_clone().copy_(&shifted));
            }
            let x = entering(&backbone, one.entry(), &images);
            let loss = one.train_step(&backbone, x.shallow_clone(), &labels.unsqueeze(0), &[0.1]);
            assert!(loss.double_value(&[0]).is_finite(), "{what}");
            for param in one.params() {
                let gradient = param.value.grad();
                assert!(gradient.defined(), "{what}: {} has no gradient", param.name);
                // A constant added to all keys changes no softmax, and MAE's class token feeds nothing behind the last block.
                let is_free = param.name.contains("qkv.bias") || param.name.contains("running");
                let largest = gradient.abs().max().double_value(&[]);
                assert!(largest > 0.0 || is_free, "{what}: {} is not trained", param.name);
            }
            let after = one.evaluate(&backbone, &x);
            assert_eq!(after.size(), [1, 4, CLASSES], "{what}");
            assert!(after.isfinite().all().int64_value(&[]) == 1, "{what}");
            let mut names: Vec<String> = one.saved().into_iter().map(|param| param.name).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), one.saved().len(), "{what} names two tensors alike");
        }
    }
}

#[test]
fn side_tuning_trains_its_network() {
    let backbone = tiny::backbone(tiny::arch(), Kind::Float);
    let (images, labels) = tiny::batch(64, 2, CLASSES, Kind::Float);
    let mut members = ensemble(&backbone, &Method::Sidetune, 64, &[1, 2]);
    let both = members.evaluate(&backbone, &images);
    for (k, seed) in [1, 2].into_iter().enumerate() {
        let alone = ensemble(&backbone, &Method::Sidetune, 64, &[seed]).evaluate(&backbone, &images);
        let off = (both.get(k as i64) - alone.get(0)).abs().max().double_value(&[]);
        assert!(off < 1e-5, "member {k} is off by {off}");
    }
    let x = repeated(&images, 2);
    let _ = members.train_step(&backbone, x, &labels.unsqueeze(0).repeat([2, 1]), &[0.1, 0.1]);
    assert!(members.params().iter().all(|p| p.value.grad().abs().max().double_value(&[]) > 0.0));
}

#[test]
fn members_learn_what_each_learns_alone_in_every_method() {
    for (arch, side) in tiny::families() {
        let backbone = tiny::backbone(arch, Kind::Double);
        for method in methods(backbone.arch().family()).into_iter().filter(is_fusable) {
            let (images, labels) = tiny::batch(side, 4, CLASSES, Kind::Double);
            let train = |seeds: &[i64]| {
                let mut ensemble = ensemble(&backbone, &method, side, seeds);
                let k = seeds.len() as i64;
                let x = entering(&backbone, ensemble.entry(), &images);
                let labels = labels.unsqueeze(0).repeat([k, 1]);
                for _ in 0..2 {
                    let _ =
                        ensemble.train_step(&backbone, repeated(&x, k), &labels, &vec![0.05; seeds.len()]);
                }
                ensemble.evaluate(&backbone, &x)
            };
            let together = train(&[1, 2, 3]);
            for (k, seed) in [1, 2, 3].into_iter().enumerate() {
                let off = (together.get(k as i64) - train(&[seed]).get(0)).abs().max().double_value(&[]);
                assert!(off < 1e-9, "{method:?}: member {k} is off by {off}");
            }
        }
    }
}

/// The formulas of the papers, for one member and without the head.
fn formula(name: &str, location: Option<&str>, arch: &vit::Arch, side: i64) -> i64 {
    let (d, l, p) = (i64::from(arch.dim), i64::from(arch.depth), i64::from(arch.patch_size));
    let (n, m) = ((side / p).pow(2), i64::from(arch.mlp_dim));
    let heads = i64::from(arch.heads);
    match (name, location) {
        ("linear", _) => 0,
        ("mlp_k", _) => 2 * (d * d + 3 * d),
        ("cls", _) => d,
        ("full", _) => Arch::from(arch.clone()).parameters() as i64,
        ("partial_k", _) => {
            let scales = if arch.layer_scale { 2 * d } else { 0 };
            let block = 4 * d + (3 * d * d + 3 * d) + (d * d + d) + (2 * d * m + m + d) + scales;
            l.min(2) * block + 2 * d
        }
        ("bias", _) => d + l * (2 * d + 3 * d + d + m + d) + d,
        ("adapter", _) => l * (2 * d * (d / 3) + d / 3 + d),
        ("lora", _) => 4 * l * 2 * d,
        ("ssf", _) => 2 * (2 * d + l * (2 * d + 3 * d + 2 * d + m)),
        ("vpt_shallow", Some("prepend")) | ("spt_shallow", _) => 2 * d,
        ("vpt_deep", Some("prepend")) | ("condense" | "spt_deep" | "cvpt", _) => l * 2 * d,
        ("vpt_shallow", Some("prepend_pixel")) => 3 * p * p * 2,
        ("vpt_shallow", Some("add")) => (1 + n) * d,
        ("vpt_shallow", Some("add_1")) => d,
        ("vpt_deep", Some("add")) => l * (1 + n) * d,
        ("vpt_deep", Some("add_1")) => l * d,
        ("vpt_shallow", Some("pad")) => 12 * 2 * side + 12 * 4,
        ("vpt_shallow", Some("below")) => 2 * side * side + d * (3 + 2) * p * p + d,
        // Trained masks are counted.
        ("e2vpt", _) => l * 2 * d + l * heads * 2 * (d / heads) + 2 + 2 * 4,
        ("gated", _) => 2 * d + (l - 1) + l,
        (name, place) => panic!("no formula for {name} at {place:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn parameters_follow_their_formulas_on_vits_of_any_size(
        heads in 1u32..4,
        head_dim in 1u32..4,
        depth in 1u32..4,
        patch_size in 1u32..5,
        grid in 1i64..4,
        mlp_dim in 1u32..9,
        layer_scale in any::<bool>(),
        pool in prop_oneof![Just(Pool::Cls), Just(Pool::MeanNorm), Just(Pool::MeanFcNorm)],
    ) {
        // Four segments have to divide the width.
        let dim = heads * head_dim * 4;
        let arch = vit::Arch {
            dim,
            depth,
            heads,
            patch_size,
            image_size: 2 * patch_size,
            mlp_dim,
            layer_norm_eps: 1e-6,
            layer_scale,
            pool,
            position_resize: PositionResize::Bilinear,
        };
        let side = grid * i64::from(patch_size);
        let backbone = tiny::backbone(arch.clone(), Kind::Float);
        let (images, _) = tiny::batch(side, 2, CLASSES, Kind::Float);
        for name in METHODS.iter().filter(|name| **name != "sidetune") {
            let places = Family::Vit.capability(name).unwrap_or_default();
            let places: Vec<Option<&str>> =
                if places.is_empty() { vec![None] } else { places.into_iter().map(Some).collect() };
            for place in places {
                let made = ensemble(&backbone, &method(name, &keys(name, place)), side, &[1]);
                let head = CLASSES * (i64::from(dim) + 1);
                prop_assert_eq!(made.trainable(), formula(name, place, &arch, side) + head, "{} {:?}", name, place);
                let logits = made.evaluate(&backbone, &entering(&backbone, made.entry(), &images));
                prop_assert_eq!(logits.size(), [1, 2, CLASSES]);
                prop_assert!(logits.isfinite().all().int64_value(&[]) == 1, "{} {:?}", name, place);
            }
        }
    }
}
