//! Tests of reading and writing recipes.

use proptest::prelude::*;

use super::super::{Method, Optimizer, Recipe, Schedule, Split, Warmup};
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
            backbone: "vit_b16_in21k".into(),
            task: "vtab/dtd".into(),
            split: Split { train: "train800".into(), eval: "val200".into(), test: Some("test".into()) },
            preprocessing: Preprocessing::VptTf,
            normalization: Normalization::Imagenet,
            image_size: 224,
            method: Method::VptDeep {
                prompt_length: 10,
                insertion_depth: 0,
                prompted_blocks: None,
                prompt_dropout: 0.1
            },
            head_init: HeadInit::Vpt,
            epochs: 100,
            batch_size: 64,
            lr: 0.5,
            wd: 0.0,
            optimizer: Optimizer::Sgd { momentum: 0.9 },
            schedule: Schedule::Cosine { warmup_epochs: 10, warmup: Warmup::Nonzero },
        }
    );
    let shallow = ok(r#", "method": "vpt_shallow", "prompt_length": 1"#).method;
    assert_eq!(shallow, Method::VptShallow { prompt_length: 1, insertion_depth: 0, prompt_dropout: 0.0 });
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
        "prompt_length: is not read by method `linear`: `vpt_shallow`, `vpt_deep` and `gated` read it"
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
        (
            r#", "method": "lin""#,
            "method: unknown method `lin`: use `linear`, `vpt_shallow`, `vpt_deep` or `gated`",
        ),
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

fn any_method() -> impl Strategy<Value = Method> {
    let prompts = (1..=10_000_u32, 0..12_u32, 0.0..1.0_f64);
    prop_oneof![
        Just(Method::Linear),
        prompts.clone().prop_map(|(prompt_length, insertion_depth, prompt_dropout)| Method::VptShallow {
            prompt_length,
            insertion_depth,
            prompt_dropout
        }),
        (prompts.clone(), proptest::option::of(1..=4_u32)).prop_map(
            |((prompt_length, depth, prompt_dropout), k)| {
                Method::VptDeep {
                    prompt_length,
                    insertion_depth: depth % 9,
                    prompted_blocks: k,
                    prompt_dropout,
                }
            }
        ),
        (prompts, -100.0..=100.0_f64, any::<bool>()).prop_map(
            |((prompt_length, insertion_depth, prompt_dropout), gate_init, temperature)| Method::Gated {
                prompt_length,
                insertion_depth,
                prompt_dropout,
                gate_init,
                temperature
            }
        ),
    ]
}

fn any_recipe() -> impl Strategy<Value = Recipe> {
    let preprocessing =
        prop_oneof![Just(Preprocessing::VptTf), Just(Preprocessing::Noah), Just(Preprocessing::Spt)];
    let normalization =
        prop_oneof![Just(Normalization::Imagenet), Just(Normalization::Inception), Just(Normalization::None)];
    let head = prop_oneof![Just(HeadInit::Vpt), Just(HeadInit::Spt), Just(HeadInit::Zero)];
    let optimizer = prop_oneof![
        (0.0..1.0_f64).prop_map(|momentum| Optimizer::Sgd { momentum }),
        (0.0..1.0_f64, 0.0..1.0_f64, 1e-12..1.0_f64).prop_map(|(beta1, beta2, eps)| Optimizer::AdamW {
            beta1,
            beta2,
            eps
        }),
    ];
    let schedule = (1..=1000_u32, proptest::option::of((0.0..1.0_f64, any::<bool>())));
    let numbers = (1..=4096_u32, 1..=65_536_u32, 0.0..1e6_f64, 0.0..1.0_f64);
    let names = (
        "vit_b[0-9]{1,2}",
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
            let schedule = cosine.map_or(Schedule::Constant, |(share, is_vpt)| Schedule::Cosine {
                warmup_epochs: (share * f64::from(epochs)) as u32,
                warmup: if is_vpt { Warmup::Vpt } else { Warmup::Nonzero },
            });
            Recipe {
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
