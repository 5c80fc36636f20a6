//! Windows, sizes and prompt slots.

use proptest::prelude::*;
use sweeps::recipe::{Deep, Method, Vpt};
use tch::{Device, Kind, Tensor};

use super::window::Windows;
use super::*;
use crate::backbone::{self, ArchError, tiny};
use crate::tuning::{Linear, Param, Step, Tuning, build, seeded};

fn published(dim: u32, depths: [u32; 4], heads: [u32; 4]) -> Arch {
    let stage = |s: usize| Stage { depth: depths[s], heads: heads[s], mlp_dim: 4 * (dim << s) };
    Arch {
        image_size: 224,
        patch_size: 4,
        dim,
        window: 7,
        stages: (0..4).map(stage).collect(),
        layer_norm_eps: 1e-5,
    }
}

fn swin_b() -> Arch {
    published(128, [2, 2, 18, 2], [4, 8, 16, 32])
}

#[test]
fn published_sizes() {
    let parameters = |arch: Arch| backbone::Arch::from(arch).parameters();
    // With a head for 1,000 classes the papers count 87,768,224 and 28,288,354.
    assert_eq!(parameters(swin_b()) + 1000 * 1025, 87_768_224);
    assert_eq!(parameters(published(96, [2, 2, 6, 2], [3, 6, 12, 24])) + 1000 * 769, 28_288_354);
}

#[test]
fn deep_prompts_of_swin_b_are_12032_numbers_each() {
    let swin = tiny::backbone(swin_b(), Kind::Float);
    let count = |prompt_length, prompted_blocks| -> usize {
        let tuning = build(&deep(prompt_length, 0, prompted_blocks), &swin, 224, &[1], None).tuning;
        tuning.params().iter().map(|p| p.value.numel()).sum()
    };
    assert_eq!(count(1, None), 12_032);
    assert_eq!(count(50, None), 50 * 12_032);
    assert_eq!(count(3, Some(4)), 3 * (2 * 128 + 2 * 256));
}

#[test]
fn numbers_that_do_not_fit_are_named() {
    let other = |change: fn(&mut Arch)| {
        let mut arch = swin_b();
        change(&mut arch);
        arch.check()
    };
    assert_eq!(swin_b().check(), Ok(()));
    assert_eq!(other(|a| a.stages.clear()), Err(ArchError::Zero("stages")));
    assert_eq!(other(|a| a.stages[2].heads = 7), Err(ArchError::Heads { heads: 7, dim: 512 }));
    assert_eq!(other(|a| a.image_size = 256), Err(ArchError::Windows { image_size: 256, unit: 224 }));
    assert!(other(|a| a.stages.extend(a.stages.clone().into_iter().cycle().take(60))).is_err());
    assert_eq!(swin_b().check_image_size(384), Err(ArchError::OneSize { size: 384, only: 224 }));
}

#[test]
fn windows_are_put_together_again() {
    let windows = Windows::new(6, 3, Kind::Double, Device::Cpu);
    let x = Tensor::arange(2 * 36 * 5, (Kind::Double, Device::Cpu)).reshape([2, 6, 6, 5]);
    let cut = windows.cut(&x);
    assert_eq!(cut.size(), [8, 9, 5]);
    assert!(windows.join(&cut).equal(&x));
    // The second window starts at column 3, and its second row is row 1 of the image.
    assert!(cut.get(1).get(3).equal(&x.get(0).get(1).get(3)));
}

#[test]
fn positions_look_up_their_difference() {
    let windows = Windows::new(3, 3, Kind::Double, Device::Cpu);
    let offset = |a: i64, b: i64| windows.offsets.int64_value(&[a * 9 + b]);
    assert_eq!((offset(0, 0), offset(4, 4)), (12, 12)); // no difference: the table's middle
    assert_eq!(offset(8, 0), 24); // two rows and two columns further: its last row
    assert_eq!(offset(0, 1), 11);
    assert!(windows.mask.is_none());
}

#[test]
fn only_neighbours_see_each_other_in_a_shifted_window() {
    let windows = Windows::new(4, 2, Kind::Double, Device::Cpu);
    let mask = windows.mask.as_ref().unwrap();
    assert_eq!(mask.size(), [4, 1, 4, 4]);
    let seen = |w: i64| mask.get(w).eq(0.0).sum(Kind::Int64).int64_value(&[]);
    // The first window is whole; in the second, columns from both ends meet; in the last, all four are apart.
    assert_eq!((seen(0), seen(1), seen(2), seen(3)), (16, 8, 8, 4));
}

fn set(params: &[Param], seed: i64) {
    for param in params {
        let drawn = seeded(seed, || Tensor::randn(param.value.size(), (Kind::Double, Device::Cpu)));
        tch::no_grad(|| param.value.shallow_clone().copy_(&drawn));
    }
}

fn features(method: &Method, images: &Tensor, seeds: &[i64]) -> Tensor {
    let swin = tiny::backbone(tiny::swin(), Kind::Double);
    let tuning = build(method, &swin, 16, seeds, None).tuning;
    set(&tuning.params(), 3);
    run(&swin, tuning.as_ref(), images, seeds.len() as i64)
}

fn run(swin: &backbone::Backbone, tuning: &dyn Tuning, images: &Tensor, members: i64) -> Tensor {
    let x = swin.embed(images).repeat([members, 1, 1]);
    swin.pool(&swin.blocks(x, 0..4, tuning, Step::evaluation(members)))
}

fn shallow(prompt_length: u32, insertion_depth: u32) -> Method {
    Method::Vpt(Vpt { insertion_depth, ..Vpt::shallow(prompt_length) })
}

fn deep(prompt_length: u32, insertion_depth: u32, prompted_blocks: Option<u32>) -> Method {
    let deep = Some(Deep { prompted_blocks, ..Deep::default() });
    Method::Vpt(Vpt { insertion_depth, deep, ..Vpt::shallow(prompt_length) })
}

fn off(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn no_prompts_at_all_is_the_plain_swin() {
    let (images, _) = tiny::batch(16, 2, 2, Kind::Double);
    let plain = features(&Method::Linear, &images, &[1]);
    for method in [shallow(0, 0), deep(0, 1, None)] {
        assert!(off(&features(&method, &images, &[1]), &plain) < 1e-12);
    }
}

#[test]
fn deep_in_one_block_is_shallow() {
    let (images, _) = tiny::batch(16, 2, 2, Kind::Double);
    for block in 0..4 {
        let one = features(&deep(3, block, Some(1)), &images, &[1]);
        assert!(off(&one, &features(&shallow(3, block), &images, &[1])) < 1e-12);
        assert!(off(&one, &features(&Method::Linear, &images, &[1])) > 1e-4);
    }
}

#[test]
fn a_sample_depends_on_its_batch_in_window_major_order_alone() {
    let swin = tiny::backbone(tiny::swin(), Kind::Double);
    let (images, _) = tiny::batch(16, 3, 2, Kind::Double);
    let mut depends = Vec::new();
    for order in [Order::BatchMajor, Order::WindowMajor] {
        let run = |images: &Tensor| {
            let tuning = Ordered { prompts: Tensor::ones([1, 2, 6], (Kind::Double, Device::Cpu)), order };
            run(&swin, &tuning, images, 1)
        };
        depends.push(off(&run(&images).narrow(0, 1, 1), &run(&images.narrow(0, 1, 1))));
    }
    assert!(depends[0] < 1e-12 && depends[1] > 1e-4, "{depends:?}");
}

/// Prompts in front of block 0, handed to windows in either order.
#[derive(Debug)]
struct Ordered {
    prompts: Tensor,
    order: Order,
}

impl Tuning for Ordered {
    fn params(&self) -> Vec<Param> {
        Vec::new()
    }

    fn entry(&self) -> crate::tuning::Entry {
        crate::tuning::Entry::Block(0)
    }

    fn slots(&self, layer: usize, samples: i64, _step: Step<'_>) -> Option<Tensor> {
        (layer == 0).then(|| self.prompts.expand([samples, 2, 6], false))
    }

    fn window_order(&self) -> Order {
        self.order
    }
}

#[test]
fn members_are_apart_in_both_orders() {
    let swin = tiny::backbone(tiny::swin(), Kind::Double);
    let (images, _) = tiny::batch(16, 2, 2, Kind::Double);
    for order in [Order::BatchMajor, Order::WindowMajor] {
        let of = |scale: f64| Tensor::full([1, 2, 6], scale, (Kind::Double, Device::Cpu));
        let alone: Vec<Tensor> =
            [0.5, -2.0].map(|s| run(&swin, &Ordered { prompts: of(s), order }, &images, 1)).into();
        let both = Tensor::cat(&[of(0.5).repeat([2, 1, 1]), of(-2.0).repeat([2, 1, 1])], 0);
        let together = run(&swin, &Ordered { prompts: both, order }, &images, 2);
        assert!(off(&together, &Tensor::cat(&alone, 0)) < 1e-12, "{order:?}");
    }
}

#[test]
fn a_grid_smaller_than_a_window_is_the_window() {
    let stage = Stage { depth: 2, heads: 1, mlp_dim: 8 };
    let arch =
        Arch { image_size: 16, window: 4, stages: vec![stage.clone(), stage.clone(), stage], ..tiny::swin() };
    assert_eq!(arch.check(), Ok(()));
    assert_eq!((0..3).map(|s| arch.window_in(s)).collect::<Vec<_>>(), [4, 4, 2]);
    let swin = tiny::backbone(arch, Kind::Double);
    let (images, _) = tiny::batch(16, 2, 2, Kind::Double);
    let x = swin.blocks(swin.embed(&images), 0..6, &Linear::new(swin.arch()), Step::evaluation(1));
    assert_eq!(x.size(), [2, 4, 24]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn shapes_follow_the_arch(
        window in 1u32..4,
        patch_size in 1u32..3,
        heads in 1u32..3,
        width in 1u32..4,
        depths in proptest::collection::vec(1u32..4, 1..4),
        length in 0u32..4,
        batch in 1i64..3,
        scale in 1u32..3,
    ) {
        let dim = heads * width;
        let stages: Vec<Stage> =
            depths.iter().map(|&depth| Stage { depth, heads, mlp_dim: width + 1 }).collect();
        let image_size = (patch_size * window * scale) << (stages.len() - 1);
        let arch = Arch { image_size, patch_size, dim, window, stages, layer_norm_eps: 1e-5 };
        prop_assert_eq!(arch.check(), Ok(()));
        let swin = tiny::backbone(arch.clone(), Kind::Float);
        let (images, _) = tiny::batch(i64::from(image_size), batch, 2, Kind::Float);
        let tuning = build(&deep(length, 0, None), &swin, i64::from(image_size), &[1, 2], None).tuning;
        let x = swin.embed(&images).repeat([2, 1, 1]);
        let x = swin.blocks(x, 0..arch.depth() as usize, tuning.as_ref(), Step::evaluation(2));
        let last = arch.stages.len() - 1;
        let tokens = i64::from(length) + arch.side(last).pow(2);
        prop_assert_eq!(x.size(), [2 * batch, tokens, i64::from(arch.feature_dim())]);
        prop_assert!(x.isfinite().all().int64_value(&[]) == 1);
    }
}
