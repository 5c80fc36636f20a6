//! The JSON Schema (draft 2020-12) of a sweep file, for editors: from the tables that the parser reads by.
//!
//! It says what can be said of a file without expanding it: keys, types, names and ranges. Which method reads which
//! parameter, and what depends on several keys at once, the parser alone knows. `tests/schema.rs` holds the two
//! against each other, key by key and value by value.

mod parameters;

use serde_json::{Map, Value, json};

use self::parameters::{name, parameter};
use crate::FailureClass;
use crate::recipe::KEYS;
use crate::spec::{COST_METRICS, Reuse, SCORE_METRICS};

/// The schema of a whole file.
#[must_use]
pub fn sweep_file() -> Value {
    let mut schema = object(json!({
        "version": {"const": 1},
        "kind": {"const": "sweep"},
        "name": name(),
        "project": name(),
        "labels": labels(),
        "objective": object(json!({
            "metric": {"enum": SCORE_METRICS},
            "goal": {"enum": ["maximize", "minimize"]},
            "at": {"enum": ["last", "best"]},
        })),
        "report": {
            "type": "array",
            "items": {"enum": SCORE_METRICS.iter().chain(COST_METRICS).collect::<Vec<_>>()},
            "minItems": 1,
            "uniqueItems": true,
        },
        "search": object(json!({
            "sampler": {"enum": SAMPLERS},
            "trials": integer(1, 1_000_000),
            "order": {"enum": ["shuffled", "as_written"]},
            "seed": natural(),
            "startup": integer(1, 10_000),
            "per": list(json!({"type": "string"})),
        })),
        "base": parameters(parameter),
        "axes": axes(),
        "zip": zip(),
        "blocks": list(required(
            object(json!({"name": name(), "set": parameters(parameter), "axes": axes(), "zip": zip()})),
            &["name"],
        )),
        // What is compared may be anything.
        "exclude": list(parameters(|_| json!({}))),
        "include": list(parameters(parameter)),
        "replicates": replicates(),
        "stages": list(stage()),
        "early_stop": or_null(required(
            object(json!({
                "rule": {"enum": ["median", "asha", "hyperband"]},
                "resource": {"const": "epoch"},
                "min": integer(1, 100_000),
                "eta": integer(2, 1_000),
                "min_trials": integer(1, 1_000_000),
                "scope": list(json!({"type": "string"})),
                "never_stop": list(parameters(|_| json!({}))),
            })),
            &["rule"],
        )),
        "allow_test_selection": {"type": "boolean"},
        "early_stop": or_null(required(
            object(json!({
                "rule": {"enum": ["median", "asha", "hyperband"]},
                "resource": {"const": "epoch"},
                "min": integer(1, 100_000),
                "eta": integer(2, 1_000),
                "min_trials": integer(1, 1_000_000),
                "scope": list(json!({"type": "string"})),
                "never_stop": list(parameters(|_| json!(true))),
            })),
            &["rule"],
        )),
        "limits": object(json!({
            "max_running": or_null(integer(1, 1_000_000)),
            "trial_timeout": or_null(duration()),
            "pause_after_failures": or_null(integer(1, 1_000_000)),
            "pause_after_code_errors": or_null(integer(1, 1_000_000)),
        })),
        "resources": object(json!({
            "gpu": integer(0, 1),
            "gpu_memory": memory(),
            "share": {"const": true},
            "labels": labels(),
        })),
        "retry": object(json!({
            "max_attempts": integer(1, 100),
            "backoff": object(json!({
                "first": duration(),
                "factor": {"type": "number", "minimum": 1, "maximum": 100},
                "max": duration(),
            })),
            "never": {"type": "array", "items": {"enum": FailureClass::ALL.map(FailureClass::name)}},
            "poison_after": or_null(integer(1, 100)),
        })),
        "checkpoint": object(json!({"every": or_null(duration()), "on_drain": {"type": "boolean"}})),
        "priority": integer(-1000, 1000),
        "reuse": {"enum": Reuse::NAMES.map(|(name, _)| name)},
        "share_prefix": {"type": "boolean"},
    }));
    let head = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "promptsweep sweep file, version 1",
    });
    merge(&mut schema, head);
    required(schema, &["version", "name"])
}

const SAMPLERS: &[&str] = &["grid", "random", "sobol", "tpe", "cma_es"];

fn stage() -> Value {
    let split = |test: Value| json!({"train": name(), "eval": name(), "test": test});
    required(
        object(json!({
            "name": name(),
            "from": required(
                object(json!({
                    "stage": {"type": "string"},
                    "best": integer(1, 1_000_000),
                    "per": list(json!({"type": "string"})),
                    "allow_stopped": {"type": "boolean"},
                })),
                &["stage"],
            ),
            "start": {"enum": ["fresh", "artifact"]},
            "split": object(split(or_null(name()))),
            "set": parameters(|key| if key == "split" { json!(false) } else { parameter(key) }),
            "axes": axes(),
            "zip": zip(),
            "replicates": replicates(),
        })),
        &["name"],
    )
}

/// A map that may have every parameter.
fn parameters(value: impl Fn(&str) -> Value) -> Value {
    let properties = KEYS.iter().map(|key| {
        let mut schema = value(key.name);
        if let Value::Object(schema) = &mut schema {
            schema.insert("description".to_owned(), key.doc.into());
        }
        (key.name.to_owned(), schema)
    });
    object(Value::Object(properties.collect()))
}

fn axes() -> Value {
    parameters(|key| {
        let number = || json!({"type": "number", "minimum": -1e300, "maximum": 1e300});
        let range = object(json!({
            "min": number(),
            "max": number(),
            "num": {"type": "integer", "minimum": 2},
            "step": {"type": "number", "exclusiveMinimum": 0},
            "scale": {"enum": ["linear", "log"]},
            "type": {"enum": ["float", "int"]},
        }));
        let mut axis = object(json!({
            "values": list(parameter(key)),
            "range": required(range, &["min", "max"]),
            "scaled_by": if key == "lr" { json!({"const": "batch_size/256"}) } else { json!(false) },
        }));
        merge(&mut axis, json!({"oneOf": [{"required": ["values"]}, {"required": ["range"]}]}));
        axis
    })
}

fn zip() -> Value {
    let mut group = parameters(|key| list(parameter(key)));
    merge(&mut group, json!({"minProperties": 2}));
    list(group)
}

fn replicates() -> Value {
    let mut seeds = list(natural());
    merge(&mut seeds, json!({"uniqueItems": true}));
    required(object(json!({"seeds": seeds})), &["seeds"])
}

fn labels() -> Value {
    let text = json!({"anyOf": [{"type": "string", "maxLength": 256}, {"type": ["number", "boolean"]}]});
    json!({"type": "object", "propertyNames": name(), "additionalProperties": text, "maxProperties": 64})
}

fn memory() -> Value {
    json!({"type": "string", "pattern": "^0*[1-9][0-9]*(MiB|GiB)$", "examples": ["14GiB"]})
}

/// Up to 30 days, which the pattern does not bound.
fn duration() -> Value {
    json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$", "examples": ["30s", "15m", "3h"]})
}

fn integer(minimum: i64, maximum: i64) -> Value {
    json!({"type": "integer", "minimum": minimum, "maximum": maximum})
}

fn natural() -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": i64::MAX})
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items, "minItems": 1})
}

fn or_null(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

/// A map with these keys and no others.
fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

fn required(mut schema: Value, keys: &[&str]) -> Value {
    merge(&mut schema, json!({"required": keys}));
    schema
}

fn merge(schema: &mut Value, more: Value) {
    if let (Value::Object(schema), Value::Object(more)) = (schema, more) {
        schema.extend::<Map<String, Value>>(more);
    }
}
