//! Self-prompt tuning's initial prompts: the authors' draws, gathered by our streaming.

use tch::{Kind, Tensor};
use worker::tuning::spt::{Draw, Reduction, patch_tokens};

use crate::Outcome;
use crate::case::Case;
use crate::compare::Worst;

/// Prompts may be off by this much, absolutely.
const TOLERANCE: f64 = 5e-5;

pub(crate) fn draws(case: &Case) -> Result<Outcome, String> {
    let arch = case.arch()?;
    let vit = case.backbone(Kind::Float)?;
    let inputs = case.tensors("inputs.safetensors")?;
    let images = inputs.get("images").ok_or("inputs.safetensors: no images")?;
    let integers = |name: String| {
        let tensor = inputs.get(&name).ok_or_else(|| format!("inputs.safetensors: no {name}"))?;
        Vec::<i64>::try_from(tensor.flatten(0, -1)).map_err(|e| format!("{name}: {e}"))
    };
    let mut wrong = Vec::new();
    let mut check = |name: &str, got: &Tensor| match case.expected.get(name) {
        Some(want) if want.size() == got.size() => {
            let off = (got - want).abs().max().double_value(&[]);
            if off.is_nan() || off > TOLERANCE {
                wrong.push(format!("{name} is off by {off:.1e}"));
            }
        }
        want => wrong.push(format!("{name} is {:?}, not {:?}", got.size(), want.map(Tensor::size))),
    };

    let drawn = integers("random.sample_idx".to_owned())?;
    let reps = patch_tokens(&vit, &images.index_select(0, &Tensor::from_slice(&drawn)), arch.depth as usize);
    for (i, rep) in reps.iter().enumerate() {
        check(&format!("rep.{i}"), rep);
    }
    let configs = case.json["method_config"].as_object().ok_or("case.json: no method_config")?;
    for (name, config) in configs {
        let drawn = integers(format!("{name}.sample_idx"))?;
        let p = config["P"].as_i64().ok_or_else(|| format!("case.json: {name} has no P"))?;
        let pairs = integers(format!("{name}.pairs"))?;
        let reduction = match name.split('_').next() {
            Some("mean") => Reduction::Mean { windows: p },
            Some("max") => Reduction::Max { windows: p },
            _ => Reduction::Token,
        };
        // The pooled rows are recorded as (window, draw).
        let order = |pair: &[i64]| {
            if reduction == Reduction::Token { (pair[0], pair[1]) } else { (pair[1], pair[0]) }
        };
        let rows: Vec<(i64, i64)> = pairs.chunks(2).map(order).collect();
        let rows = rows.chunks(p as usize).map(<[_]>::to_vec).collect();
        let draw = Draw { images: drawn, rows, reduction };
        let prompts = draw.gather(&vit, |index| images.index_select(0, &Tensor::from_slice(index)));
        check(&format!("{name}.prompt"), &prompts);
    }
    Ok(if wrong.is_empty() {
        Outcome::Passed(Worst::default())
    } else {
        Outcome::Failed(Worst::default(), wrong)
    })
}
