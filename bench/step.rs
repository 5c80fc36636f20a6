//! What sharing and pruning save in a training step: the kept prefix against the whole forward pass, K fused members
//! against K steps, and pruned tokens that are taken out against such that stay as zeros. `make bench` prints the ratios, each
//! measured side by side in one run.

use std::time::Instant;

use sweeps::recipe::{E2vpt, Fidelity, HeadInit, KvBlocks, KvPosition, Method, Vpt};
use tch::{Device, Kind, Tensor};
use worker::backbone::{Arch, Backbone, TensorShape, Weights};
use worker::trainer::{Ensemble, Member, Rule, Setup};
use worker::tuning::{Kept, Linear, Step};
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
        image_size: 56,
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

/// A method for seeds 0, 1, …, and what pruning has left of its prompts.
type Wanted<'a> = (Method, usize, Option<&'a Kept>);

impl Bench {
    fn new(device: Device, batch: i64, side: i64) -> Bench {
        let images = Tensor::randn([batch, 3, side, side], (Kind::Float, device));
        Bench { vit: backbone(device), device, images }
    }

    fn deep(&self, insertion_depth: u32, members: usize) -> Ensemble {
        self.ensemble((Method::Vpt(Vpt { insertion_depth, ..Vpt::deep(10) }), members, None))
    }

    /// E²VPT that has lost every other of its prompts.
    fn pruned(&self, prompt_length: u32, fidelity: Fidelity) -> Ensemble {
        let method = Method::E2vpt(E2vpt {
            prompt_length,
            prompt_dropout: 0.1,
            kv_prompt_length: 5,
            kv_share: true,
            kv_position: KvPosition::Before,
            kv_blocks: KvBlocks::All,
            segments: 16,
            fidelity,
        });
        let tokens = vec![(0..i64::from(prompt_length)).step_by(2).collect()];
        self.ensemble((method, 1, Some(&Kept { tokens, segments: None })))
    }

    fn ensemble(&self, (method, members, kept): Wanted<'_>) -> Ensemble {
        let member = |seed| Member { seed, wd: 0.01, wd_head: 0.01, momentum: 0.9 };
        let members: Vec<Member> = (0..members as i64).map(member).collect();
        let setup = Setup {
            method: &method,
            head: HeadInit::Vpt,
            setr: None,
            classes: 10,
            image_size: self.images.size()[2],
            rule: Rule::Sgd,
            members: &members,
            kept,
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
        let labels = Tensor::zeros([members, self.images.size()[0]], (Kind::Int64, self.device));
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
    let bench = Bench::new(device, BATCH, IMAGE);
    println!(
        "training steps of vpt_deep, P = 10, ViT-S/14, {BATCH} images of {IMAGE}×{IMAGE}, on {device:?}"
    );
    println!("{:<44} {:>10} {:>10} {:>7}", "", "without", "with", "ratio");
    for depth in [6, 9] {
        let (mut whole, mut kept) = (bench.deep(depth, 1), bench.deep(depth, 1));
        let prefix = bench.prefix(depth as usize);
        let (a, b) = compare(
            || bench.step(&mut whole, &bench.prefix(depth as usize), 1),
            || bench.step(&mut kept, &prefix, 1),
        );
        print(&format!("kept prefix, insertion_depth {depth}"), a, b);
    }
    for members in [2, 4] {
        let mut alone: Vec<Ensemble> = (0..members).map(|_| bench.deep(0, 1)).collect();
        let mut fused = bench.deep(0, members);
        let prefix = bench.prefix(0);
        let (a, b) = compare(
            || alone.iter_mut().for_each(|one| bench.step(one, &prefix, 1)),
            || bench.step(&mut fused, &prefix, members as i64),
        );
        print(&format!("{members} members fused, insertion_depth 0"), a, b);
    }
    println!("\ne2vpt, half of P prompts pruned: as zeros (`fidelity: code`) and taken out (`paper`)");
    println!("{:<44} {:>10} {:>10} {:>7}", "", "code", "paper", "ratio");
    for (side, batch, length) in [(56, 16, 10), (56, 16, 100), (224, 4, 10), (224, 4, 100)] {
        let bench = Bench::new(device, batch, side);
        let mut zeros = bench.pruned(length, Fidelity::Code);
        let mut gone = bench.pruned(length, Fidelity::Paper);
        let prefix = bench.prefix(0);
        let (a, b) = compare(|| bench.step(&mut zeros, &prefix, 1), || bench.step(&mut gone, &prefix, 1));
        print(&format!("P = {length}, {batch} images of {side}×{side}"), a, b);
    }
}

#[allow(clippy::print_stdout, reason = "a benchmark's table")]
fn print(what: &str, without: f64, with: f64) {
    println!("{what:<44} {:>7.1} ms {:>7.1} ms {:>6.2}x", without * 1e3, with * 1e3, without / with);
}
