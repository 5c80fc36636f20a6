//! The shares of tuned parameters that papers print, against what our methods hold on ViT-B/16.
//!
//! The tables do not say how many prompts each task took. VPT's numbers come out to both printed digits with prompts from
//! the paper's grid for every task (and 150 for two shallow ones). E²VPT's come out too, but each from several settings of
//! its grids, so those below are examples and no reconstruction; the commands that its authors published give other shares.

mod support;

use std::collections::BTreeMap;

use sweeps::recipe::{Deep, E2vpt, Fidelity, HeadInit, KvBlocks, KvPosition, Method, Vpt};
use tch::{Device, Kind, Tensor};
use worker::backbone::{Backbone, Weights};
use worker::trainer::{Ensemble, Member, Rule, Setup};
use worker::tuning::Kept;

const VTAB: &str = include_str!("../../sweeps/published/vtab_vitb16_sup21k.csv");
const FGVC: &str = include_str!("../../sweeps/published/fgvc_vitb16_sup21k.csv");

/// Task, classes, prompts of VPT-Shallow and VPT-Deep, and for E²VPT (P, V, tokens kept, segments of 16 kept).
type Row = (&'static str, i64, u32, u32, (u32, u32, i64, i64));

const TASKS: [Row; 24] = [
    ("cifar", 100, 100, 10, (5, 10, 2, 16)),
    ("caltech101", 102, 10, 10, (5, 5, 4, 16)),
    ("dtd", 47, 1, 10, (5, 5, 2, 16)),
    ("oxford_flowers102", 102, 200, 1, (1, 1, 1, 16)),
    ("oxford_iiit_pet", 37, 50, 1, (1, 1, 1, 16)),
    ("svhn", 10, 200, 50, (50, 1, 25, 13)),
    ("sun397", 397, 5, 5, (5, 5, 2, 16)),
    ("patch_camelyon", 2, 5, 100, (10, 10, 10, 13)),
    ("eurosat", 10, 50, 100, (50, 1, 25, 16)),
    ("resisc45", 45, 50, 10, (5, 5, 2, 16)),
    ("diabetic_retinopathy", 5, 1, 1, (1, 5, 1, 16)),
    ("clevr_count", 8, 100, 50, (50, 1, 30, 16)),
    ("clevr_dist", 6, 200, 200, (10, 50, 10, 16)),
    ("dmlab", 6, 100, 100, (50, 1, 40, 16)),
    ("kitti", 4, 100, 50, (50, 1, 40, 13)),
    ("dsprites_loc", 16, 100, 10, (5, 5, 3, 16)),
    ("dsprites_ori", 16, 100, 50, (50, 1, 35, 15)),
    ("smallnorb_azi", 18, 200, 200, (100, 50, 60, 15)),
    ("smallnorb_ele", 9, 200, 200, (100, 1, 60, 16)),
    ("CUB", 200, 150, 10, (5, 10, 3, 16)),
    ("NABirds", 555, 50, 50, (5, 10, 5, 16)),
    ("OxfordFlowers", 102, 150, 5, (1, 5, 1, 4)),
    ("StanfordDogs", 120, 100, 100, (100, 10, 100, 10)),
    ("StanfordCars", 196, 100, 200, (100, 10, 100, 15)),
];

/// Printed percentages by task.
fn printed(method: &str) -> BTreeMap<String, String> {
    let rows = VTAB.lines().chain(FGVC.lines()).map(|line| line.split(',').collect::<Vec<&str>>());
    let rows = rows.filter(|row| row.len() > 7 && row[0] == method && row[5] == "top1");
    rows.map(|row| (row[4].to_owned(), row[7].to_owned())).collect()
}

/// ViT-B/16 whose numbers are all zero.
fn blank() -> Backbone {
    let arch = support::vit_b16();
    let zeros = |shape: Vec<usize>| {
        let shape: Vec<i64> = shape.into_iter().map(|n| n as i64).collect();
        Tensor::zeros(shape, (Kind::Float, Device::Cpu))
    };
    let tensors: Vec<(String, Tensor)> =
        arch.tensors().into_iter().map(|t| (t.name, zeros(t.shape))).collect();
    let weights = Weights::new(tensors, &arch, Kind::Float, Device::Cpu).expect("the tensors are the arch's");
    Backbone::new(arch, weights)
}

fn ensemble(vit: &Backbone, method: &Method, classes: i64, kept: Option<&Kept>) -> Ensemble {
    let members = [Member { seed: 0, wd: 0.0, wd_head: 0.0, momentum: 0.0 }];
    let (head, rule) = (HeadInit::Zero, Rule::Sgd);
    Ensemble::new(
        vit,
        &Setup { method, head, setr: None, classes, image_size: 224, rule, members: &members, kept },
    )
}

/// 100 · T / (backbone + T), to two digits.
fn percent(vit: &Backbone, tuned: i64) -> String {
    let frozen = vit.arch().parameters() as f64;
    format!("{:.2}", 100.0 * tuned as f64 / (frozen + tuned as f64))
}

#[test]
fn vpt_holds_the_printed_shares_of_all_24_tasks() {
    let vit = blank();
    for (method, deep) in [("VPT-Shallow", None), ("VPT-Deep", Some(Deep::default()))] {
        let printed = printed(method);
        assert_eq!(printed.len(), TASKS.len(), "{method}");
        for (task, classes, shallow_length, deep_length, _) in TASKS {
            let length = if deep.is_some() { deep_length } else { shallow_length };
            let prompts = Method::Vpt(Vpt { deep, ..Vpt::shallow(length) });
            let share = percent(&vit, ensemble(&vit, &prompts, classes, None).trainable());
            assert_eq!(share, printed[task], "{method} on {task} with {length} prompts");
        }
    }
}

#[test]
fn e2vpt_can_hold_the_printed_shares_of_all_24_tasks() {
    let vit = blank();
    let printed = printed("E2VPT");
    assert_eq!(printed.len(), TASKS.len());
    for (task, classes, _, _, (prompt_length, kv_prompt_length, tokens, segments)) in TASKS {
        let method = Method::E2vpt(E2vpt {
            prompt_length,
            prompt_dropout: 0.1,
            kv_prompt_length,
            kv_share: true,
            kv_position: KvPosition::Before,
            kv_blocks: KvBlocks::All,
            segments: 16,
            fidelity: Fidelity::Paper,
        });
        let options = (Kind::Float, Device::Cpu);
        let mask = Tensor::zeros([i64::from(prompt_length), 16], options);
        let _ = mask.narrow(1, 0, segments).fill_(1.0);
        let kept = Kept { tokens: vec![(0..tokens).collect()], segments: Some(mask) };
        let pruned = ensemble(&vit, &method, classes, Some(&kept));
        // A segment that is masked away is no parameter any more.
        let masked = 12 * tokens * (16 - segments) * 768 / 16;
        assert_eq!(percent(&vit, pruned.trainable() - masked), printed[task], "{task}");
    }
}
