//! Tests of reading and writing recipes.

use proptest::prelude::*;

use super::super::{
    AlsoTrain, Cvpt, Deep, E2vpt, Fidelity, KvBlocks, KvPosition, Location, Method, Optimizer, PromptInit,
    Recipe, Schedule, Split, Spt, Vpt, Warmup,
};
use super::*;

fn json(extra: &str) -> String {
    format!(r#"{{"backbone": "vit_b16_in21k", "task": "vtab/dtd", "lr": 0.5{extra}}}"#)
}

#[track_caller]
fn ok(extra: &str) -> Recipe {
    Recipe::from_json(&json(extra)).unwrap()
}

#[track_caller]
fn refused(extra: &str) -> String {
    Recipe::from_json(&json(extra)).unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let recipe = ok(r#", "method": "vpt_deep", "prompt_length": 10"#);
    assert_eq!(
        recipe,
        Recipe {
            epoch_steps: None,
            setr: None,
            pruning: None,
            backbone: "vit_b16_in21k".into(),
            task: "vtab/dtd".into(),
            split: Split { train: "train800".into(), eval: "val200".into(), test: Some("test".into()) },
            preprocessing: Preprocessing::VptTf,
            normalization: Normalization::Imagenet,
            image_size: 224,
            method: Method::Vpt(Vpt::deep(10)),
            head_init: HeadInit::Vpt,
            epochs: 100,
            batch_size: 64,
            lr: 0.5,
            wd: 0.0,
            wd_head: None,
            optimizer: Optimizer::Sgd { momentum: 0.9 },
            schedule: Schedule::Cosine { warmup_epochs: 10, warmup: Warmup::Nonzero },
        }
    );
    let shallow = ok(r#", "method": "vpt_shallow", "prompt_length": 1"#).method;
    assert_eq!(shallow, Method::Vpt(Vpt::shallow(1)));
    assert_eq!(
        ok(r#", "method": "gated", "prompt_length": 1"#).method,
        Method::Gated {
            prompt_length: 1,
            insertion_depth: 0,
            prompt_dropout: 0.1,
            gate_init: 10.0,
            temperature: true
        }
    );
    assert_eq!(
        ok(r#", "method": "linear", "optimizer": "adamw""#).optimizer,
        Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    );
}

#[test]
fn test_null_leaves_the_test_images_alone() {
    assert_eq!(ok(r#", "method": "linear", "split": {"test": null}"#).split.test, None);
}

#[test]
fn warmup_must_end_before_training_does() {
    let with = |warmup: u32| {
        format!(
            r#", "method": "linear", "epochs": 5, "schedule": {{"name": "cosine", "warmup_epochs": {warmup}}}"#
        )
    };
    assert_eq!(ok(&with(4)).schedule, Schedule::Cosine { warmup_epochs: 4, warmup: Warmup::Nonzero });
    assert_eq!(refused(&with(5)), "schedule.warmup_epochs: is 5, but must be less than `epochs`, which is 5");
}

#[test]
fn a_key_that_the_method_does_not_read_is_refused_with_those_that_do() {
    assert_eq!(
        refused(r#", "method": "linear", "prompt_length": 5"#),
        "prompt_length: is not read by method `linear`: `vpt_shallow`, `vpt_deep`, `condense`, `e2vpt`, `gated`, `spt_shallow`, \
         `spt_deep` and `cvpt` read it"
    );
    assert_eq!(
        refused(r#", "method": "vpt_deep", "prompt_length": 5, "gate_init": 1"#),
        "gate_init: is not read by method `vpt_deep`: `gated` reads it"
    );
    assert_eq!(
        refused(r#", "method": "linear", "epoch": 5"#),
        "epoch: unknown key `epoch`: did you mean `epochs`?"
    );
}

#[test]
fn every_message_names_key_and_mend() {
    for (extra, message) in [
        (r#", "method": "lin""#, "method: unknown method `lin`: use `linear`, `mlp_k`, `partial_k`"),
        (r#", "method": "linaer""#, "method: unknown method `linaer`: did you mean `linear`?"),
        (r#", "method": 3"#, "method: must be one of `linear`"),
        (
            r#", "method": "linear", "epochs": 0"#,
            "epochs: must be an integer from 1 to 100000, found the number 0",
        ),
        (r#", "method": "linear", "epochs": "10""#, "found the string \"10\": remove the quotes"),
        (r#", "method": "linear", "epochs": 2.5"#, "epochs: must be an integer"),
        (r#", "method": "linear", "wd": -1"#, "wd: must be a number >= 0, found the number -1"),
        (r#", "method": "gated", "prompt_length": 1, "temperature": "true""#, "remove the quotes"),
        (r#", "method": "gated", "prompt_length": 1, "gate_init": 101"#, "gate_init: must be"),
        (r#", "method": "vpt_deep", "prompt_length": 1, "prompt_dropout": 1"#, "prompt_dropout: must be"),
        (r#", "method": "vpt_deep""#, "prompt_length: is required"),
        (r#", "method": "linear", "optimizer": {"momentum": 0.9}"#, "optimizer.name: is required"),
        (
            r#", "method": "linear", "optimizer": "adam""#,
            "optimizer.name: unknown name `adam`: did you mean `adamw`?",
        ),
        (
            r#", "method": "linear", "optimizer": {"name": "sgd", "beta1": 0}"#,
            "optimizer.beta1: unknown key of sgd `beta1`: use `name` or `momentum`",
        ),
        (
            r#", "method": "linear", "optimizer": {"name": "sgd", "momentum": 1}"#,
            "optimizer.momentum: must be",
        ),
        (r#", "method": "linear", "schedule": 3"#, "schedule: must be a name or a map"),
        (r#", "method": "linear", "split": "train""#, "split: must be a map"),
        (r#", "method": "linear", "split": {"train": "../x"}"#, "split.train: \"../x\" is no name"),
        (r#", "method": "linear", "split": {"trian": "x"}"#, "did you mean `train`?"),
    ] {
        let found = refused(extra);
        assert!(found.contains(message), "{extra}: {found}");
    }
}

#[test]
fn names_that_numbers_look_like_ask_for_quotes() {
    let found =
        Recipe::from_json(r#"{"backbone": 5, "task": "t", "method": "linear", "lr": 1}"#).unwrap_err();
    assert_eq!(found.to_string(), "backbone: must be a name: put quotes around it");
}

#[test]
fn json_that_is_no_recipe_is_refused() {
    assert!(Recipe::from_json("{").unwrap_err().to_string().starts_with("the recipe is no JSON"));
    assert!(Recipe::from_json("[]").unwrap_err().to_string().contains("found a list"));
}

#[test]
fn prompts_stay_within_a_backbone_of_known_depth() {
    let deep = |depth: u32, blocks: u32| {
        format!(
            r#", "method": "vpt_deep", "prompt_length": 1, "insertion_depth": {depth}, "prompted_blocks": {blocks}"#
        )
    };
    ok(&deep(11, 1));
    assert_eq!(
        refused(&deep(12, 1)),
        "insertion_depth: is 12, but `vit_b16_in21k` has 12 blocks: use 0 to 11"
    );
    assert!(refused(&deep(6, 7)).ends_with("use at most 6"));
    let unknown = json(&deep(20, 7)).replace("vit_b16_in21k", "swin_b");
    let recipe = Recipe::from_json(&unknown).unwrap();
    assert!(recipe.check_depth(27).is_ok());
    assert_eq!(recipe.check_depth(26).unwrap_err().key, "prompted_blocks");
    assert_eq!(recipe.check_depth(20).unwrap_err().key, "insertion_depth");
    assert_eq!(recipe.check_depth(0).unwrap_err().key, "insertion_depth");
}

#[test]
fn a_later_layer_hides_an_earlier_one() {
    let Value::Map(base) = serde_json::from_str(&json(r#", "method": "linear""#)).unwrap() else { panic!() };
    let over = Settings::from([("lr".to_owned(), Value::Int(2))]);
    let recipe = Recipe::resolve(Source { layers: &[&base, &over] }, 0.25).unwrap();
    assert_eq!(recipe.lr, 0.5);
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let vpt = r#", "method": "vpt_shallow", "prompt_length": 5"#;
    let deep = r#", "method": "vpt_deep", "prompt_length": 5"#;
    for (method, extra, message) in [
        (deep, r#", "location": "pad""#, "location: `pad` has no deep form: use `vpt_shallow`"),
        (vpt, r#", "location": "padding""#, "location: unknown location `padding`"),
        (vpt, r#", "location": "add""#, "prompt_length: is not read at location `add`"),
        (
            vpt,
            r#", "location": "pad", "insertion_depth": 1"#,
            "insertion_depth: is not read at location `pad`",
        ),
        (vpt, r#", "location": "below", "prompt_dropout": 0.1"#, "prompt_dropout: is not read at location"),
        (vpt, r#", "location": "pad", "prompt_project": 5"#, "prompt_project: is not read at location `pad`"),
        (vpt, r#", "location": "pad", "pooling": "prompt""#, "pooling: location `pad` has no prompt tokens"),
        (vpt, r#", "location": "pad", "prompt_init": "uniform""#, "use `gaussian` or `imagenet`"),
        (vpt, r#", "prompt_init": "gaussian""#, "unknown prompt_init `gaussian`: use `uniform`"),
        (vpt, r#", "bias_lr_factor": 2"#, "bias_lr_factor: needs `also_train: bias`"),
        (deep, r#", "noexpand": true, "pooling": "prompt""#, "leave `noexpand` out"),
        (vpt, r#", "shared": true"#, "shared: is not read by method `vpt_shallow`: `vpt_deep` reads it"),
        (
            r#", "method": "e2vpt", "prompt_length": 5"#,
            r#", "kv_prompt_length": 1, "segments": 5"#,
            "does not divide the 768",
        ),
        (r#", "method": "adapter""#, r#", "reduction": 800"#, "more than the width 768 of `vit_b16_in21k`"),
        (r#", "method": "partial_k""#, r#", "trained_blocks": 13"#, "has 12 blocks: use 1 to 12"),
        (r#", "method": "sidetune""#, r#", "image_size": 62"#, "image_size: is too small for the network"),
        (
            r#", "method": "spt_deep""#,
            r#", "prompt_length": 1, "prompt_init": "mean_pooling""#,
            "prompt_length: is 1, but pooling",
        ),
    ] {
        let found = refused(&format!("{method}{extra}"));
        assert!(found.contains(message), "{extra}: {found}");
    }
    let code = ok(&format!(r#"{deep}, "insertion_depth": 1, "fidelity": "code""#));
    assert!(code.check_patches(5).is_ok() && code.check_patches(4).is_err());
}

fn any_method() -> impl Strategy<Value = Method> {
    let share = || 0.0..1.0_f64;
    let prompts = || (1..=10_000_u32, 0..12_u32, share());
    let fidelity = || prop_oneof![Just(Fidelity::Paper), Just(Fidelity::Code)];
    let baselines = prop_oneof![
        Just(Method::Linear),
        (share(), share()).prop_map(|(dropout, drop_path)| Method::Full { dropout, drop_path }),
        Just(Method::Sidetune),
        Just(Method::Ssf),
        (2..=16_u32, share()).prop_map(|(layers, dropout)| Method::MlpK { layers, dropout }),
        (1..=12_u32, any::<bool>()).prop_map(|(blocks, norm)| Method::PartialK { blocks, norm }),
        (0.1..9.0_f64).prop_map(|lr_factor| Method::Bias { lr_factor }),
        any::<bool>().prop_map(|reinit| Method::Cls { reinit }),
        (1..=10_000_u32, fidelity())
            .prop_map(|(reduction, fidelity)| Method::Adapter { reduction, fidelity }),
        (1..=10_000_u32, 0.1..99.0_f64).prop_map(|(rank, alpha)| Method::Lora { rank, alpha }),
    ];
    let gated = (prompts(), -100.0..=100.0_f64, any::<bool>()).prop_map(
        |((prompt_length, insertion_depth, prompt_dropout), gate_init, temperature)| Method::Gated {
            prompt_length,
            insertion_depth,
            prompt_dropout,
            gate_init,
            temperature,
        },
    );
    let e2vpt = (prompts(), 0..=10_000_u32, any::<(bool, bool, bool)>(), 1..=64_u32, fidelity()).prop_map(
        |(
            (prompt_length, _, prompt_dropout),
            kv_prompt_length,
            (kv_share, after, first),
            segments,
            fidelity,
        )| {
            Method::E2vpt(E2vpt {
                prompt_length,
                prompt_dropout,
                kv_prompt_length,
                kv_share,
                kv_position: if after { KvPosition::After } else { KvPosition::Before },
                kv_blocks: if first { KvBlocks::First } else { KvBlocks::All },
                segments,
                fidelity,
            })
        },
    );
    let spt = (any::<bool>(), 2..=10_000_u32, 0..4_usize, proptest::option::of(1..=1000_u32), share());
    let spt = spt.prop_map(|(deep, prompt_length, init, init_images, drop_path)| {
        let init = names::SPT_INIT[init].1;
        Method::Spt(Spt { deep, prompt_length, init, init_images, drop_path })
    });
    let cvpt = (prompts(), 0..5_usize, share(), fidelity()).prop_map(
        |((prompt_length, _, prompt_dropout), insertion, drop_path, fidelity)| {
            let insertion = names::CROSS_INSERTION[insertion].1;
            Method::Cvpt(Cvpt { prompt_length, prompt_dropout, insertion, drop_path, fidelity })
        },
    );
    prop_oneof![baselines, any_vpt().prop_map(Method::Vpt), e2vpt, gated, spt, cvpt]
}

fn any_vpt() -> impl Strategy<Value = Vpt> {
    let tokens = (1..=10_000_u32, 0..9_u32, 0.0..1.0_f64, proptest::option::of(1..=999_u32), 0..4_usize);
    let start = (any::<bool>(), 0..4_usize);
    let deep = (proptest::option::of(1..=3_u32), any::<(bool, bool, bool)>());
    let also_train = (0..4_usize, 0.1..9.0_f64);
    let prepended = (tokens, proptest::option::of(deep), also_train, start).prop_map(
        |(
            (prompt_length, insertion_depth, prompt_dropout, project, pooling),
            deep,
            (also_train, factor),
            (is_trained, init),
        )| {
            let is_code = deep.is_some_and(|(_, (_, _, code))| code);
            let deep = deep.map(|(prompted_blocks, (shared, noexpand, _))| Deep {
                prompted_blocks,
                shared,
                noexpand: noexpand && pooling != 2,
                is_condensed: false,
            });
            let also_train = names::ALSO_TRAIN[also_train].1;
            let is_random = project.is_some() || deep.is_some_and(|deep: Deep| deep.shared) || init == 0;
            Vpt {
                is_trained,
                init: if is_random { PromptInit::Uniform } else { names::PROMPT_INIT[2 + init].1 },
                insertion_depth,
                prompt_dropout,
                project,
                pooling: names::POOLING[pooling].1,
                also_train,
                bias_lr_factor: if also_train == AlsoTrain::Bias { factor } else { 1.0 },
                deep,
                fidelity: if is_code { Fidelity::Code } else { Fidelity::Paper },
                ..Vpt::shallow(prompt_length)
            }
        },
    );
    let elsewhere = (1..=10_000_u32, 1..6_usize, any::<bool>()).prop_map(|(length, location, deep)| {
        let location = names::LOCATION[location].1;
        let is_added = matches!(location, Location::Add | Location::Add1);
        Vpt {
            location,
            prompt_length: if is_added { 0 } else { length },
            init: if location == Location::Pad { PromptInit::Imagenet } else { PromptInit::Uniform },
            deep: (deep && is_added).then(Deep::default),
            ..Vpt::shallow(0)
        }
    });
    prop_oneof![prepended, elsewhere]
}

fn any_recipe() -> impl Strategy<Value = Recipe> {
    let preprocessing =
        prop_oneof![Just(Preprocessing::VptTf), Just(Preprocessing::Noah), Just(Preprocessing::Spt)];
    let normalization =
        prop_oneof![Just(Normalization::Imagenet), Just(Normalization::Inception), Just(Normalization::None)];
    let head = prop_oneof![Just(HeadInit::Vpt), Just(HeadInit::Spt), Just(HeadInit::Zero)];
    let optimizer = prop_oneof![
        (0.0..1.0_f64).prop_map(|momentum| Optimizer::Sgd { momentum }),
        (0.0..1.0_f64, 0.0..1.0_f64, 1e-12..1.0_f64, any::<bool>()).prop_map(|(beta1, beta2, eps, vpt)| {
            if vpt {
                Optimizer::AdamWVpt { beta1, beta2, eps }
            } else {
                Optimizer::AdamW { beta1, beta2, eps }
            }
        }),
    ];
    let schedule = (1..=1000_u32, proptest::option::of((0.0..1.0_f64, 0..4_u32)));
    let numbers = (63..=4096_u32, 1..=65_536_u32, 0.0..1e6_f64, 0.0..1.0_f64);
    let names = (
        "[a-u][a-z0-9_]{1,8}",
        "[a-z0-9]{1,8}(/[a-z0-9]{1,8})?",
        "[a-z]{1,8}",
        proptest::option::of("[a-z]{1,8}"),
    );
    (names, preprocessing, normalization, head, (optimizer, schedule), numbers, any_method()).prop_map(
        |(
            (backbone, task, split, test),
            preprocessing,
            normalization,
            head_init,
            training,
            numbers,
            method,
        )| {
            let (optimizer, (epochs, cosine)) = training;
            let (image_size, batch_size, lr, wd) = numbers;
            let schedule = cosine.map_or(Schedule::Constant, |(share, kind)| {
                let warmup_epochs = (share * f64::from(epochs)) as u32;
                match kind {
                    0 => Schedule::CosineSpt { warmup_epochs, min_lr: share },
                    1 => Schedule::CosineCvpt { warmup_epochs, warmup_lr: 1e-6, min_lr: share },
                    2 => Schedule::Cosine { warmup_epochs, warmup: Warmup::Vpt },
                    _ => Schedule::Cosine { warmup_epochs, warmup: Warmup::Nonzero },
                }
            });
            Recipe {
                epoch_steps: None,
                setr: None,
                pruning: None,
                backbone,
                task,
                split: Split { train: split.clone(), eval: split, test },
                preprocessing,
                normalization,
                image_size,
                method,
                head_init,
                epochs,
                batch_size,
                lr,
                wd,
                wd_head: (wd > 0.5).then_some(wd / 2.0),
                optimizer,
                schedule,
            }
        },
    )
}

proptest! {
    #[test]
    fn settings_and_json_read_back(recipe in any_recipe()) {
        prop_assert_eq!(&Recipe::from_settings(&recipe.to_settings()).unwrap(), &recipe);
        prop_assert_eq!(&Recipe::from_json(&recipe.to_json()).unwrap(), &recipe);
        prop_assert_eq!(recipe.to_json(), value::canonical(&recipe.to_settings()).unwrap());
    }

    #[test]
    fn hashes_are_equal_exactly_for_equal_recipes(a in any_recipe(), b in any_recipe(), lr in 0.0..1.0_f64) {
        prop_assert_eq!(a == b, a.config_hash() == b.config_hash());
        let near = Recipe { lr, ..a.clone() };
        prop_assert_eq!(a == near, a.config_hash() == near.config_hash());
    }

    #[test]
    fn any_json_is_read_without_panic(text in ".{0,40}|\\{\"(lr|split|method)\":[0-9a-z\\[\\]{}\",:]{0,12}\\}") {
        let _ = Recipe::from_json(&text);
    }
}
