//! What stages open, counted: the groups, the chosen, the points of their own axes.

use sweeps::stage::{BLOCK, Start};
use sweeps::{Settings, Spec, StagePlan, Value};

const STUDY: &str = include_str!("files/study.yaml");
const STAGES: &str = "
stages:
  - name: tune
    split: {train: train800, eval: val200}
  - name: final
    from: {stage: tune, best: 1, per: [task, block]}
    split: {train: train800val200, eval: test}
    replicates: {seeds: [42, 44, 82, 100, 800]}
";

#[track_caller]
fn spec(text: &str) -> Spec {
    Spec::parse("t.yaml", text, &[]).unwrap_or_else(|errors| panic!("{errors}"))
}

fn counts(stage: &StagePlan) -> (u64, u64, Option<u64>) {
    (stage.configurations, stage.trials, stage.groups)
}

/// A block of paired rows as large as that of the language's example.
fn study() -> Spec {
    let paired = "  - name: paired
    set: {method: vpt_deep}
    zip:
      - insertion_depth: [0, 3, 6]
        prompted_blocks: [3, 9, 3]

exclude:";
    spec(&format!("{}{STAGES}", STUDY.replacen("exclude:", paired, 1)))
}

#[test]
fn the_documented_example_opens_a_group_for_each_task_and_block() {
    let plan = study().plan();
    assert_eq!(counts(&plan.stages[0]), (505, 1_515, None));
    assert_eq!(counts(&plan.stages[1]), (13, 65, Some(13)), "3 tasks × 4 blocks, and the included one");
    assert_eq!(plan.stages[1].from.as_deref(), Some("tune"));
    let blocks: Vec<u64> = plan.stages[1].blocks.iter().map(|(_, n)| *n).collect();
    assert_eq!(blocks, [3, 3, 3, 3]);
}

#[test]
fn the_first_stage_tests_on_nothing_and_who_is_scored_on_test_images_tests_on_them() {
    let spec = study();
    let first = spec.configurations().next().unwrap();
    assert_eq!(&*first.stage, "tune");
    assert_eq!(first.recipe.split.test, None, "no test was named");
    let from = spec.stages[1].from.as_ref().unwrap();
    let parent = sweeps::stage::Parent {
        settings: &first.settings,
        hash: &first.hash,
        is_lr_scaled: first.is_lr_scaled,
    };
    let child = from.opening.children(parent).unwrap().remove(0);
    assert_eq!(child.settings, first.settings);
    let split = child.recipe.split.clone();
    assert_eq!((split.train.as_str(), split.eval.as_str()), ("train800val200", "test"));
    assert_eq!(split.test.as_deref(), Some("test"));
    assert_eq!(child.recipe.lr, first.recipe.lr, "scaled once");
    assert_ne!(child.hash, first.hash);
    let json = serde_json::to_string(&from.opening).unwrap();
    assert_eq!(serde_json::from_str::<sweeps::stage::Opening>(&json).unwrap(), from.opening);
}

/// Tune 40, score 1, then candidates on axes of their own, then the best of those with five seeds.
const CHAIN: &str = "
version: 1
name: chain
base: {backbone: vit_b16, method: vpt_deep, prompt_length: 10}
axes:
  task: {values: [vtab/a, vtab/b, vtab/c]}
  lr: {values: [50, 25, 10, 5, 2.5, 1, 0.5, 0.25, 0.1, 0.05], scaled_by: batch_size/256}
  wd: {values: [0.01, 0.001, 0.0001, 0]}
stages:
  - {name: tune, split: {train: train800, eval: val200}}
  - {name: score, from: {stage: tune, per: [task]}}
  - name: rewind
    from: {stage: score, per: [task]}
    start: artifact
    axes:
      insertion_depth: {range: {min: 0, max: 8, num: 9, type: int}}
      prompt_dropout: {values: [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]}
  - name: final
    from: {stage: rewind, per: [task]}
    split: {train: train800val200, eval: val200, test: test}
    replicates: {seeds: [42, 44, 82, 100, 800]}
";

#[test]
fn stages_follow_one_another_and_have_axes_of_their_own() {
    let spec = spec(CHAIN);
    let plan = spec.plan();
    let trials: Vec<u64> = plan.stages.iter().map(|stage| stage.trials / 3).collect();
    assert_eq!(trials, [40, 1, 72, 5]);
    assert_eq!(plan.stages[2].groups, Some(3));
    assert_eq!(spec.axes, ["task", "lr", "wd", "insertion_depth", "prompt_dropout"]);
    let from = spec.stages[3].from.as_ref().unwrap();
    assert_eq!((from.stage, from.groups[0].candidates, from.groups[0].configurations), (2, 72, 1));
    assert_eq!(spec.stages[2].from.as_ref().unwrap().opening.start, Start::Artifact);
}

#[test]
fn a_group_of_fewer_than_best_opens_them_all_and_no_per_is_one_group() {
    let text = CHAIN
        .replace("from: {stage: tune, per: [task]}", "from: {stage: tune, best: 3, per: [task, lr, wd]}");
    let text = text.replace("score, per: [task]", "score, best: 500, per: [task]");
    let plan = spec(&text.replace("rewind, per: [task]", "rewind")).plan();
    assert_eq!(counts(&plan.stages[1]), (120, 120, Some(120)));
    assert_eq!(counts(&plan.stages[2]), (120 * 72, 120 * 72, Some(3)));
    assert_eq!(counts(&plan.stages[3]), (1, 5, Some(1)));
}

#[test]
fn the_axes_of_a_stage_part_the_groups_of_the_next() {
    let text = CHAIN
        .replace("from: {stage: rewind, per: [task]}", "from: {stage: rewind, per: [task, insertion_depth]}");
    let stage = &spec(&text).plan().stages[3];
    assert_eq!(counts(stage), (27, 135, Some(27)));
}

#[test]
fn a_stage_that_sets_what_varied_before_runs_what_it_sets() {
    let text = CHAIN.replace(
        "name: score, from: {stage: tune, per: [task]}",
        "name: score, from: {stage: tune, per: [task, wd]}, set: {wd: 0.5}",
    );
    let spec = spec(&text.replace("score, per: [task]", "score, per: [task, wd]"));
    // Four groups a task, all of which come to the same decay: one group for the stage after.
    assert_eq!(spec.plan().stages[1].groups, Some(12));
    assert_eq!(spec.plan().stages[2].groups, Some(3));
    let opening = &spec.stages[1].from.as_ref().unwrap().opening;
    let first = spec.configurations().next().unwrap();
    let parent = sweeps::stage::Parent { settings: &first.settings, hash: "", is_lr_scaled: true };
    let child = opening.children(parent).unwrap().remove(0);
    assert_eq!((child.recipe.wd, &child.settings["wd"]), (0.5, &Value::Float(0.5)));
}

#[test]
fn groups_are_keyed_as_the_coordinator_keys_configurations() {
    let spec = study();
    let from = spec.stages[1].from.as_ref().unwrap();
    let mut seen: Vec<String> = Vec::new();
    for configuration in spec.configurations() {
        let key = from.opening.key(&configuration.settings, configuration.block.as_deref());
        if !seen.contains(&key) {
            seen.push(key);
        }
    }
    assert_eq!(seen, from.groups.iter().map(|group| group.key.clone()).collect::<Vec<_>>());
    let candidates: u64 = from.groups.iter().map(|group| group.candidates).sum();
    assert_eq!(candidates, 505);
    assert!(serde_json::from_str::<Settings>(&seen[0]).unwrap().contains_key(BLOCK));
}

#[test]
fn test_images_choose_only_where_the_file_says_so() {
    let single =
        "version: 1\nname: t\nbase: {backbone: b, task: t, method: linear, lr: 1, split: {eval: test}}\n";
    let refused = |text: &str| Spec::parse("t.yaml", text, &[]).map(|_| ()).unwrap_err().to_string();
    assert!(
        refused(single)
            .contains("stage `tune` is scored on test images, and its best are chosen by that score")
    );
    assert!(spec(&format!("{single}allow_test_selection: true\n")).allow_test_selection);
    let best_epoch = format!("{STUDY}{STAGES}").replace("at: last}", "at: best}");
    assert!(
        refused(&best_epoch).contains("stage `final` is scored on test images, and `at: best` would choose")
    );
    let by_test = format!("{STUDY}{STAGES}").replace("metric: val/top1", "metric: test/top1");
    let allowed = format!("{by_test}allow_test_selection: true\n");
    assert!(refused(&by_test).contains("the test images must not choose"));
    assert!(refused(&allowed).contains("stage `tune` reports no `test/top1`"), "{}", refused(&allowed));
}
