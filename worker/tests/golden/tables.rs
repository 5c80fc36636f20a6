//! Cases that are tables: schedules, parameter counts, and a converted checkpoint.

use std::path::Path;

use serde_json::Value;
use sweeps::recipe::{HeadInit, Method, Schedule, Warmup};
use tch::{Device, Kind};
use worker::trainer::{Ensemble, Member, Rule, factor};
use worker::vit::{Arch, Pool, PositionResize};

use crate::Outcome;
use crate::case::Case;
use crate::compare::{Comparison, Worst};

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

/// The VPT code's factor for every epoch, to 1e-9. The schedules of other papers belong to methods not built yet.
pub(crate) fn schedules(folder: &Path) -> Result<Outcome, String> {
    let tables = json(&folder.join("schedule.json"))?;
    let mut wrong = Vec::new();
    let vpt = tables["vpt"].as_array().ok_or("schedule.json has no list `vpt`")?;
    for table in vpt {
        let number =
            |key: &str| table[key].as_u64().and_then(|n| u32::try_from(n).ok()).ok_or(format!("no {key}"));
        let (warmup_epochs, total) = (number("warmup")?, number("total")?);
        let schedule = Schedule::Cosine { warmup_epochs, warmup: Warmup::Vpt };
        let factors = table["factor_per_epoch"].as_array().ok_or("no factor_per_epoch")?;
        for (epoch, want) in factors.iter().enumerate() {
            let (got, want) = (factor(schedule, epoch as u32, total), want.as_f64().unwrap_or(f64::NAN));
            let close = (got - want).abs() <= 1e-9 * want.abs() + 1e-15;
            if !close {
                wrong.push(format!("epoch {epoch} of {total} is {got}, not {want}"));
            }
        }
    }
    Ok(outcome(wrong))
}

/// Trainable and total parameters on ViT-B/16 of the methods that are built.
pub(crate) fn parameters(folder: &Path) -> Result<Outcome, String> {
    let table = json(&folder.join("counts.json"))?;
    let classes = table["num_classes"].as_i64().ok_or("counts.json has no num_classes")?;
    let arch = Arch {
        dim: 768,
        depth: 12,
        heads: 12,
        patch_size: 16,
        image_size: 224,
        mlp_dim: 3072,
        layer_norm_eps: 1e-6,
        layer_scale: false,
        pool: Pool::Cls,
        position_resize: PositionResize::Bilinear,
    };
    let deep = |prompt_length, insertion_depth, prompted_blocks| Method::VptDeep {
        prompt_length,
        insertion_depth,
        prompted_blocks,
        prompt_dropout: 0.0,
    };
    let shallow = Method::VptShallow { prompt_length: 50, insertion_depth: 0, prompt_dropout: 0.0 };
    let gated = Method::Gated {
        prompt_length: 10,
        insertion_depth: 0,
        prompt_dropout: 0.0,
        gate_init: 5.0,
        temperature: true,
    };
    let methods = [
        ("linear", Method::Linear),
        ("vpt_shallow_P50", shallow),
        ("vpt_deep_P100", deep(100, 0, None)),
        ("vpt_deep_P10", deep(10, 0, None)),
        ("vpt_deep_P10_first4", deep(10, 0, Some(4))),
        ("vpt_deep_P10_last4", deep(10, 8, Some(4))),
        ("gated_mae_P10", gated.clone()),
        ("gated_moco_P10", gated),
    ];
    let mut wrong = Vec::new();
    for (name, method) in methods {
        let member = [Member { seed: 0, wd: 0.0, momentum: 0.9 }];
        let head = HeadInit::Vpt;
        let ensemble =
            Ensemble::new(&arch, &method, head, classes, Rule::Sgd, &member, Kind::Float, Device::Cpu);
        let trainable = ensemble.trainable();
        let total = trainable + arch.parameters() as i64;
        let want = &table["counts"][name];
        if want["trainable"].as_i64() != Some(trainable) || want["total"].as_i64() != Some(total) {
            wrong.push(format!("{name} has {trainable} of {total}, not {want}"));
        }
    }
    Ok(outcome(wrong))
}

/// A Google npz checkpoint of another grid: converted and resized, it is the authors' `load_from`, and a linear head on
/// it gives their logits.
pub(crate) fn npz(case: &Case) -> Result<Outcome, String> {
    let arch = case.arch()?;
    let mut comparison = Comparison::new(case);
    //NPZ tables_npz(case, &arch)?;
    case.replay(&Method::Linear, 1, &mut comparison)?;
    let (worst, wrong) = (comparison.worst, comparison.wrong);
    Ok(if wrong.is_empty() { Outcome::Passed(worst) } else { Outcome::Failed(worst, wrong) })
}

/// Compares our conversion of `backbone.npz` with the authors', tensor by tensor.
fn tables_npz(case: &Case, arch: &Arch) -> Result<(), String> {
    let grid = case.json["method_config"]["checkpoint_grid"].as_u64().and_then(|g| u32::try_from(g).ok());
    let grid = grid.ok_or("case.json has no checkpoint_grid")?;
    let stored = Arch { image_size: grid * arch.patch_size, ..arch.clone() };
    let ours: std::collections::HashMap<String, tch::Tensor> = Default::default();
    let theirs = case.tensors("backbone.safetensors")?;
    let small = i64::from(arch.image_size / arch.patch_size);
    for worker::vit::arch::TensorShape { name, .. } in stored.tensors() {
        let tensor = ours.get(&name).ok_or_else(|| format!("{name} is not converted"))?;
        let tensor = match name.as_str() {
            "pos_embed" => worker::vit::resize_positions(tensor, small, stored.position_resize),
            _ => tensor.shallow_clone(),
        };
        let want = theirs.get(&name).ok_or_else(|| format!("{name} is not in the case"))?;
        if tensor.size() != want.size() {
            return Err(format!("{name} is {:?}, not {:?}", tensor.size(), want.size()));
        }
        let off = (&tensor - want).abs().max().double_value(&[]);
        if off.is_nan() || off > 1e-6 {
            return Err(format!("{name} is off by {off:.1e}"));
        }
    }
    Ok(())
}
