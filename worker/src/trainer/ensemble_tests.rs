//! Members do not touch each other, and a checkpoint loses nothing.

use super::*;
use crate::backbone::tiny;
use crate::trainer::checkpoint::{self, CheckpointError, Position};
use sweeps::recipe::{Deep, Vpt};
use tch::Kind;

const CLASSES: i64 = 3;

fn method() -> Method {
    let deep = Some(Deep { prompted_blocks: Some(2), ..Deep::default() });
    Method::Vpt(Vpt { insertion_depth: 1, prompt_dropout: 0.3, deep, ..Vpt::shallow(2) })
}

fn member(seed: i64) -> Member {
    let wd = 0.01 * seed as f64;
    Member { seed, wd, wd_head: 2.0 * wd, momentum: 0.9 }
}

fn ensemble(members: &[Member], rule: Rule) -> Ensemble {
    let (vit, method) = (tiny::backbone(tiny::arch(), Kind::Double), method());
    let setup = Setup {
        method: &method,
        head: HeadInit::Vpt,
        setr: None,
        classes: CLASSES,
        image_size: 12,
        rule,
        members,
        kept: None,
    };
    Ensemble::new(&vit, &setup)
}

/// Each member has its own images, as its own order of the data would give it.
fn train(ensemble: &mut Ensemble, members: &[Member], lr: &[f64], steps: usize) -> Vec<Vec<f64>> {
    let vit = tiny::backbone(tiny::arch(), Kind::Double);
    let (images, labels) = tiny::batch(12, 6, CLASSES, Kind::Double);
    let tokens = vit.embed(&images);
    let own = |t: &Tensor, m: &Member| t.roll([m.seed], [0]).narrow(0, 0, 4);
    (0..steps)
        .map(|_| {
            let tokens: Vec<Tensor> = members.iter().map(|m| own(&tokens, m)).collect();
            let labels: Vec<Tensor> = members.iter().map(|m| own(&labels, m)).collect();
            let (tokens, labels) = (Tensor::cat(&tokens, 0), Tensor::stack(&labels, 0));
            Vec::try_from(ensemble.train_step(&vit, tokens, &labels, lr)).unwrap()
        })
        .collect()
}

fn prompt(ensemble: &Ensemble, member: i64) -> Tensor {
    ensemble.params()[0].value.get(member).detach().copy()
}

#[test]
fn three_members_learn_what_each_learns_alone() {
    let adamw_vpt = Rule::AdamWVpt { beta1: 0.9, beta2: 0.999, eps: 1e-6 };
    for rule in [Rule::Sgd, Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 }, adamw_vpt] {
        let members = [member(1), member(2), member(3)];
        let lr = [0.1, 0.02, 0.3];
        let mut together = ensemble(&members, rule);
        let losses = train(&mut together, &members, &lr, 4);
        for (m, one) in members.iter().enumerate() {
            let mut alone = ensemble(&[*one], rule);
            let own = train(&mut alone, &[*one], &lr[m..=m], 4);
            for (a, b) in losses.iter().zip(&own) {
                assert!((a[m] - b[0]).abs() < 1e-10, "{rule:?}: {} against {}", a[m], b[0]);
            }
            let off = (prompt(&together, m as i64) - prompt(&alone, 0)).abs().max().double_value(&[]);
            assert!(off < 1e-10, "{rule:?}: member {m} is off by {off}");
        }
    }
}

#[test]
fn a_members_settings_leave_the_others_bits_alone() {
    let members = [member(1), member(2), member(3)];
    let run = |lr: [f64; 3]| {
        let mut ensemble = ensemble(&members, Rule::Sgd);
        train(&mut ensemble, &members, &lr, 3);
        [0, 1, 2].map(|m| prompt(&ensemble, m))
    };
    let (calm, wild) = (run([0.1, 0.1, 0.1]), run([0.1, 1e300, 0.1]));
    assert!(wild[1].isfinite().all().int64_value(&[]) == 0, "the second member should have diverged");
    for m in [0, 2] {
        assert!(calm[m].equal(&wild[m]), "member {m} noticed");
    }
}

#[test]
fn a_run_repeats_to_the_bit() {
    let run = || {
        let mut ensemble = ensemble(&[member(5)], Rule::Sgd);
        train(&mut ensemble, &[member(5)], &[0.1], 5);
        prompt(&ensemble, 0)
    };
    assert!(run().equal(&run()));
}

#[test]
fn a_run_continued_from_a_checkpoint_ends_in_the_same_bits() {
    for rule in [Rule::Sgd, Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 }] {
        let members = [member(1), member(2)];
        let mut straight = ensemble(&members, rule);
        train(&mut straight, &members, &[0.1, 0.2], 5);

        let mut first = ensemble(&members, rule);
        train(&mut first, &members, &[0.1, 0.2], 2);
        let at = Position { epoch: 1, step: 1, steps: 2, loss: 0.1 + 0.2, ..Position::default() };
        let none = std::collections::BTreeMap::new();
        let bytes = checkpoint::write("run", &at, &first, None, &none).unwrap();
        let (position, contents) = checkpoint::read(&["run"], &bytes).unwrap();
        assert_eq!(position, at);
        let mut second = ensemble(&[member(1), member(2)], rule);
        checkpoint::restore(&mut second, &position, &contents).unwrap();
        train(&mut second, &members, &[0.1, 0.2], 3);
        for m in 0..2 {
            assert!(prompt(&straight, m).equal(&prompt(&second, m)), "{rule:?}: member {m}");
        }
    }
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let at = Position::default();
    let none = std::collections::BTreeMap::new();
    let bytes = checkpoint::write("run", &at, &ensemble(&[member(1)], Rule::Sgd), None, &none).unwrap();
    assert!(matches!(checkpoint::read(&["other run"], &bytes), Err(CheckpointError::Foreign)));
    let (position, contents) = checkpoint::read(&["run"], &bytes).unwrap();
    let mut two = ensemble(&[member(1), member(2)], Rule::Sgd);
    let error = checkpoint::restore(&mut two, &position, &contents).unwrap_err();
    assert_eq!(error.to_string(), "its tensor `param.prompt` is missing or has another shape");
}

#[test]
fn blocks_before_the_prompts_see_no_gradient_and_the_backbone_never() {
    let mut one = ensemble(&[member(1)], Rule::Sgd);
    assert_eq!(one.entry(), Entry::Block(1));
    train(&mut one, &[member(1)], &[0.1], 1);
    assert!(one.params().iter().all(|p| p.value.grad().defined()));
    assert_eq!(one.trainable(), 2 * 2 * 12 + CLASSES * 13);
}
