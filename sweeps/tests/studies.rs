//! The studies that a file's sampler makes of its space, and that whatever a sampler may name is a configuration of it.

use std::collections::BTreeSet;

use proptest::prelude::*;
use sweeps::study::{Adaptive, Point, Scale, Studies, Study};
use sweeps::{Settings, Spec, Value};

const FILE: &str = "
version: 1
name: s
base: {backbone: vit_b16, batch_size: 512}
axes:
  task: {values: [t, u]}
  lr: {range: {min: 0.001, max: 10, scale: log}, scaled_by: batch_size/256}
  wd: {values: [0.01, 0.0001, 0]}
  prompt_length: {range: {min: 1, max: 50, type: int}}
blocks:
  - {name: shallow, set: {method: vpt_shallow}, axes: {insertion_depth: {range: {min: 0, max: 9, step: 3, type: int}}}}
  - {name: deep, set: {method: vpt_deep}, axes: {head_init: {values: [vpt, spt, zero]}, prompt_dropout: {range: {min: 0, max: 0.5}}}}
exclude: [{method: vpt_shallow, insertion_depth: 9}]
search: {sampler: tpe, trials: 30, per: [task]}
";

fn spec(text: &str) -> Spec {
    Spec::parse("f", text, &[]).unwrap_or_else(|errors| panic!("{errors}"))
}

fn studies(text: &str) -> Studies {
    spec(text).studies.expect("studies")
}

#[test]
fn a_study_for_each_value_that_is_named_and_an_arm_for_each_block() {
    let spec = spec(FILE);
    let Studies { adaptive, list } = spec.studies.clone().unwrap();
    let keys: Vec<&str> = list.iter().map(|study| study.key.as_str()).collect();
    assert_eq!(keys, [r#"{"task":"t"}"#, r#"{"task":"u"}"#]);
    assert_eq!(
        list[0].arms.iter().map(|arm| arm.block.as_deref()).collect::<Vec<_>>(),
        [Some("shallow"), Some("deep")]
    );
    use Scale::{Continuous, Ordered, Unordered};
    assert_eq!(adaptive.scales(&list[0].arms[0]), [Continuous, Ordered(3), Ordered(50), Ordered(4)]);
    assert_eq!(
        adaptive.scales(&list[0].arms[1]),
        [Continuous, Ordered(3), Ordered(50), Unordered(3), Continuous]
    );
    assert_eq!((spec.configuration_count(), spec.configurations().len()), (60, 0));
    let plan = spec.plan();
    assert_eq!((plan.stages[0].configurations, plan.stages[0].studies), (60, Some(2)));
    assert!(spec.warnings.is_empty(), "{:?}", spec.warnings);

    let blocks = studies(&FILE.replace("per: [task]", "per: [block, task]"));
    assert_eq!(blocks.list.len(), 4);
    let warned = Spec::parse("f", &FILE.replace(", per: [task]", ""), &[]).unwrap();
    assert!(warned.warnings[0].contains("`per: [task]`"), "{:?}", warned.warnings);
}

#[test]
fn a_stage_takes_from_studies_what_they_have_in_common() {
    let stages = "stages:\n  - {name: tune}\n  - {name: final, from: {stage: tune, best: 2, per: [task]}, split: {train: a, eval: b}}\n";
    let plan = spec(&format!("{FILE}{stages}")).plan();
    assert_eq!((plan.stages[1].configurations, plan.stages[1].groups), (4, Some(2)));
}

#[test]
fn what_is_stored_means_the_same_as_what_was_read() {
    let Studies { adaptive, list } = studies(FILE);
    let json = serde_json::to_string(&adaptive).unwrap();
    assert_eq!(serde_json::from_str::<Adaptive>(&json).unwrap(), adaptive);
    let json = serde_json::to_string(&list).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Study>>(&json).unwrap(), list);
}

#[test]
fn a_configuration_that_lies_on_the_axes_is_found() {
    let text = FILE.replace(", scaled_by: batch_size/256", "");
    let Studies { adaptive, list } = studies(&text);
    let settings = |json: &str| serde_json::from_str::<Settings>(json).unwrap();
    let inside = settings(
        r#"{"task": "u", "method": "vpt_shallow", "lr": 0.1, "wd": 0, "prompt_length": 7, "insertion_depth": 6}"#,
    );
    assert_eq!(adaptive.find(&list[0], &inside), None, "of the other task");
    let point = adaptive.find(&list[1], &inside).unwrap();
    assert_eq!((point.arm, &point.at[1..]), (0, [0.0, 6.0, 2.0].as_slice()));
    assert_eq!(adaptive.child(&list[1], &point).unwrap().settings, inside);
    for (key, value) in
        [("wd", Value::Float(0.5)), ("insertion_depth", Value::Int(5)), ("lr", Value::Int(11))]
    {
        let mut outside = inside.clone();
        outside.insert(key.to_owned(), value);
        assert_eq!(adaptive.find(&list[1], &outside), None, "{key}");
    }
}

/// A point anywhere in a study.
fn point(study: &Study, adaptive: &Adaptive, shares: &[f64]) -> Point {
    let arm = (shares[0] * study.arms.len() as f64) as usize;
    let scales = adaptive.scales(&study.arms[arm]);
    let at = scales.iter().zip(&shares[1..]).map(|(scale, share)| scale.coordinate(*share));
    Point { arm, at: at.collect() }
}

proptest! {
    /// Ranges, steps, lists and types are kept to, at every point; excluded ones are none.
    #[test]
    fn every_point_is_a_configuration_of_the_file(shares in proptest::collection::vec(0.0..1.0_f64, 6)) {
        let Studies { adaptive, list } = studies(FILE);
        let study = &list[1];
        let point = point(study, &adaptive, &shares);
        let Some(child) = adaptive.child(study, &point) else {
            prop_assert!(point.arm == 0 && point.at[3] == 3.0, "only what is excluded is none");
            return Ok(());
        };
        let settings = &child.settings;
        prop_assert_eq!(&settings["task"], &Value::String("u".to_owned()));
        let Value::Float(lr) = settings["lr"] else { panic!("{settings:?}") };
        prop_assert!((0.001..=10.0).contains(&lr) && child.recipe.lr == lr * 2.0);
        let Value::Int(length) = settings["prompt_length"] else { panic!("{settings:?}") };
        prop_assert!((1..=50).contains(&length));
        prop_assert!([0.01, 0.0001, 0.0].contains(&child.recipe.wd));
        match point.arm {
            0 => prop_assert!([0, 3, 6].map(Value::Int).contains(&settings["insertion_depth"])),
            _ => prop_assert!(matches!(settings["prompt_dropout"], Value::Float(x) if (0.0..=0.5).contains(&x))),
        }
        let keys: BTreeSet<&str> = settings.keys().map(String::as_str).collect();
        prop_assert_eq!(keys.contains("insertion_depth"), point.arm == 0);
    }
}
