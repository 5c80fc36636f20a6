//! Cases that are tables: schedules, parameter counts, and a converted checkpoint.

use std::path::Path;

use serde_json::Value;
use sweeps::recipe::{
    AlsoTrain, Deep, E2vpt, Fidelity, HeadInit, KvBlocks, KvPosition, Location, Method, Schedule, Vpt, Warmup,
};
use tch::{Device, Kind, Tensor};
use worker::backbone::{Arch, Backbone, Weights};
use worker::home::Home;
use worker::import::{self, BackboneWish, normalisation};
use worker::trainer::{Ensemble, Member, Moment, Rule, Setup, learning_rate};
use worker::vit::{PositionResize, resize_positions};

use crate::Outcome;
use crate::case::{Case, How, tensors};
use crate::compare::{Comparison, Worst};
use crate::support::vit_b16;

fn json(path: &Path) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

fn outcome(wrong: Vec<String>) -> Outcome {
    if wrong.is_empty() {
        Outcome::Passed(Worst::default())
    } else {
        Outcome::Failed(Worst::default(), wrong)
    }
}

/// The learning rate of every epoch of the VPT and CVPT code and of every step of the SPT code, to 1e-9.
pub(crate) fn schedules(folder: &Path) -> Result<Outcome, String> {
    let tables = json(&folder.join("schedule.json"))?;
    let mut wrong = Vec::new();
    let vpt = tables["vpt"].as_array().ok_or("schedule.json has no list `vpt`")?;
    for table in vpt {
        let schedule = Schedule::Cosine { warmup_epochs: integer(table, "warmup")?, warmup: Warmup::Vpt };
        check_rates(schedule, 1.0, integer(table, "total")?, &table["factor_per_epoch"], &mut wrong)?;
    }
    let spt = &tables["spt"];
    let schedule =
        Schedule::CosineSpt { warmup_epochs: integer(spt, "warmup_epochs")?, min_lr: float(spt, "min_lr")? };
    check_rates(schedule, float(spt, "lr")?, integer(spt, "epochs")?, &spt["lr_per_step"], &mut wrong)?;
    let cvpt = &tables["cvpt"];
    let schedule = Schedule::CosineCvpt {
        warmup_epochs: integer(cvpt, "warmup_t")?,
        warmup_lr: float(cvpt, "warmup_lr_init")?,
        min_lr: float(cvpt, "lr_min")?,
    };
    let epochs = integer(cvpt, "t_initial")?;
    check_rates(schedule, float(cvpt, "lr")?, epochs, &cvpt["lr_used_in_epoch"], &mut wrong)?;
    Ok(outcome(wrong))
}

fn integer(table: &Value, key: &str) -> Result<u32, String> {
    table[key].as_u64().and_then(|n| u32::try_from(n).ok()).ok_or(format!("no {key}"))
}

fn float(table: &Value, key: &str) -> Result<f64, String> {
    table[key].as_f64().ok_or(format!("no {key}"))
}

/// `rates`: a number per epoch, or a list of numbers per epoch, one for each step.
fn check_rates(
    schedule: Schedule,
    peak: f64,
    epochs: u32,
    rates: &Value,
    wrong: &mut Vec<String>,
) -> Result<(), String> {
    for (epoch, want) in (0..).zip(rates.as_array().ok_or("no list of rates")?) {
        let one = [want.clone()];
        let steps = want.as_array().map_or(&one[..], Vec::as_slice);
        for (step, want) in (0..).zip(steps) {
            let at = Moment { epoch, step, steps: steps.len() as u64, epochs };
            let (got, want) = (learning_rate(schedule, peak, at), want.as_f64().unwrap_or(f64::NAN));
            let is_close = (got - want).abs() <= 1e-9 * want.abs() + 1e-15;
            if !is_close {
                wrong.push(format!(
                    "{schedule:?}: epoch {epoch}, step {step} of {epochs} is {got}, not {want}"
                ));
            }
        }
    }
    Ok(())
}

/// Trainable and total parameters on ViT-B/16 of every row.
pub(crate) fn parameters(folder: &Path) -> Result<Outcome, String> {
    let table = json(&folder.join("counts.json"))?;
    let classes = table["num_classes"].as_i64().ok_or("counts.json has no num_classes")?;
    let arch = vit_b16();
    let vit = blank(&arch)?;
    let mut wrong = Vec::new();
    for (row, want) in table["counts"].as_object().ok_or("counts.json has no counts")? {
        let method = row_method(row)?;
        let member = [Member { seed: 0, wd: 0.0, wd_head: 0.0, momentum: 0.9 }];
        let setup = Setup {
            method: &method,
            head: HeadInit::Zero,
            setr: None,
            classes,
            image_size: 224,
            rule: Rule::Sgd,
            members: &member,
            kept: None,
        };
        let ensemble = Ensemble::new(&vit, &setup);
        // What the authors allocate and never use: the deep tensors of shared prompts.
        let prompt = ensemble.params()[0].value.numel() as i64;
        let unused =
            if row.starts_with("vpt_deep_shared") { i64::from(arch.depth() - 1) * prompt } else { 0 };
        let trainable = ensemble.trainable() + unused;
        let total = ensemble.total(&vit) + unused;
        if want["trainable"].as_i64() != Some(trainable) || want["total"].as_i64() != Some(total) {
            wrong.push(format!("{row} has {trainable} of {total}, not {want}"));
        }
    }
    Ok(outcome(wrong))
}

/// The method that a row's name stands for: words and numbers such as `vpt_deep_P10_last4`.
fn row_method(row: &str) -> Result<Method, String> {
    let words: Vec<&str> = row.split('_').collect();
    let number =
        |letters: &str| words.iter().find_map(|word| word.strip_prefix(letters)?.parse::<u32>().ok());
    let last = words.last().and_then(|word| word.parse::<u32>().ok());
    let has = |word: &str| words.contains(&word);
    let length = number("P").or(last).unwrap_or(0);
    let deep = Vpt { prompt_length: length, ..Vpt::deep(0) };
    let blocks = |insertion_depth, prompted_blocks| Vpt {
        insertion_depth,
        deep: Some(Deep { prompted_blocks: Some(prompted_blocks), ..Deep::default() }),
        ..deep.clone()
    };
    let at = |location, is_deep: bool| Vpt {
        location,
        prompt_length: length,
        deep: is_deep.then(Deep::default),
        ..Vpt::shallow(0)
    };
    let vpt = match words[0] {
        "linear" => return Ok(Method::Linear),
        "full" => return Ok(Method::Full { dropout: 0.0, drop_path: 0.0 }),
        "bias" => return Ok(Method::Bias { lr_factor: 1.0 }),
        "partial" => return Ok(Method::PartialK { blocks: last.unwrap_or(0), norm: true }),
        "mlp" => {
            let layers = number("hidden").unwrap_or(0) + 1;
            return Ok(Method::MlpK { layers, dropout: 0.1 });
        }
        "sidetune" => return Ok(Method::Sidetune),
        "adapter" => {
            let reduction = number("r").unwrap_or(8);
            return Ok(Method::Adapter { reduction, fidelity: Fidelity::Paper });
        }
        "gated" => {
            return Ok(Method::Gated {
                prompt_length: length,
                insertion_depth: 0,
                prompt_dropout: 0.1,
                gate_init: 5.0,
                temperature: true,
            });
        }
        "e2vpt" => {
            return Ok(Method::E2vpt(E2vpt {
                prompt_length: length,
                prompt_dropout: 0.1,
                kv_prompt_length: number("V").unwrap_or(0),
                kv_share: !has("unshared"),
                kv_position: KvPosition::Before,
                kv_blocks: if has("kvfirst") { KvBlocks::First } else { KvBlocks::All },
                segments: 16,
                fidelity: if has("masks") { Fidelity::Code } else { Fidelity::Paper },
            }));
        }
        "vpt" if has("shallow") => Vpt::shallow(length),
        "vpt" if has("add") => at(Location::Add, has("deep")),
        "vpt" if has("add1") => at(Location::Add1, has("deep")),
        "vpt" if has("pixel") => at(Location::PrependPixel, false),
        "vpt" if has("pad") => at(Location::Pad, false),
        "vpt" if has("below") => at(Location::Below, false),
        "vpt" if has("shared") => {
            Vpt { deep: Some(Deep { shared: true, ..Deep::default() }), ..deep.clone() }
        }
        "vpt" if has("bias") => Vpt { also_train: AlsoTrain::Bias, ..deep.clone() },
        "vpt" => match (number("first"), number("last"), number("project")) {
            (Some(k), ..) => blocks(0, k),
            (_, Some(k), _) => blocks(12 - k, k),
            (.., project) => Vpt { project, ..deep.clone() },
        },
        _ => return Err(format!("counts.json: `{row}` is not known")),
    };
    Ok(Method::Vpt(vpt))
}

/// A backbone of zeros.
fn blank(arch: &Arch) -> Result<Backbone, String> {
    let zeros = |shape: Vec<usize>| {
        let shape: Vec<i64> = shape.into_iter().map(|n| n as i64).collect();
        Tensor::zeros(shape, (Kind::Float, Device::Cpu))
    };
    let tensors = arch.tensors().into_iter().map(|t| (t.name, zeros(t.shape)));
    let weights = Weights::new(tensors, arch, Kind::Float, Device::Cpu).map_err(|e| e.to_string())?;
    Ok(Backbone::new(arch.clone(), weights))
}
/// A Google npz checkpoint of another grid: imported and resized, it is the authors' `load_from`, and a linear head on
/// what they loaded gives their logits.
pub(crate) fn npz(case: &Case) -> Result<Outcome, String> {
    let mut comparison = Comparison::new(case);
    let mut converted = imported(case)?;
    case.replay(&Method::Linear, How { members: 1, kind: Kind::Float }, &mut comparison)?;
    comparison.wrong.append(&mut converted);
    let (worst, wrong) = (comparison.worst, comparison.wrong);
    Ok(if wrong.is_empty() { Outcome::Passed(worst) } else { Outcome::Failed(worst, wrong) })
}

/// What differs between our import of `backbone.npz` and the authors' weights.
fn imported(case: &Case) -> Result<Vec<String>, String> {
    let arch = case.arch()?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let home = Home::open(folder.path()).map_err(|e| e.to_string())?;
    let wish = BackboneWish {
        name: "npz".to_owned(),
        heads: None,
        pool: Some(arch.pool),
        eps: Some(arch.layer_norm_eps),
        image_size: None,
        position_resize: Some(PositionResize::Bilinear),
        normalisation: normalisation("imagenet").map_err(|e| e.to_string())?,
        source: None,
    };
    let entry =
        import::backbone(&home, &case.folder.join("backbone.npz"), &wish).map_err(|e| e.to_string())?;
    let Arch::Vit(found) = &entry.sidecar.arch else { return Err("the import is no ViT".to_owned()) };
    if found.heads != arch.heads {
        return Err(format!("{} heads are read, not {}", found.heads, arch.heads));
    }
    let (ours, theirs) = (tensors(&entry.path)?, case.tensors("backbone.safetensors")?);
    let grid = i64::from(arch.grid());
    let mut wrong = Vec::new();
    for (name, want) in &theirs {
        let got = ours.get(name).ok_or_else(|| format!("{name} is not imported"))?;
        let got = match name.as_str() {
            "pos_embed" => resize_positions(got, grid, PositionResize::Bilinear),
            _ => got.shallow_clone(),
        };
        if got.size() != want.size() {
            wrong.push(format!("{name} is {:?}, not {:?}", got.size(), want.size()));
            continue;
        }
        let off = (got - want).abs().max().double_value(&[]);
        if off.is_nan() || off > 1e-6 {
            wrong.push(format!("{name} is off by {off:.1e}"));
        }
    }
    Ok(wrong)
}
