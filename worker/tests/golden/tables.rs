//! Cases that are tables: schedules, parameter counts, and a converted checkpoint.

use std::path::Path;

use serde_json::Value;
use sweeps::recipe::{HeadInit, Method, Schedule, Warmup};
use tch::{Device, Kind};
use worker::backbone::Arch;
use worker::home::Home;
use worker::import::{self, BackboneWish, normalisation};
use worker::trainer::{Ensemble, Member, Rule, factor};
use worker::vit::{self, Pool, PositionResize, resize_positions};

use crate::Outcome;
use crate::case::{Case, tensors};
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
    let arch = Arch::Vit(vit::Arch {
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
    });
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

/// A Google npz checkpoint of another grid: imported and resized, it is the authors' `load_from`, and a linear head on
/// what they loaded gives their logits.
pub(crate) fn npz(case: &Case) -> Result<Outcome, String> {
    let mut comparison = Comparison::new(case);
    let mut converted = imported(case)?;
    case.replay(&Method::Linear, 1, &mut comparison)?;
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
