//! What each parameter of a trial may be.

use serde_json::{Value, json};

use super::{integer, merge, object, or_null, required};
use crate::recipe::{METHODS, choices};

/// One plain path component; [`check_name`](crate::recipe::check_name) says it in words.
const NAME: &str = "[A-Za-z0-9](?:[A-Za-z0-9_-]|\\.(?!\\.))*";

pub(super) fn name() -> Value {
    json!({"type": "string", "pattern": format!("^{NAME}$"), "maxLength": 128})
}

/// The schema of a parameter.
pub(super) fn parameter(key: &str) -> Value {
    let enumeration = |key: &str| json!({"enum": choices(key)});
    let share = || json!({"type": "number", "minimum": 0, "exclusiveMaximum": 1});
    let not_negative = || json!({"type": "number", "minimum": 0});
    let above_zero = || json!({"type": "number", "exclusiveMinimum": 0});
    match key {
        "backbone" => name(),
        "task" => {
            let part = format!("(?=[^/]{{1,128}}(?:/|$)){NAME}");
            json!({"type": "string", "pattern": format!("^{part}(?:/{part})?$")})
        }
        "split" => object(json!({"train": name(), "eval": name(), "test": or_null(name())})),
        "method" => json!({"enum": METHODS}),
        "image_size" => integer(1, 4096),
        "prompt_length" | "trained_blocks" | "reduction" | "rank" => integer(1, 10_000),
        "kv_prompt_length" => integer(0, 10_000),
        "insertion_depth" => integer(0, 9_999),
        "prompted_blocks" => or_null(integer(1, 10_000)),
        "prompt_project" => or_null(integer(1, 100_000)),
        "init_images" => or_null(integer(1, 10_000_000)),
        "segments" | "epochs" => integer(1, 100_000),
        "mlp_layers" => integer(2, 16),
        "batch_size" => integer(1, 65_536),
        "prompt_dropout" | "mlp_dropout" | "drop_path" | "backbone_dropout" | "pruning_ratio"
        | "segment_ratio" => share(),
        "gate_init" => json!({"type": "number", "minimum": -100, "maximum": 100}),
        "temperature" | "train_prompts" | "shared" | "noexpand" | "kv_share" | "train_norm"
        | "cls_reinit" => {
            json!({"type": "boolean"})
        }
        "rewind_schedule" => {
            let epoch = required(object(json!({"epoch": integer(1, 100_000)})), &["epoch"]);
            object(json!({
                "prune_at": integer(0, 100_000),
                "to": {"anyOf": [{"enum": ["init", "fresh"]}, epoch]},
                "epochs": integer(1, 100_000),
                "lr": enumeration("rewind_lr"),
            }))
        }
        "head_channels" => integer(1, 4096),
        "stride" => or_null(integer(1, 4096)),
        "epoch_steps" => or_null(integer(1, 10_000_000)),
        "photometric" => json!({"type": "boolean"}),
        "cat_max_ratio" => json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
        "aux_blocks" => or_null(json!({
            "type": "array", "items": integer(0, 9_999), "maxItems": 64, "uniqueItems": true,
        })),
        "scales" => or_null(json!({
            "type": "array", "items": {"type": "number", "minimum": 0.1, "maximum": 8}, "minItems": 1, "maxItems": 64,
        })),
        "bias_lr_factor" | "lora_alpha" | "head_lr_factor" | "aux_weight" => above_zero(),
        "lr" | "wd" => not_negative(),
        "wd_head" => or_null(not_negative()),
        "optimizer" => {
            let adamw = json!({"beta1": share(), "beta2": share(), "eps": above_zero()});
            named(&[("sgd", json!({"momentum": share()})), ("adamw", adamw.clone()), ("adamw_vpt", adamw)])
        }
        "schedule" => {
            let warmup_epochs = integer(0, 99_999);
            let of = |more: Value| {
                let mut keys = json!({"warmup_epochs": warmup_epochs});
                merge(&mut keys, more);
                keys
            };
            named(&[
                ("cosine", of(json!({"warmup": enumeration("warmup")}))),
                ("cosine_spt", of(json!({"min_lr": not_negative()}))),
                ("cosine_cvpt", of(json!({"warmup_lr": not_negative(), "min_lr": not_negative()}))),
                ("poly", json!({"power": above_zero(), "min_lr": not_negative()})),
                ("constant", json!({})),
            ])
        }
        // Whatever is not described here may be anything.
        _ if choices(key).is_empty() => json!({}),
        _ => enumeration(key),
    }
}

/// A bare name, or a map of the name and the keys that go with it.
fn named(alternatives: &[(&str, Value)]) -> Value {
    let names: Vec<&str> = alternatives.iter().map(|(name, _)| *name).collect();
    let map = |(name, keys): &(&str, Value)| {
        let mut properties = json!({"name": {"const": name}});
        merge(&mut properties, keys.clone());
        required(object(properties), &["name"])
    };
    let maps = alternatives.iter().map(map);
    json!({"anyOf": std::iter::once(json!({"enum": names})).chain(maps).collect::<Vec<_>>()})
}
