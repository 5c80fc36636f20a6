//! What sharing saves in a training step: the kept prefix against the whole forward pass, and K fused members against K
//! steps. `make bench` prints the ratios, each measured side by side in one run.

use std::time::Instant;

use sweeps::recipe::{HeadInit, Method, Vpt};
use tch::{Device, Kind, Tensor};
use worker::backbone::{Arch, Backbone, TensorShape, Weights};
use worker::trainer::{Ensemble, Member, Rule, Setup};
use worker::tuning::{Linear, Step};
use worker::vit::{self, Pool, PositionResize};

const BATCH: i64 = 16;
const IMAGE: i64 = 56;
const ROUNDS: usize = 7;

/// A ViT-S/14 with random weights: time does not depend on their values.
fn backbone(device: Device) -> Backbone {
    let arch = Arch::Vit(vit::Arch {
        dim: 384,
        depth: 12,
        heads: 6,
        patch_size: 14,
        image_size: IMAGE as u32,
        mlp_dim: 1536,
        layer_norm_eps: 1e-6,
        layer_scale: true,
        pool: Pool::Cls,
        position_resize: PositionResize::Bicubic,
    });
    let draw = |TensorShape { name, shape }: TensorShape| {
        let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        (name, Tensor::randn(shape, (Kind::Float, device)) * 0.02)
    };
    let tensors: Vec<(String, Tensor)> = arch.tensors().into_iter().map(draw).collect();
    let weights = Weights::new(tensors, &arch, Kind::Float, device).expect("the tensors are the arch's");
    Backbone::new(arch, weights)
}

struct Bench {
    vit: Backbone,
    device: Device,
    images: Tensor,
}

impl Bench {
    fn ensemble(&self, insertion_depth: u32, members: usize) -> Ensemble {
        let method = Method::Vpt(Vpt { insertion_depth, ..Vpt::deep(10) });
        let member = |seed| Member { seed, wd: 0.01, wd_head: 0.01, momentum: 0.9 };
        let members: Vec<Member> = (0..members as i64).map(member).collect();
        let setup = Setup {
            method: &method,
            head: HeadInit::Vpt,
            setr: None,
            classes: 10,
            image_size: IMAGE,
            rule: Rule::Sgd,
            members: &members,
            kept: None,
        };
        Ensemble::new(&self.vit, &setup)
    }

    /// What enters block `first`.
    fn prefix(&self, first: usize) -> Tensor {
        tch::no_grad(|| {
            let x = self.vit.embed(&self.images);
            let plain = Linear::new(self.vit.arch());
            self.vit.blocks(x, 0..first, &plain, Step::evaluation(1))
        })
    }

    fn step(&self, ensemble: &mut Ensemble, tokens: &Tensor, members: i64) {
        let labels = Tensor::zeros([members, BATCH], (Kind::Int64, self.device));
        let rates = vec![0.01; members as usize];
        let losses = ensemble.train_step(&self.vit, tokens.repeat([members, 1, 1]), &labels, &rates);
        losses.double_value(&[0]); // waits for the device
    }
}

/// Median seconds of two ways of doing the same, run in turns.
fn compare(mut a: impl FnMut(), mut b: impl FnMut()) -> (f64, f64) {
    let mut seconds = [Vec::new(), Vec::new()];
    let time = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    for _ in 0..=ROUNDS {
        seconds[0].push(time(&mut a));
        seconds[1].push(time(&mut b));
    }
    let median = |values: &mut Vec<f64>| {
        values.remove(0); // the first warms up
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let [a, b] = &mut seconds;
    (median(a), median(b))
}

#[allow(clippy::print_stdout, reason = "a benchmark's table")]
fn main() {
    let device = worker::trainer::device::open("auto").expect("a device");
    let vit = backbone(device);
    let images = Tensor::randn([BATCH, 3, IMAGE, IMAGE], (Kind::Float, device));
    let bench = Bench { vit, device, images };
    println!(
        "training steps of vpt_deep, P = 10, ViT-S/14, {BATCH} images of {IMAGE}×{IMAGE}, on {device:?}"
    );
    println!("{:<44} {:>10} {:>10} {:>7}", "", "without", "with", "ratio");
    for depth in [6, 9] {
        let (mut whole, mut kept) = (bench.ensemble(depth, 1), bench.ensemble(depth, 1));
        let prefix = bench.prefix(depth as usize);
        let (a, b) = compare(
            || bench.step(&mut whole, &bench.prefix(depth as usize), 1),
            || bench.step(&mut kept, &prefix, 1),
        );
        print(&format!("kept prefix, insertion_depth {depth}"), a, b);
    }
    for members in [2, 4] {
        let mut alone: Vec<Ensemble> = (0..members).map(|_| bench.ensemble(0, 1)).collect();
        let mut fused = bench.ensemble(0, members);
        let prefix = bench.prefix(0);
        let (a, b) = compare(
            || alone.iter_mut().for_each(|one| bench.step(one, &prefix, 1)),
            || bench.step(&mut fused, &prefix, members as i64),
        );
        print(&format!("{members} members fused, insertion_depth 0"), a, b);
    }
}

#[allow(clippy::print_stdout, reason = "a benchmark's table")]
fn print(what: &str, without: f64, with: f64) {
    println!("{what:<44} {:>7.1} ms {:>7.1} ms {:>6.2}x", without * 1e3, with * 1e3, without / with);
}
