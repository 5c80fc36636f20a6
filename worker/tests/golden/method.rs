//! A case's `method` and `method_config` in our terms.

use serde_json::Value;
use sweeps::recipe::{
    AlsoTrain, CrossInsertion, Cvpt, Deep, E2vpt, Fidelity, KvBlocks, KvPosition, Location, Method, Pooling,
    PromptInit, Spt, SptInit, Vpt,
};
use tch::{Kind, Tensor};
use worker::tuning::Kept;

use crate::case::{Case, Tensors};

/// What a case asks for, or why it cannot be run here.
pub(crate) fn method(case: &Case, params: &Tensors) -> Result<Method, String> {
    let config = &case.json["method_config"];
    let number = |key: &str| number(config, key);
    let length = || number("prompt_tokens").ok_or_else(|| "case.json: no prompt_tokens".to_owned());
    let size = |name: &str, axis: usize| {
        let size = params.get(name).and_then(|t| t.size().get(axis).copied());
        size.and_then(|n| u32::try_from(n).ok()).ok_or_else(|| format!("params.safetensors: no {name}"))
    };
    Ok(match case.method.as_str() {
        "linear" | "npz_load" => Method::Linear,
        "mlp" => Method::MlpK {
            layers: number("hidden_layers").ok_or("case.json: no hidden_layers")? + 1,
            dropout: 0.0,
        },
        "full" => Method::Full { dropout: 0.0, drop_path: 0.0 },
        "partial" => Method::PartialK {
            blocks: number("k").ok_or("case.json: no k")?,
            norm: params.keys().any(|name| name.starts_with("norm.") || name.starts_with("fc_norm.")),
        },
        "bias" => Method::Bias { lr_factor: bias_factor(config) },
        "cls" => Method::Cls { reinit: false },
        "adapter" => {
            let reduction = number("reduction").ok_or("case.json: no reduction")?;
            Method::Adapter { reduction, fidelity: fidelity(case) }
        }
        "sidetune" => Method::Sidetune,
        "vpt" | "vpt_swin" => Method::Vpt(vpt(case, config)?),
        "vpt_resnet_pad" | "vpt_convnext_pad" => {
            let length = number("pad_width").ok_or("case.json: no pad_width")?;
            Method::Vpt(Vpt { location: Location::Pad, init: PromptInit::Imagenet, ..Vpt::shallow(length) })
        }
        "e2vpt" => Method::E2vpt(E2vpt {
            prompt_length: length()?,
            prompt_dropout: 0.0,
            kv_prompt_length: number("kv_tokens").unwrap_or(0),
            kv_share: config["kv_share"].as_bool().unwrap_or(true),
            kv_position: match config["kv_position"].as_str() {
                Some("after") => KvPosition::After,
                _ => KvPosition::Before,
            },
            kv_blocks: match config["kv_layers"].as_str() {
                Some("first") => KvBlocks::First,
                _ => KvBlocks::All,
            },
            segments: number("pieces").unwrap_or(1),
            // Without masks in the case none may be trained; that is what our paper mode does.
            fidelity: if params.contains_key("token_mask") { fidelity(case) } else { Fidelity::Paper },
        }),
        "gated" => Method::Gated {
            prompt_length: length()?,
            insertion_depth: 0,
            prompt_dropout: 0.0,
            gate_init: config["gate_init"].as_f64().unwrap_or(10.0),
            temperature: config["temperature"].as_str().is_some_and(|t| t.starts_with("learned")),
        },
        "spt" => Method::Spt(Spt {
            deep: config["deep"].as_bool().unwrap_or(false),
            prompt_length: length()?,
            init: SptInit::Random,
            init_images: None,
            drop_path: 0.0,
        }),
        "cvpt" => Method::Cvpt(Cvpt {
            prompt_length: size("prompt", 1)?,
            prompt_dropout: 0.0,
            insertion: match number("insert") {
                Some(1) => CrossInsertion::BeforeAttention,
                Some(2) => CrossInsertion::Parallel,
                Some(3) => CrossInsertion::AfterAttention,
                Some(4) => CrossInsertion::IntoMlp,
                Some(5) => CrossInsertion::AfterMlp,
                other => return Err(format!("case.json: insert {other:?} is not known")),
            },
            drop_path: 0.0,
            fidelity: fidelity(case),
        }),
        other => return Err(format!("method `{other}` is not known")),
    })
}

fn vpt(case: &Case, config: &Value) -> Result<Vpt, String> {
    let depth = number(&case.json["vit"], "depth").unwrap_or(0);
    let (location, init) = match config["location"].as_str().unwrap_or("prepend") {
        "prepend" => (Location::Prepend, PromptInit::Uniform),
        "prepend-pixel" => (Location::PrependPixel, PromptInit::Uniform),
        "prepend-pixel-gaussian" => (Location::PrependPixel, PromptInit::Gaussian),
        "prepend-pixel-imgnettransform" => (Location::PrependPixel, PromptInit::Imagenet),
        "add" => (Location::Add, PromptInit::Uniform),
        "add-1" => (Location::Add1, PromptInit::Uniform),
        "pad" => (Location::Pad, PromptInit::Imagenet),
        "below" => (Location::Below, PromptInit::Uniform),
        other => return Err(format!("location {other} is not known")),
    };
    let k = number(config, "k");
    let (insertion_depth, prompted_blocks) = match config["prompt_layers"].as_str() {
        None | Some("all") => (0, None),
        Some("first") => (0, k),
        Some("last") => (depth.saturating_sub(k.unwrap_or(depth)), k),
        Some(other) => return Err(format!("prompt_layers {other} is not known")),
    };
    let is_deep = config["deep"].as_bool() == Some(true);
    let deep = is_deep.then(|| Deep {
        prompted_blocks,
        shared: config["deep_shared"].as_bool() == Some(true),
        noexpand: config["noexpand"].as_bool() == Some(true),
        is_condensed: false,
    });
    let length = ["prompt_tokens", "pad_width", "prompt_channels"].iter().find_map(|key| number(config, key));
    Ok(Vpt {
        location,
        init,
        insertion_depth,
        project: number(config, "project"),
        also_train: match config["transfer_type"].as_str() {
            Some("prompt+bias") => AlsoTrain::Bias,
            Some("cls+prompt") => AlsoTrain::Cls,
            None | Some("prompt") => AlsoTrain::None,
            Some(other) => return Err(format!("transfer_type {other} is not known")),
        },
        bias_lr_factor: bias_factor(config),
        deep,
        fidelity: fidelity(case),
        ..Vpt::shallow(length.unwrap_or(0))
    })
}

fn bias_factor(config: &Value) -> f64 {
    config["bias_multiplier"].as_f64().unwrap_or(1.0)
}

fn fidelity(case: &Case) -> Fidelity {
    if case.json["fidelity"].as_str() == Some("code") { Fidelity::Code } else { Fidelity::Paper }
}

fn number(object: &Value, key: &str) -> Option<u32> {
    object[key].as_u64().and_then(|n| u32::try_from(n).ok())
}

/// The pooling ablations that a case asks for, with the suffix of their tensors.
pub(crate) fn poolings(case: &Case) -> Vec<(String, Pooling)> {
    let names = case.json["method_config"]["pool_types"].as_array().cloned().unwrap_or_default();
    let pooling = |name: &str| match name {
        "original" => Some(Pooling::Original),
        "img_pool" => Some(Pooling::Image),
        "prompt_pool" => Some(Pooling::Prompt),
        "imgprompt_pool" => Some(Pooling::ImagePrompt),
        _ => None,
    };
    let names = names.iter().filter_map(Value::as_str);
    names.filter_map(|name| pooling(name).map(|pooling| (name.to_owned(), pooling))).collect()
}

/// What pruning has left, where the case says that masks are final.
pub(crate) fn kept(case: &Case, params: &Tensors) -> Option<Kept> {
    let config = &case.json["method_config"];
    if !config["masks"].as_str()?.starts_with("binary") {
        return None;
    }
    let token_mask = Vec::<f32>::try_from(params.get("token_mask")?).ok()?;
    let tokens = (0..).zip(&token_mask).filter(|(_, mask)| **mask != 0.0).map(|(i, _)| i).collect();
    let segments = params.get("piece_mask").map(|mask| mask.to_kind(Kind::Float));
    Some(Kept { tokens: vec![tokens], segments })
}

/// Cases of pruned tokens give tensors of all P tokens; ours hold those that stay.
pub(crate) fn kept_rows(kept: Option<&Kept>, name: &str, value: &Tensor, ours: &[i64]) -> Tensor {
    let Some(tokens) = kept.and_then(|kept| kept.tokens.first()) else { return value.shallow_clone() };
    let axis = if name.ends_with("prompt") { 1 } else { 0 };
    let is_cut = value.dim() == ours.len()
        && !name.contains("kv_prompt")
        && ours.get(axis) == Some(&(tokens.len() as i64))
        && value.size()[axis] != ours[axis];
    if is_cut { value.index_select(axis as i64, &Tensor::from_slice(tokens)) } else { value.shallow_clone() }
}
