//! Neutral settings collapse to simpler methods, and hooks touch what they should.

use sweeps::recipe::{Deep, HeadInit, Method, Vpt};
use tch::{Device, Kind, Tensor};

use super::*;
use crate::backbone::tiny;

const SEEDS: &[i64] = &[1];

pub(super) fn features(method: &Method, change: impl Fn(&[Param])) -> Tensor {
    features_for(method, SEEDS, None, change)
}

pub(super) fn features_for(
    method: &Method,
    seeds: &[i64],
    noise: Option<Noise<'_>>,
    change: impl Fn(&[Param]),
) -> Tensor {
    let vit = tiny::backbone(tiny::arch(), Kind::Double);
    let built = build(method, &vit, 12, seeds, None);
    change(&built.tuning.params());
    run(&vit, &built, seeds.len() as i64, noise)
}

/// Three images through the backbone with a method's hooks, from their pixels on: `[K·3, D]`.
pub(super) fn run(vit: &Backbone, built: &Built, members: i64, noise: Option<Noise<'_>>) -> Tensor {
    let (images, _) = tiny::batch(12, 3, 2, Kind::Double);
    let tuning = built.tuning.as_ref();
    let step = Step { members, noise, dropout: tuning.dropout(), drop_path: tuning.drop_path() };
    let mut weights = tuning.weights(vit);
    weights.extend(built.promoted.iter().map(|param| (param.name.clone(), param.value.get(0))));
    let vit = vit.with(weights);
    let images = images.repeat([members, 1, 1, 1]);
    tuning.constrain();
    let x = vit.embed(&tuning.images(images.shallow_clone(), step));
    let x = vit.blocks(x, 0..vit.arch().depth() as usize, tuning, step);
    tuning.feature(tuning.pool(&vit, &x), Some(&images), step)
}

pub(super) fn set(params: &[Param], name: &str, value: f64) {
    let param = params.iter().find(|p| p.name == name).unwrap();
    let _ = tch::no_grad(|| param.value.shallow_clone().fill_(value));
}

pub(super) fn deep(prompt_length: u32, insertion_depth: u32, prompted_blocks: Option<u32>) -> Method {
    let deep = Some(Deep { prompted_blocks, ..Deep::default() });
    Method::Vpt(Vpt { insertion_depth, deep, ..Vpt::shallow(prompt_length) })
}

pub(super) fn shallow(prompt_length: u32, insertion_depth: u32) -> Method {
    Method::Vpt(Vpt { insertion_depth, ..Vpt::shallow(prompt_length) })
}

/// A method's tensors on the tiny backbone.
fn params_of(method: &Method, seeds: &[i64], kind: Kind) -> Vec<Param> {
    build(method, &tiny::backbone(tiny::arch(), kind), 12, seeds, None).tuning.params()
}

fn gated(prompt_length: u32, insertion_depth: u32, temperature: bool) -> Method {
    Method::Gated { prompt_length, insertion_depth, prompt_dropout: 0.0, gate_init: 5.0, temperature }
}

pub(super) fn assert_close(a: &Tensor, b: &Tensor) {
    let off = (a - b).abs().max().double_value(&[]);
    assert!(off < 1e-12, "off by {off}");
}

pub(super) fn assert_differ(a: &Tensor, b: &Tensor) {
    assert!((a - b).abs().max().double_value(&[]) > 1e-4);
}

#[test]
fn deep_in_one_block_is_shallow() {
    assert_close(&features(&deep(3, 1, Some(1)), |_| ()), &features(&shallow(3, 1), |_| ()));
}

#[test]
fn no_prompts_at_all_is_the_plain_vit() {
    let plain = features(&Method::Linear, |_| ());
    for method in [shallow(0, 0), deep(0, 1, None), gated(0, 0, true)] {
        assert_close(&features(&method, |_| ()), &plain);
    }
}

#[test]
fn open_gates_and_unit_temperature_are_shallow_prompts() {
    let open = features(&gated(3, 1, true), |p| set(p, "gate_logit", 800.0));
    assert_close(&open, &features(&shallow(3, 1), |_| ()));
    assert_differ(&features(&gated(3, 1, true), |_| ()), &open);
}

#[test]
fn shut_gates_insert_the_same_prompts_in_every_block() {
    let shut = features(&gated(3, 0, false), |p| set(p, "gate_logit", -800.0));
    let shared = features(&deep(3, 0, None), |params| {
        let prompt = &params[0].value;
        let first = prompt.detach().narrow(1, 0, 1);
        tch::no_grad(|| prompt.shallow_clone().copy_(&first.expand_as(prompt)));
    });
    assert_close(&shut, &shared);
}

#[test]
fn the_temperature_is_clamped_where_it_lies() {
    let vit = tiny::backbone(tiny::arch(), Kind::Double);
    let tuning = build(&gated(2, 0, true), &vit, 12, SEEDS, None).tuning;
    set(&tuning.params(), "temperature", 99.0);
    tuning.constrain();
    let tau = tuning.params().into_iter().find(|p| p.name == "temperature").unwrap().value;
    assert_eq!(tau.max().double_value(&[]), 10.0);
    assert!(tau.requires_grad() && tau.is_leaf());
}

#[test]
fn shapes_follow_the_paper() {
    let shapes = |method: &Method| -> Vec<(String, Vec<i64>)> {
        params_of(method, &[1, 2], Kind::Float).iter().map(|p| (p.name.clone(), p.value.size())).collect()
    };
    let named = |all: &[(&str, Vec<i64>)]| -> Vec<(String, Vec<i64>)> {
        all.iter().map(|(name, shape)| ((*name).to_owned(), shape.clone())).collect()
    };
    assert_eq!(shapes(&Method::Linear), []);
    assert_eq!(shapes(&shallow(5, 2)), named(&[("prompt", vec![2, 1, 5, 12])]));
    assert_eq!(shapes(&deep(5, 1, None)), named(&[("prompt", vec![2, 3, 5, 12])]));
    let all = [("prompt", vec![2, 1, 5, 12]), ("gate_logit", vec![2, 2]), ("temperature", vec![2, 3])];
    assert_eq!(shapes(&gated(5, 1, true)), named(&all));
    let last = [("prompt", vec![2, 1, 5, 12]), ("temperature", vec![2, 1])];
    assert_eq!(shapes(&gated(5, 3, true)), named(&last));
}

#[test]
fn prompts_start_within_the_papers_bound() {
    let params = params_of(&deep(200, 0, None), &[1, 2], Kind::Float);
    let prompt = &params[0].value;
    let bound = (6.0f64 / (3.0 * 16.0 + 12.0)).sqrt();
    let largest = prompt.abs().max().double_value(&[]);
    assert!(largest <= bound && largest > 0.99 * bound, "{largest} against {bound}");
    let std = prompt.std(true).double_value(&[]);
    assert!((std - bound / 3f64.sqrt()).abs() < 0.02 * bound);
    assert_differ(&prompt.get(0), &prompt.get(1));
}

#[test]
fn the_head_starts_as_vpts() {
    let head =
        Head::new(HeadInit::Vpt, &Method::Linear, 400, &tiny::backbone(tiny::arch(), Kind::Float), &[3]);
    let params = head.params();
    let std = params[0].value.std(true).double_value(&[]);
    assert!((std - (2.0f64 / 400.0).sqrt()).abs() < 4e-3, "{std}");
    assert!((params[1].value.max().double_value(&[]) + 4.59512).abs() < 1e-5);
    assert_eq!((params[0].decay, params[1].decay), (Decay::Head, Decay::Never));
}

#[test]
fn dropout_is_unbiased_per_member_and_only_in_training() {
    let method = Method::Vpt(Vpt { prompt_dropout: 0.5, ..Vpt::shallow(4) });
    let noise = |position| Some(Noise { seeds: &[1, 2], position });
    let at = |position| features_for(&method, &[1, 2], noise(position), |_| ());
    assert!(at(0).equal(&at(0)));
    assert_differ(&at(0), &at(1));
    // Member 1's mask does not depend on who shares the batch.
    let alone = features_for(&method, &[1], Some(Noise { seeds: &[1], position: 0 }), |_| ());
    assert_close(&at(0).narrow(0, 0, 3), &alone);
    assert_close(&features(&method, |_| ()), &features(&shallow(4, 0), |_| ()));

    let ones = Tensor::ones([2 * 500, 4, 8], (Kind::Double, Device::Cpu));
    let dropped = Noise { seeds: &[1, 2], position: 3 }.dropout(&ones, 0.1, "a test");
    assert!((dropped.mean(Kind::Double).double_value(&[]) - 1.0).abs() < 0.01);
    let values = [0.0, 1.0 / 0.9];
    assert!(
        Vec::<f64>::try_from(dropped.reshape([-1]))
            .unwrap()
            .iter()
            .all(|v| { values.iter().any(|w| (v - w).abs() < 1e-6) })
    );
}
