use super::*;
use crate::Recipe;

fn read_recipe(extra: &str) -> Result<Recipe, String> {
    let json = format!(
        r#"{{"backbone": "vit_b16_in21k", "task": "vtab/dtd", "lr": 0.5, "prompt_length": 10, {extra}}}"#
    );
    Recipe::from_json(&json).map_err(|error| error.to_string())
}

fn pruning(extra: &str) -> Pruning {
    read_recipe(extra).unwrap().pruning.expect("it prunes")
}

#[track_caller]
fn refused(extra: &str, message: &str) {
    let found = read_recipe(extra).unwrap_err();
    assert!(found.contains(message), "{found}");
}

const E2VPT: &str = r#""method": "e2vpt", "kv_prompt_length": 5"#;
const DEEP: &str = r#""method": "vpt_deep""#;
const CONDENSE: &str = r#""method": "condense""#;

#[test]
fn nothing_is_pruned_unless_asked_and_defaults_are_the_papers() {
    assert_eq!(read_recipe(E2VPT).unwrap().pruning, None);
    let found = pruning(&format!(r#"{E2VPT}, "segment_ratio": 0.5"#));
    let wanted = Pruning {
        tokens: 0.0,
        segments: 0.5,
        scope: Scope::Tokens,
        importance: Importance::Abs,
        prune_at: 100,
        to: Rewind::Fresh,
        epochs: 100,
        lr: RewindLr::Restart,
    };
    assert_eq!(found, wanted);
    let recipe =
        read_recipe(&format!(r#"{E2VPT}, "pruning_ratio": 0.3, "rewind_schedule": {{"epochs": 20}}"#));
    assert_eq!(recipe.unwrap().epochs_in_all(), 120);
}

#[test]
fn amounts_are_those_of_the_authors_candidates() {
    let at = |tokens: f64| Pruning {
        tokens,
        segments: tokens,
        ..pruning(&format!(r#"{E2VPT}, "pruning_ratio": 0.1"#))
    };
    let percents = (1..10).map(|tens| f64::from(tens) / 10.0);
    let (tokens, segments): (Vec<u32>, Vec<u32>) =
        percents.map(|ratio| (at(ratio).tokens_to_go(10, 12), at(ratio).segments_to_go(16))).unzip();
    assert_eq!(tokens, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(segments, [1, 3, 4, 6, 8, 9, 11, 12, 14]);
    let global = Pruning { scope: Scope::Global, ..at(0.7) };
    assert_eq!(global.tokens_to_go(10, 12), 84);
}

#[test]
fn recipes_that_prune_read_back() {
    for extra in [
        format!(r#"{E2VPT}, "pruning_ratio": 0.3, "segment_ratio": 0.25, "importance": "signed""#),
        format!(
            r#"{CONDENSE}, "pruning_ratio": 0.7, "importance": "leave_one_out",
            "rewind_schedule": {{"prune_at": 40, "to": {{"epoch": 30}}, "epochs": 50, "lr": "continue"}}"#
        ),
        format!(r#"{DEEP}, "pruning_ratio": 0, "rewind_schedule": {{"to": "init"}}"#),
    ] {
        let recipe = read_recipe(&extra).unwrap();
        assert_eq!(Recipe::from_json(&recipe.to_json()).unwrap(), recipe);
        assert_eq!(Recipe::from_settings(&recipe.to_settings()).unwrap(), recipe);
    }
}

#[test]
fn what_cannot_be_pruned_is_refused_with_the_mend() {
    refused(&format!(r#"{E2VPT}, "pruning_ratio": 1"#), "pruning_ratio: leaves none of the 10 tokens");
    refused(&format!(r#"{E2VPT}, "segment_ratio": 1.0"#), "segment_ratio: leaves none of the 16 segments");
    refused(
        &format!(r#"{E2VPT}, "importance": "taylor""#),
        "importance: says how to prune, but `pruning_ratio`",
    );
    refused(r#""method": "gated", "pruning_ratio": 0.5"#, "is not read by method `gated`");
    refused(&format!(r#"{DEEP}, "segment_ratio": 0.5"#), "segment_ratio: is not read by method `vpt_deep`");
    refused(
        &format!(r#"{DEEP}, "shared": true, "pruning_ratio": 0.5"#),
        "leave `location`, `prompt_project`, `shared` and `train_prompts` out",
    );
    refused(
        &format!(r#"{DEEP}, "train_prompts": false, "pruning_ratio": 0.5"#),
        "leave `location`, `prompt_project`, `shared` and `train_prompts` out",
    );
    refused(CONDENSE, "pruning_ratio: is required: the share of all prompts that go");
    refused(&format!(r#"{CONDENSE}, "pruning_ratio": 1"#), "leaves none of the 10 tokens");
    refused(
        &format!(r#"{DEEP}, "prompt_init": "class_final", "pruning_ratio": 0.5"#),
        "rewind_schedule.to: `fresh` draws prompts at random",
    );
    refused(&format!(r#"{DEEP}, "pruning_ratio": 0.5, "importance": "tailor""#), "did you mean `taylor`?");
}

#[test]
fn condensation_ranks_all_blocks_and_what_stays_goes_on() {
    let found =
        pruning(&format!(r#"{CONDENSE}, "pruning_ratio": 0.7, "rewind_schedule": {{"prune_at": 40}}"#));
    assert_eq!(
        (found.scope, found.importance, found.to),
        (Scope::Global, Importance::Taylor, Rewind::Epoch(40))
    );
    let started =
        pruning(&format!(r#"{CONDENSE}, "pruning_ratio": 0.7, "rewind_schedule": {{"prune_at": 0}}"#));
    assert_eq!((started.prune_at, started.to), (0, Rewind::Init));
    let recipe = |method: &str, extra: &str| {
        read_recipe(&format!(r#"{method}, "pruning_ratio": 0.7, "importance": "taylor"{extra}"#)).unwrap()
    };
    let condensed = recipe(CONDENSE, "");
    assert_eq!(condensed.method.name(), "condense");
    // The same keys mean other trials, so they hash apart; the defaults of each are written out.
    assert_ne!(condensed.config_hash(), recipe(DEEP, "").config_hash());
    let stated = r#", "rewind_schedule": {"to": {"epoch": 100}}, "prompt_dropout": 0.1"#;
    assert_eq!(condensed.config_hash(), recipe(CONDENSE, stated).config_hash());
}

#[test]
fn rewinding_needs_epochs_that_are_there() {
    let with = |schedule: &str| format!(r#"{DEEP}, "pruning_ratio": 0.5, "rewind_schedule": {schedule}"#);
    refused(
        &with(r#"{"prune_at": 101}"#),
        "rewind_schedule.prune_at: is 101, beyond the 100 epochs of `epochs`",
    );
    refused(
        &with(r#"{"prune_at": 10, "to": {"epoch": 11}}"#),
        "epoch 11 is not there: the training before ends at 10",
    );
    refused(&with(r#"{"to": {"epoch": 60}, "epochs": 41, "lr": "continue"}"#), "is 41, but 40 are left");
    refused(&with(r#"{"epochs": 10}"#), "must be more than the 10 epochs of warm-up");
    refused(&with(r#"{"to": {"step": 3}}"#), "unknown key of `to` `step`");
    refused(&with(r#"{"to": "start"}"#), "unknown to `start`");
    refused(&with("3"), "must be a map like {to: fresh, epochs: 100}");
}
