//! The JSON Schema against the parser, in both directions: for every key, every value of a long list is accepted by both
//! or refused by both. The values are those of the schema itself (choices, bounds, and one beyond them) and such as go
//! wrong everywhere.

use std::collections::BTreeSet;

use jsonschema::Validator;
use serde_json::{Value, json};
use sweeps::recipe::{self, KEYS};
use sweeps::{Spec, schema};

fn validator() -> Validator {
    jsonschema::draft202012::new(&schema::sweep_file()).expect("a schema")
}

fn parses(file: &Value) -> bool {
    Spec::parse("f", &file.to_string(), &[]).is_ok()
}

/// A file that is valid for a method.
fn file(method: &str) -> Value {
    let required = [("prompt_length", 5), ("kv_prompt_length", 5), ("mlp_layers", 2), ("trained_blocks", 1)];
    let mut base = json!({"backbone": "b", "task": "t", "method": method, "lr": 1, "epochs": 100000});
    for (key, value) in required.iter().filter(|(key, _)| recipe::method_reads(method, key)) {
        base[*key] = (*value).into();
    }
    if method == "condense" {
        base["pruning_ratio"] = 0.5.into();
    }
    // A score that trials with either head have.
    json!({"version": 1, "name": "n", "objective": {"metric": "val/loss"}, "base": base})
}

/// What else some values of a key need, where the parser takes them together with others only.
fn contexts(key: &str) -> Vec<Value> {
    match key {
        "prompt_init" => vec![json!({}), json!({"location": "prepend_pixel"})],
        "location" => vec![json!({}), json!({"prompt_length": null})],
        "importance" | "rewind_schedule" => {
            vec![json!({"pruning_ratio": 0.5, "schedule": "constant"})]
        }
        "head_channels" | "head_lr_factor" | "aux_blocks" | "aux_weight" | "stride" | "scales"
        | "cat_max_ratio" | "photometric" => vec![json!({"head": "setr_pup", "image_size": 4096})],
        _ => vec![json!({})],
    }
}

/// Values that some key takes and others do not.
fn anything() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(2),
        json!(0.5),
        json!(1.0),
        json!(-0.5),
        json!(1e6),
        json!(1e19),
        json!(""),
        json!("a"),
        json!("a/b"),
        json!("a/b/c"),
        json!("../x"),
        json!("a..b"),
        json!("10"),
        json!("é"),
        json!("10s"),
        json!("10 s"),
        json!("16GiB"),
        json!("0MiB"),
        json!("x".repeat(129)),
        json!([]),
        json!(["a"]),
        json!([1]),
        json!([1, 1]),
        json!([0.5, 5, 9]),
        json!([5, 9]),
        json!([9]),
        json!({"name": "poly", "power": 0.9, "min_lr": 1e-4}),
        json!({"name": "poly", "warmup_epochs": 1}),
        json!({}),
        json!({"a": 1}),
        json!({"name": "sgd"}),
        json!({"name": "sgd", "momentum": 0.5}),
        json!({"name": "sgd", "beta1": 0.5}),
        json!({"name": "adamw", "eps": 0}),
        json!({"name": "adamw", "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}),
        json!({"name": "cosine", "warmup": "vpt"}),
        json!({"name": "cosine", "warmup_epochs": -1}),
        json!({"name": "constant"}),
        json!({"name": "constant", "warmup": "vpt"}),
        json!({"train": "a", "eval": "b", "test": null}),
        json!({"train": null}),
        json!("sgd"),
        json!("cosine"),
        json!("constant"),
    ]
}

/// The choices and bounds of a schema, and values just beyond the bounds.
fn from_schema(schema: &Value, values: &mut Vec<Value>) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("enum", Value::Array(choices)) => values.extend(choices.iter().cloned()),
                    ("examples", Value::Array(examples)) => values.extend(examples.iter().cloned()),
                    ("const", value) => values.push(value.clone()),
                    ("minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum", value) => {
                        let bound = value.as_f64().expect("a number");
                        values.push(value.clone());
                        if bound.abs() < 1e15 {
                            values.extend([json!(bound - 1.0), json!(bound + 1.0), json!(bound + 1e-9)]);
                        }
                    }
                    (_, value) => from_schema(value, values),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|item| from_schema(item, values)),
        _ => {}
    }
}

fn candidates(schema: &Value) -> Vec<Value> {
    let mut values = anything();
    from_schema(schema, &mut values);
    values
}

/// What a schema says of a key; a failure that names it where it says nothing.
fn described<'a>(schema: &'a Value, key: &str) -> &'a Value {
    let found = &schema["properties"][key];
    let says_nothing = found.as_object().is_none_or(|found| found.keys().all(|name| name == "description"));
    assert!(
        !says_nothing,
        "the schema says nothing of `{key}`: describe it in sweeps/src/schema/parameters.rs"
    );
    found
}

/// A file with a context (null takes a key away) and a value in its base.
fn with(mut file: Value, context: &Value, key: &str, value: &Value) -> Value {
    let base = file["base"].as_object_mut().expect("a map");
    for (name, other) in context.as_object().expect("a map") {
        if other.is_null() {
            base.remove(name)
        } else {
            base.insert(name.clone(), other.clone())
        };
    }
    base.insert(key.to_owned(), value.clone());
    file
}

#[test]
fn every_parameter_takes_the_same_values() {
    let whole = schema::sweep_file();
    let validator = validator();
    let mut accepted = 0;
    for key in KEYS {
        let base = described(&whole["properties"]["base"], key.name);
        let values = candidates(base);
        for value in values {
            // A key may be wrong for one method and right for another: the schema does not know which it is.
            let by = |is_valid: &dyn Fn(&Value) -> bool| {
                let methods: Vec<&str> = match (key.name, value.as_str()) {
                    ("method", Some(method)) => vec![method],
                    ("method", None) => vec!["linear"],
                    _ => key.methods.to_vec(),
                };
                let contexts = contexts(key.name);
                let mut files = methods.iter().flat_map(|method| {
                    contexts.iter().map(|context| with(file(method), context, key.name, &value))
                });
                files.any(|file| is_valid(&file))
            };
            let by_parser = by(&parses);
            let by_schema = by(&|file| validator.is_valid(file));
            assert_eq!(by_parser, by_schema, "{}: {value}: the parser says {by_parser}", key.name);
            accepted += u32::from(by_parser);
        }
    }
    assert!(accepted > 60, "{accepted}");
}

/// Paths to the keys of a file outside of its space, with their schemas.
fn paths(schema: &Value, path: &[&str], found: &mut Vec<(Vec<String>, Value)>) {
    // A map, or a map or null.
    let map = if schema["anyOf"].is_array() { &schema["anyOf"][0] } else { schema };
    let Some(properties) = map["properties"].as_object() else { return };
    for (key, schema) in properties {
        let is_space =
            ["base", "axes", "zip", "blocks", "exclude", "include", "stages"].contains(&key.as_str());
        if path.is_empty() && is_space {
            continue;
        }
        let path: Vec<&str> = path.iter().copied().chain([key.as_str()]).collect();
        found.push((path.iter().map(|part| (*part).to_owned()).collect(), schema.clone()));
        paths(schema, &path, found);
    }
}

#[test]
fn every_other_key_takes_the_same_values() {
    let validator = validator();
    let mut all = Vec::new();
    paths(&schema::sweep_file(), &[], &mut all);
    assert!(all.len() > 30, "{}", all.len());
    let mut accepted = 0;
    for (path, schema) in all {
        for value in candidates(&schema) {
            let name = format!("{}: {value}", path.join("."));
            let mut file = file("vpt_deep");
            // What the parser asks for besides: the rule that reads a key; a maximum of the backoff that is not shorter than its first.
            if name.starts_with("early_stop.") {
                let rule = if name.starts_with("early_stop.min_trials") { "median" } else { "asha" };
                file["early_stop"] = json!({"rule": rule});
            }
            if name.starts_with("retry.backoff.first") {
                file["retry"] = json!({"backoff": {"max": "30d"}});
            }
            let last = path.iter().fold(&mut file, |node, key| {
                if node[key].is_null() {
                    node[key] = json!({});
                }
                &mut node[key]
            });
            *last = value.clone();
            if except(&name) {
                continue;
            }
            let (by_parser, by_schema) = (parses(&file), validator.is_valid(&file));
            assert_eq!(by_parser, by_schema, "{name}: the parser says {by_parser}");
            accepted += u32::from(by_parser);
        }
    }
    assert!(accepted > 100, "{accepted}");
}

/// What the parser refuses for the sake of several keys, or of a file as a whole; the schema cannot.
fn except(name: &str) -> bool {
    let refused_by_the_parser = [
        // Costs and test images choose nothing without `allow_test_selection`.
        "objective.metric: \"test/",
        // Scores of label maps, which these trials have not.
        "objective.metric: \"val/miou",
        "objective.metric: \"val/accuracy",
        "objective.metric: \"val/mean_accuracy",
        // A sampler needs its number of trials, and a grid has none.
        "search.trials",
        "search.sampler",
        "search.startup",
        // Names that must be axes.
        "search.per",
        // No time at all, or less than a second.
        "limits.trial_timeout: \"0",
        "checkpoint.every: \"0",
        // Names that must be axes.
        "early_stop.scope",
        // Shorter than the first pause.
        "retry.backoff.max",
    ];
    refused_by_the_parser.iter().any(|start| name.starts_with(start))
}

#[test]
fn the_parts_of_a_space_have_the_same_forms() {
    let validator = validator();
    let good = [
        json!({"axes": {"lr": {"values": [0.1, 1]}, "wd": {"range": {"min": 0, "max": 1, "num": 3}}}}),
        json!({"axes": {"lr": {"range": {"min": 0.1, "max": 1, "num": 3, "scale": "log"}, "scaled_by": "batch_size/256"}}}),
        json!({"axes": {"prompt_length": {"range": {"min": 1, "max": 9, "step": 2, "type": "int"}}}}),
        json!({"zip": [{"lr": [1, 2], "wd": [0, 0.1]}]}),
        json!({"blocks": [{"name": "a", "set": {"wd": 0.1}}, {"name": "b", "axes": {"wd": {"values": [0]}}}]}),
        json!({"axes": {"wd": {"values": [0, 1]}}, "exclude": [{"wd": 0}]}),
        json!({"include": [{"lr": 2}]}),
        json!({"stages": [{"name": "tune", "split": {"train": "a", "eval": "b"}},
                          {"name": "final", "from": {"stage": "tune", "best": 1}, "split": {"train": "c", "eval": "test"}}]}),
    ];
    let bad = [
        json!({"axes": {"lr": [1, 2]}}),
        json!({"axes": {"lr": {"values": []}}}),
        json!({"axes": {"lr": {"values": ["1"]}}}),
        json!({"axes": {"lr": {"values": [1], "range": {"min": 0, "max": 1, "num": 2}}}}),
        json!({"axes": {"lr": {}}}),
        json!({"axes": {"lr": {"range": {"min": 0, "num": 2}}}}),
        json!({"axes": {"lr": {"range": {"min": 0, "max": 1, "num": 1}}}}),
        json!({"axes": {"wd": {"values": [1], "scaled_by": "batch_size/256"}}}),
        json!({"axes": {"nothing": {"values": [1]}}}),
        json!({"zip": [{"lr": [1, 2]}]}),
        json!({"zip": {"lr": [1], "wd": [2]}}),
        json!({"blocks": [{"set": {"wd": 0.1}}]}),
        json!({"blocks": [{"name": "a", "base": {}}]}),
        json!({"exclude": [{"nothing": 0}]}),
        json!({"include": [{"lr": -1}]}),
        json!({"stages": [{"split": {"train": "a"}}]}),
        json!({"stages": [{"name": "a", "set": {"split": {"train": "b"}}}]}),
        json!({"stages": [{"name": "a", "from": {"best": 1}}]}),
        json!({"unknown": 1}),
        json!({"lr": 1}),
        json!({"version": 2}),
    ];
    for (parts, is_good) in good.iter().map(|p| (p, true)).chain(bad.iter().map(|p| (p, false))) {
        let mut file = file("vpt_deep");
        if parts["blocks"].is_array() || parts["axes"]["wd"].is_object() {
            file["base"].as_object_mut().expect("a map").remove("wd");
        }
        file.as_object_mut().expect("a map").extend(parts.as_object().expect("a map").clone());
        assert_eq!(parses(&file), is_good, "the parser on {parts}");
        assert_eq!(validator.is_valid(&file), is_good, "the schema on {parts}");
    }
    for key in ["version", "name"] {
        let mut file = file("linear");
        file.as_object_mut().expect("a map").remove(key);
        assert!(!validator.is_valid(&file) && !parses(&file), "{key} is required");
    }
}

#[test]
fn the_ready_made_sweeps_are_valid() {
    let validator = validator();
    let mut found = 0;
    for entry in std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&path).expect("text");
            let settings = sweeps::settings::parse(&text).expect("a map");
            let file = sweeps::Value::Map(settings).to_json().expect("finite");
            let errors: Vec<String> = validator.iter_errors(&file).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{}: {errors:?}", path.display());
            found += 1;
        }
    }
    assert!(found >= 2, "{found}");
}

#[test]
fn the_keys_of_a_file_are_those_of_the_parser() {
    let whole = schema::sweep_file();
    let keys: BTreeSet<&str> =
        whole["properties"].as_object().expect("a map").keys().map(String::as_str).collect();
    let parser: BTreeSet<&str> = sweeps::spec::FILE_KEYS.iter().copied().collect();
    assert_eq!(keys, parser);
}
