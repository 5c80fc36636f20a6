//! Tests of spaces: what a file expands to, in which order, and at what cost.

use std::collections::{BTreeMap, HashSet};

use super::*;
use crate::spec::Spec;

const STUDY: &str = include_str!("../../tests/files/study.yaml");
const BASE: &str = "version: 1\nname: t\nbase: {backbone: vit_b16, task: t, method: linear, lr: 1}\n";

#[track_caller]
fn spec(text: &str) -> Spec {
    Spec::parse("t.yaml", text, &[]).unwrap_or_else(|errors| panic!("{errors}"))
}

#[track_caller]
fn refused(text: &str) -> String {
    Spec::parse("t.yaml", text, &[]).map(|_| ()).unwrap_err().to_string()
}

/// The values of `key` over the configurations, as JSON, in order.
fn column(spec: &Spec, key: &str) -> Vec<String> {
    let value =
        |c: Configuration| c.settings.get(key).map_or("-".to_owned(), |value| value.canonical().unwrap());
    spec.configurations().map(value).collect()
}

#[test]
fn the_documented_study_counts_right() {
    let spec = spec(STUDY);
    let plan = spec.plan();
    let stage = &plan.stages[0];
    // 144 + 96 + 144 − 24 excluded + 1 included.
    assert_eq!((stage.configurations, stage.trials), (361, 1083));
    assert_eq!(stage.blocks, [("shallow".into(), 120), ("deep".into(), 96), ("gated".into(), 144)]);
    assert_eq!(
        plan.warnings,
        ["include[0]: its `lr` is used as written: `scaled_by` is for the axis that carries it"]
    );
    assert_eq!(
        spec.axes,
        ["task", "lr", "wd", "prompt_length", "method", "insertion_depth", "prompted_blocks", "gate_init"]
    );
    insta::assert_snapshot!(serde_json::to_string_pretty(&plan).unwrap());
}

#[test]
fn a_block_of_paired_rows_adds_its_rows_times_the_shared_axes() {
    let paired = "  - name: paired
    set: {method: vpt_deep}
    zip:
      - insertion_depth: [0, 3, 6]
        prompted_blocks: [3, 9, 3]

exclude:";
    let spec = spec(&STUDY.replacen("exclude:", paired, 1));
    let plan = spec.plan();
    // 144 + 96 + 144 + 144 − 24 excluded + 1 included, with three seeds each.
    assert_eq!((plan.stages[0].configurations, plan.stages[0].trials), (505, 1515));
    assert_eq!(plan.stages[0].blocks[3], ("paired".into(), 144));
    assert_eq!(spec.trials().len(), 1515);
}

#[test]
fn no_two_configurations_are_the_same_and_each_carries_its_hash() {
    let spec = spec(STUDY);
    let mut hashes = HashSet::new();
    for (number, configuration) in (1..).zip(spec.configurations()) {
        assert_eq!(configuration.number, number);
        assert_eq!(configuration.hash, configuration.recipe.config_hash());
        assert!(hashes.insert(configuration.hash));
        assert_eq!(&*configuration.stage, "tune");
    }
}

#[test]
fn settings_keep_what_was_written_and_recipes_what_is_trained() {
    let spec = spec(STUDY);
    let first = spec.configurations().next().unwrap();
    assert_eq!(
        first.settings_json(),
        r#"{"insertion_depth":0,"lr":0.05,"method":"vpt_shallow","prompt_length":10,"task":"vtab/cifar","wd":0.01}"#
    );
    assert_eq!(first.block.as_deref(), Some("shallow"));
    assert_eq!(first.recipe.lr, 0.05 * 64.0 / 256.0);
    let last = spec.configurations().last().unwrap();
    assert_eq!((last.block, last.recipe.lr, last.recipe.method.name()), (None, 0.5, "linear"));
}

#[test]
fn the_last_axis_varies_fastest_and_zips_walk_together() {
    let text =
        format!("{BASE}axes: {{epochs: {{values: [20, 30]}}}}\nzip: [{{wd: [0, 1], batch_size: [8, 16]}}]\n");
    let spec = spec(&text);
    assert_eq!(column(&spec, "epochs"), ["20", "20", "30", "30"]);
    assert_eq!(column(&spec, "wd"), ["0", "1", "0", "1"]);
    assert_eq!(column(&spec, "batch_size"), ["8", "16", "8", "16"]);
    assert_eq!(spec.axes, ["epochs", "wd", "batch_size"]);
    assert_eq!(spec.plan().stages[0].blocks, []);
}

#[test]
fn scaling_follows_the_batch_size_of_each_configuration() {
    let text = format!(
        "{}axes: {{batch_size: {{values: [64, 512]}}, lr: {{values: [0.5], scaled_by: batch_size/256}}}}\n",
        BASE.replace(", lr: 1", "")
    );
    let lrs: Vec<f64> = spec(&text).configurations().map(|c| c.recipe.lr).collect();
    assert_eq!(lrs, [0.125, 1.0]);
}

#[test]
fn a_base_alone_is_one_configuration_and_include_alone_is_a_list() {
    assert_eq!(spec(BASE).configuration_count(), 1);
    let text = "version: 1\nname: t\nbase: {backbone: b, task: t}\ninclude:\n  - {method: linear, lr: 1}\n  - {method: linear, lr: 2}\n";
    assert_eq!(column(&spec(text), "lr"), ["1", "2"]);
}

#[test]
fn the_same_configuration_is_run_once() {
    let text = format!("{BASE}axes: {{wd: {{values: [0, 0.0, 1]}}}}\ninclude: [{{wd: 1}}, {{wd: 2}}]\n");
    let spec = spec(&text);
    assert_eq!(column(&spec, "wd"), ["0", "1", "2"]);
    assert_eq!(spec.warnings, ["2 configurations are the same as others and are run once"]);
}

#[test]
fn exclude_compares_values_not_spellings_and_sees_base_and_block() {
    let text = format!(
        "{BASE}axes: {{wd: {{values: [0, 1, 2]}}}}\nexclude: [{{wd: 1.0, lr: 1, task: t}}, {{wd: 7}}]\n"
    );
    let spec = spec(&text);
    assert_eq!(column(&spec, "wd"), ["0", "2"]);
    assert_eq!(spec.warnings, ["exclude[1] (line 5): matches no configuration"]);
    let all = text.replace("{wd: 7}", "{task: t}");
    assert_eq!(
        refused(&all),
        "t.yaml:4:7: axes: `exclude` leaves nothing of the axes: take the block out, or exclude less"
    );
}

#[test]
fn trials_are_every_configuration_with_every_seed_once() {
    let spec = spec(STUDY);
    let trials = spec.trials();
    assert_eq!(trials.len(), spec.trial_count());
    let distinct: HashSet<(usize, i64)> =
        trials.iter().map(|trial| (trial.configuration, trial.seed)).collect();
    assert_eq!(distinct.len(), 1083);
    assert!(distinct.iter().all(|(configuration, seed)| *configuration < 361 && (0..3).contains(seed)));
}

#[test]
fn the_order_is_that_of_the_file_or_of_the_seed() {
    let with = |order: &str| {
        let text = format!(
            "{BASE}axes: {{wd: {{range: {{min: 0, max: 9, num: 10}}}}}}\nreplicates: {{seeds: [5, 3]}}\n{order}"
        );
        spec(&text).trials().iter().map(|trial| (trial.configuration, trial.seed)).collect::<Vec<_>>()
    };
    let written = with("search: {order: as_written}\n");
    assert_eq!(written[..3], [(0, 5), (0, 3), (1, 5)]);
    let shuffled = with("search: {seed: 1}\n");
    assert_eq!(shuffled, with("search: {seed: 1}\n"));
    assert_ne!(shuffled, written);
    assert_ne!(shuffled, with("search: {seed: 2}\n"));
    let sorted: HashSet<_> = shuffled.iter().collect();
    assert_eq!(sorted, written.iter().collect());
}

#[test]
fn random_draws_repeat_with_the_seed_and_never_within_a_sweep() {
    let with = |seed: u64, trials: u32| {
        format!(
            "{BASE}axes: {{wd: {{range: {{min: 1e-6, max: 1, scale: log}}}}, epochs: {{range: {{min: 11, max: 12, type: int}}}}}}\n\
             search: {{sampler: random, trials: {trials}, seed: {seed}}}\n"
        )
    };
    let wds = |text: &str| column(&spec(text), "wd");
    assert_eq!(wds(&with(1, 50)).len(), 50);
    assert_eq!(wds(&with(1, 50)), wds(&with(1, 50)));
    assert_ne!(wds(&with(1, 50)), wds(&with(2, 50)));
    let finite = format!(
        "{BASE}axes: {{wd: {{values: [1, 2, 3]}}, epochs: {{range: {{min: 11, max: 14, type: int}}}}}}\n\
         exclude: [{{wd: 2}}]\nsearch: {{sampler: random, trials: 8}}\n"
    );
    let drawn = spec(&finite);
    let rows: HashSet<String> = drawn.configurations().map(|c| c.settings_json()).collect();
    assert_eq!(rows.len(), 8, "all of the small space, each once: {rows:?}");
    assert_eq!(
        refused(&finite.replace("trials: 8", "trials: 9")),
        "t.yaml:4:7: search.trials: asks for 9 configurations, and only 8 different ones were found: \
         lower it to 8, or use `sampler: grid`"
    );
}

#[test]
fn sobol_spreads_evenly_over_every_axis_and_block() {
    let text = STUDY
        .replace("sampler: grid ", "sampler: sobol\n  trials: 96 ")
        .replace("scale: log, num: 4", "scale: log");
    let study = spec(&text);
    let blocks: BTreeMap<_, _> = study.plan().stages[0].blocks.iter().cloned().collect();
    assert!(blocks.values().all(|count| (28..=36).contains(count)), "{blocks:?}");
    assert_eq!(column(&study, "lr"), column(&spec(&text), "lr"), "the same file, the same points");
    assert_ne!(column(&study, "lr"), column(&spec(&text.replace("seed: 7", "seed: 8")), "lr"));

    // The first 2^k points have exactly one in each 2^k-th of every axis.
    let text = format!(
        "{}axes: {{wd: {{range: {{min: 0, max: 1}}}}, lr: {{range: {{min: 1e-4, max: 1, scale: log}}}}}}\nsearch: {{sampler: sobol, trials: 16}}\n",
        BASE.replace(", lr: 1", "")
    );
    let spread = spec(&text);
    let place = |x: f64| (x * 16.0) as usize;
    let wds: HashSet<usize> = spread.configurations().map(|c| place(c.recipe.wd)).collect();
    let lrs: HashSet<usize> =
        spread.configurations().map(|c| place(1.0 + c.recipe.lr.log10() / 4.0)).collect();
    assert_eq!((wds.len(), lrs.len()), (16, 16));

    let finite =
        format!("{BASE}axes: {{wd: {{values: [1, 2, 3]}}}}\nsearch: {{sampler: sobol, trials: 4}}\n");
    assert!(
        refused(&finite).contains("only 3 different ones were found: lower it to 3"),
        "{}",
        refused(&finite)
    );
}

#[test]
fn random_draws_from_every_block() {
    let text = STUDY
        .replace("sampler: grid ", "sampler: random\n  trials: 60 ")
        .replace("scale: log, num: 4", "scale: log");
    let spec = spec(&text);
    let stage = &spec.plan().stages[0];
    assert_eq!((stage.configurations, stage.trials), (61, 183));
    let blocks: BTreeMap<_, _> = stage.blocks.iter().cloned().collect();
    assert!(blocks.values().all(|count| *count > 8), "{blocks:?}");
    for configuration in spec.configurations() {
        assert!(configuration.recipe.lr >= 0.05 / 4.0 && configuration.recipe.lr <= 50.0 / 4.0);
    }
}

#[test]
fn a_space_beyond_the_bound_is_refused_by_arithmetic() {
    let axes = "axes: {wd: {range: {min: 0, max: 1, num: 100000}}, epochs: {range: {min: 11, max: 10010, type: int, step: 1}}}\n";
    assert_eq!(
        refused(&format!("{BASE}{axes}")),
        "t.yaml:4:7: axes: the sweep asks for 1000000000 trials, and 1000000 is the bound: use fewer values or seeds"
    );
    let most = "axes: {wd: {range: {min: 0, max: 1, num: 9223372036854775807}}, lr: {range: {min: 0, max: 1, num: 9223372036854775807}}}\n";
    assert!(refused(&format!("{}{most}", BASE.replace(", lr: 1", ""))).contains("asks for far more trials"));
    let seeds: Vec<String> = (0..1001).map(|seed| seed.to_string()).collect();
    let seeded = format!(
        "{BASE}axes: {{wd: {{range: {{min: 0, max: 1, num: 1000}}}}}}\nreplicates: {{seeds: [{}]}}\n",
        seeds.join(", ")
    );
    assert!(refused(&seeded).contains("asks for 1001000 trials"));
    let entries = vec!["{wd: 3}"; 1_100].join(", ");
    let excluded =
        format!("{BASE}axes: {{wd: {{range: {{min: 0, max: 1, num: 100000}}}}}}\nexclude: [{entries}]\n");
    assert!(refused(&excluded).contains("1100 entries against 100000 configurations are too many"));
}

#[test]
fn the_published_protocol_of_4560_trials_expands() {
    let tasks: Vec<String> = (0..19).map(|i| format!("vtab/t{i}")).collect();
    let text = format!(
        "version: 1\nname: vpt\nbase: {{backbone: vit_b16, method: vpt_deep}}\naxes:\n  task: {{values: [{}]}}\n  \
         lr: {{values: [50, 25, 10, 5, 2.5, 1, 0.5, 0.25, 0.1, 0.05], scaled_by: batch_size/256}}\n  \
         wd: {{values: [0.01, 0.001, 0.0001, 0]}}\n  prompt_length: {{values: [1, 5, 10, 50, 100, 200]}}\n",
        tasks.join(", ")
    );
    assert_eq!(spec(&text).trial_count(), 4_560);
}
