//! The method of a recipe and its keys: ranges, defaults, and which settings go together.

use super::method::{
    AlsoTrain, CrossInsertion, Cvpt, Deep, E2vpt, Fidelity, KvBlocks, KvPosition, Location, Method, Pooling,
    PromptInit, Spt, SptInit, Vpt,
};
use super::names;
use super::read::Fields;
use super::{RecipeError, error::Fault};
use crate::value::Value;

/// Reads the keys of the method `name`, one of [`METHODS`](super::METHODS).
pub(super) fn read_method(top: &Fields<'_>, name: &str) -> Result<Method, RecipeError> {
    Ok(match name {
        "linear" => Method::Linear,
        "mlp_k" => Method::MlpK {
            layers: top.int("mlp_layers", None, 2..=16)?,
            dropout: share(top, "mlp_dropout", 0.1)?,
        },
        "full" => Method::Full {
            dropout: share(top, "backbone_dropout", 0.0)?,
            drop_path: share(top, "drop_path", 0.0)?,
        },
        "partial_k" => Method::PartialK {
            blocks: top.int("trained_blocks", None, 1..=10_000)?,
            norm: top.bool("train_norm", true)?,
        },
        "bias" => Method::Bias { lr_factor: lr_factor(top)? },
        "cls" => Method::Cls { reinit: top.bool("cls_reinit", false)? },
        "adapter" => Method::Adapter {
            reduction: top.int("reduction", Some(8), 1..=10_000)?,
            fidelity: fidelity(top)?,
        },
        "sidetune" => Method::Sidetune,
        "lora" => {
            let rank = top.int("rank", Some(8), 1..=10_000)?;
            Method::Lora { rank, alpha: positive(top, "lora_alpha", f64::from(rank))? }
        }
        "ssf" => Method::Ssf,
        "vpt_shallow" => Method::Vpt(vpt(top, None)?),
        "vpt_deep" => Method::Vpt(vpt(top, Some(deep(top, false)?))?),
        "condense" => Method::Vpt(vpt(top, Some(deep(top, true)?))?),
        "e2vpt" => Method::E2vpt(e2vpt(top)?),
        "spt_shallow" => Method::Spt(spt(top, false)?),
        "spt_deep" => Method::Spt(spt(top, true)?),
        "cvpt" => Method::Cvpt(cvpt(top)?),
        _ => Method::Gated {
            prompt_length: prompt_length(top)?,
            insertion_depth: insertion_depth(top)?,
            prompt_dropout: share(top, "prompt_dropout", 0.1)?,
            gate_init: top.float("gate_init", Some(10.0), "a number from -100 to 100", |x| {
                (-100.0..=100.0).contains(&x)
            })?,
            temperature: top.bool("temperature", true)?,
        },
    })
}

fn prompt_length(top: &Fields<'_>) -> Result<u32, RecipeError> {
    top.int("prompt_length", None, 1..=10_000)
}

fn insertion_depth(top: &Fields<'_>) -> Result<u32, RecipeError> {
    top.int("insertion_depth", Some(0), 0..=9_999)
}

fn fidelity(top: &Fields<'_>) -> Result<Fidelity, RecipeError> {
    top.choice("fidelity", Some(Fidelity::Paper), names::FIDELITY)
}

fn share(top: &Fields<'_>, field: &str, default: f64) -> Result<f64, RecipeError> {
    top.float(field, Some(default), "a number with 0 <= p < 1", |x| (0.0..1.0).contains(&x))
}

fn positive(top: &Fields<'_>, field: &str, default: f64) -> Result<f64, RecipeError> {
    top.float(field, Some(default), "a number > 0", |x| x > 0.0)
}

fn lr_factor(top: &Fields<'_>) -> Result<f64, RecipeError> {
    positive(top, "bias_lr_factor", 1.0)
}

/// An integer, or `None` for null or nothing.
fn optional(top: &Fields<'_>, field: &str, largest: u32) -> Result<Option<u32>, RecipeError> {
    match top.source.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => top.int(field, None, 1..=largest).map(Some),
    }
}

fn deep(top: &Fields<'_>, is_condensed: bool) -> Result<Deep, RecipeError> {
    Ok(Deep {
        prompted_blocks: optional(top, "prompted_blocks", 10_000)?,
        shared: top.bool("shared", false)?,
        noexpand: top.bool("noexpand", false)?,
        is_condensed,
    })
}

fn vpt(top: &Fields<'_>, deep: Option<Deep>) -> Result<Vpt, RecipeError> {
    let location = top.choice("location", Some(Location::Prepend), names::LOCATION)?;
    let also_train = top.choice("also_train", Some(AlsoTrain::None), names::ALSO_TRAIN)?;
    let has_length = !matches!(location, Location::Add | Location::Add1);
    let vpt = Vpt {
        location,
        prompt_length: if has_length { prompt_length(top)? } else { 0 },
        insertion_depth: insertion_depth(top)?,
        prompt_dropout: share(top, "prompt_dropout", if deep.is_some() { 0.1 } else { 0.0 })?,
        init: prompt_init(top, location)?,
        is_trained: top.bool("train_prompts", true)?,
        project: optional(top, "prompt_project", 100_000)?,
        pooling: top.choice("pooling", Some(Pooling::Original), names::POOLING)?,
        also_train,
        bias_lr_factor: lr_factor(top)?,
        deep,
        fidelity: fidelity(top)?,
    };
    check_location(top, &vpt)?;
    if also_train != AlsoTrain::Bias && vpt.bias_lr_factor != 1.0 {
        return Err(RecipeError::new("bias_lr_factor", "needs `also_train: bias`"));
    }
    if vpt.pooling == Pooling::Prompt && vpt.deep.is_some_and(|deep| deep.noexpand) {
        return Err(RecipeError::new(
            "pooling",
            "`prompt` needs prompts behind the last block: leave `noexpand` out",
        ));
    }
    Ok(vpt)
}

fn prompt_init(top: &Fields<'_>, location: Location) -> Result<PromptInit, RecipeError> {
    let (default, allowed): (PromptInit, &[PromptInit]) = match location {
        Location::PrependPixel => {
            (PromptInit::Uniform, &[PromptInit::Uniform, PromptInit::Gaussian, PromptInit::Imagenet])
        }
        Location::Pad => (PromptInit::Imagenet, &[PromptInit::Imagenet, PromptInit::Gaussian]),
        Location::Below => {
            (PromptInit::Uniform, &[PromptInit::Uniform, PromptInit::Imagenet, PromptInit::Gaussian])
        }
        Location::Prepend => (
            PromptInit::Uniform,
            &[
                PromptInit::Uniform,
                PromptInit::ClassFinal,
                PromptInit::ClassEntering,
                PromptInit::ClassLeaving,
            ],
        ),
        Location::Add | Location::Add1 => (PromptInit::Uniform, &[PromptInit::Uniform]),
    };
    let choices: Vec<(&'static str, PromptInit)> =
        names::PROMPT_INIT.iter().filter(|(_, init)| allowed.contains(init)).copied().collect();
    top.choice("prompt_init", Some(default), &choices)
}

/// Keys that make no sense at a location are refused, not ignored.
fn check_location(top: &Fields<'_>, vpt: &Vpt) -> Result<(), RecipeError> {
    let location = names::name_of(names::LOCATION, &vpt.location);
    let is_pixels = !vpt.location.has_deep_form();
    let refuse = |key: &str, mend: &str| {
        Err(RecipeError {
            fault: Fault::Key,
            ..RecipeError::new(key, format!("is not read at location `{location}`: {mend}"))
        })
    };
    if is_pixels && vpt.deep.is_some() {
        return Err(RecipeError::new(
            "location",
            format!(
                "`{location}` has no deep form: use `vpt_shallow`, or `prepend`, `add` or `add_1` with `vpt_deep`"
            ),
        ));
    }
    if matches!(vpt.location, Location::Add | Location::Add1) && top.source.get("prompt_length").is_some() {
        return refuse("prompt_length", "the image's tokens tell the number of prompts; leave it out");
    }
    if is_pixels && vpt.insertion_depth > 0 {
        return refuse("insertion_depth", "pixels enter before block 0; leave it out");
    }
    if is_pixels && vpt.prompt_dropout > 0.0 {
        return refuse("prompt_dropout", "pixels are not dropped; leave it out");
    }
    if vpt.location == Location::Prepend {
        return check_prepended(vpt);
    }
    if !vpt.is_trained {
        return refuse("train_prompts", "only prompts at `prepend` can stay as they are; leave it out");
    }
    if vpt.project.is_some() {
        return refuse("prompt_project", "only prompts at `prepend` are projected; leave it out");
    }
    let has_slots = vpt.location == Location::PrependPixel;
    if matches!(vpt.pooling, Pooling::Prompt | Pooling::ImagePrompt) && !has_slots {
        return Err(RecipeError::new(
            "pooling",
            format!("location `{location}` has no prompt tokens: use `original` or `image`"),
        ));
    }
    match vpt.deep {
        Some(Deep { shared: true, .. }) => {
            refuse("shared", "only `prepend` has shared prompts; leave it out")
        }
        Some(Deep { noexpand: true, .. }) => {
            refuse("noexpand", "the sequence does not grow there; leave it out")
        }
        _ => Ok(()),
    }
}

/// What excludes each other where prompts are tokens.
fn check_prepended(vpt: &Vpt) -> Result<(), RecipeError> {
    if !vpt.init.is_of_classes() {
        return Ok(());
    }
    let name = names::name_of(names::PROMPT_INIT, &vpt.init);
    let refuse = |key: &str| {
        Err(RecipeError::new(key, format!("does not go with `prompt_init: {name}`: leave one of them out")))
    };
    match vpt.deep {
        _ if vpt.project.is_some() => refuse("prompt_project"),
        Some(Deep { shared: true, .. }) => refuse("shared"),
        _ => Ok(()),
    }
}

fn e2vpt(top: &Fields<'_>) -> Result<E2vpt, RecipeError> {
    Ok(E2vpt {
        prompt_length: prompt_length(top)?,
        prompt_dropout: share(top, "prompt_dropout", 0.1)?,
        kv_prompt_length: top.int("kv_prompt_length", None, 0..=10_000)?,
        kv_share: top.bool("kv_share", true)?,
        kv_position: top.choice("kv_position", Some(KvPosition::Before), names::KV_POSITION)?,
        kv_blocks: top.choice("kv_blocks", Some(KvBlocks::All), names::KV_BLOCKS)?,
        segments: top.int("segments", Some(16), 1..=100_000)?,
        fidelity: fidelity(top)?,
    })
}

fn spt(top: &Fields<'_>, deep: bool) -> Result<Spt, RecipeError> {
    let prompt_length = prompt_length(top)?;
    let init = top.choice("prompt_init", Some(SptInit::Random), names::SPT_INIT)?;
    if matches!(init, SptInit::MeanPooling | SptInit::MaxPooling) && prompt_length == 1 {
        return Err(RecipeError::new(
            "prompt_length",
            "is 1, but pooling takes its windows from prompt_length - 1: use at least 2",
        ));
    }
    Ok(Spt {
        deep,
        prompt_length,
        init,
        init_images: optional(top, "init_images", 10_000_000)?,
        drop_path: share(top, "drop_path", 0.0)?,
    })
}

fn cvpt(top: &Fields<'_>) -> Result<Cvpt, RecipeError> {
    Ok(Cvpt {
        prompt_length: prompt_length(top)?,
        prompt_dropout: share(top, "prompt_dropout", 0.1)?,
        insertion: top.choice(
            "cross_insertion",
            Some(CrossInsertion::AfterAttention),
            names::CROSS_INSERTION,
        )?,
        drop_path: share(top, "drop_path", 0.0)?,
        fidelity: fidelity(top)?,
    })
}
