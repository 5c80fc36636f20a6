//! Scores by hand, windows and scales against direct computation, crops that stay aligned, and heads that learn.

use proptest::prelude::*;
use sweeps::recipe::{Deep, HeadInit, Method, Recipe, Setr, Vpt};
use tch::{Device, Kind, Tensor};

use super::*;
use crate::backbone::{Arch, Backbone, tiny};
use crate::data::{IGNORED, Sample};
use crate::trainer::{Ensemble, Member, Rule, Setup};

fn map(rows: &[&[i64]]) -> Tensor {
    Tensor::from_slice(&rows.concat()).reshape([rows.len() as i64, -1])
}

#[test]
fn miou_of_an_example_by_hand() {
    let mut confusion = Confusion::new(4);
    // Every pixel's own class has a probability of 0.7, or where another is predicted 0.1.
    let mut add = |predicted: &[&[i64]], labels: &[&[i64]]| {
        let likely = map(predicted).one_hot(4).permute([2, 0, 1]).to_kind(Kind::Float);
        confusion.add(&(likely * 0.6 + 0.1), &map(labels));
    };
    add(&[&[0, 0, 1], &[1, 1, 2]], &[&[0, 1, 1], &[1, IGNORED, 1]]);
    add(&[&[0]], &[&[0]]);
    // Class 0: 2 of 3. Class 1: 2 of 4 (the ignored pixel counts nowhere). Class 2: 0 of 1. Class 3 is never seen.
    let scores = confusion.scores();
    assert!((scores["miou"] - 100.0 * (2.0 / 3.0 + 0.5 + 0.0) / 3.0).abs() < 1e-9);
    assert!((scores["mean_accuracy"] - 100.0 * (1.0 + 0.5) / 2.0).abs() < 1e-9);
    assert!((scores["accuracy"] - 100.0 * 4.0 / 6.0).abs() < 1e-9);
    assert!((scores["loss"] + (4.0 * 0.7f64.ln() + 2.0 * 0.1f64.ln()) / 6.0).abs() < 1e-6);
}

#[test]
fn windows_reach_the_border_and_no_further() {
    let sliding = Sliding { side: 8, stride: 5 };
    assert_eq!(sliding.corners(8), [0]);
    assert_eq!(sliding.corners(3), [0]);
    assert_eq!(sliding.corners(13), [0, 5]);
    assert_eq!(sliding.corners(14), [0, 5, 6]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn windows_of_a_pointwise_network_are_the_whole_image(
        height in 1i64..20, width in 1i64..20, side in 1i64..9, stride in 1i64..9,
    ) {
        let sliding = Sliding { side, stride: stride.min(side) };
        tch::manual_seed(1);
        let image = Tensor::randn([3, height, width], (Kind::Float, Device::Cpu));
        let see = |window: &Tensor| window * 2.0 + 1.0;
        let off = (sliding.logits(&image, &see) - (&image * 2.0 + 1.0)).abs().max().double_value(&[]);
        prop_assert!(off < 1e-5, "off by {off}");
    }
}

/// A network that sees its neighbours: three classes from a convolution.
fn network() -> impl Fn(&Tensor) -> Tensor {
    tch::manual_seed(2);
    let weight = Tensor::randn([3, 3, 3, 3], (Kind::Float, Device::Cpu));
    move |window: &Tensor| {
        window.unsqueeze(0).conv2d(&weight, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1).squeeze_dim(0)
    }
}

fn noise(height: i64, width: i64) -> Tensor {
    tch::manual_seed(height * 100 + width);
    Tensor::randn([3, height, width], (Kind::Float, Device::Cpu))
}

fn off(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn overlapping_windows_are_averaged_pixel_by_pixel() {
    let (image, see) = (noise(6, 9), network());
    let found = Sliding { side: 6, stride: 4 }.logits(&image, &see);
    // Windows at 0 and, moved back to the border, at 3.
    let [left, right] = [0, 3].map(|x| see(&image.narrow(2, x, 6)));
    for x in 0..9 {
        let of = |window: &Tensor, at: i64| window.select(2, at);
        let expected = match x {
            0..3 => of(&left, x),
            3..6 => (of(&left, x) + of(&right, x - 3)) / 2.0,
            _ => of(&right, x - 3),
        };
        assert!(off(&found.select(2, x), &expected) < 1e-6, "column {x}");
    }
    // A window as large as the image is the network itself.
    let image = noise(6, 6);
    assert!(off(&Sliding { side: 6, stride: 4 }.logits(&image, &see), &see(&image)) < 1e-6);
}

#[test]
fn scales_and_mirror_images_are_averaged_as_probabilities() {
    let (image, see) = (noise(8, 8), network());
    let sliding = Sliding { side: 8, stride: 5 };
    let scales = Scale::with_mirror_images(&[1.0, 2.0]);
    assert_eq!(scales.len(), 4);
    let found = sliding.probabilities(&image, &scales, &see);
    let resized = |map: &Tensor, side: i64| {
        map.unsqueeze(0).upsample_bilinear2d([side, side], false, None, None).squeeze_dim(0)
    };
    let softmax = |logits: &Tensor| logits.softmax(0, Kind::Float);
    let flip = |map: &Tensor| map.flip([2]);
    let large = resized(&image, 16);
    let at_large = |image: &Tensor| resized(&sliding.logits(image, &see), 8);
    let expected = softmax(&see(&image))
        + softmax(&flip(&see(&flip(&image))))
        + softmax(&at_large(&large))
        + softmax(&flip(&at_large(&flip(&large))));
    assert!(off(&found, &(expected / 4.0)) < 1e-6);
    // At a single scale the short side becomes that of a window, and the logits come back to the image's size.
    let image = noise(4, 7);
    let single = sliding.probabilities(&image, Scale::SINGLE, &see);
    let seen = image.unsqueeze(0).upsample_bilinear2d([8, 14], false, None, None).squeeze_dim(0);
    let logits = sliding.logits(&seen, &see).unsqueeze(0).upsample_bilinear2d([4, 7], false, None, None);
    assert!(off(&single, &softmax(&logits.squeeze_dim(0))) < 1e-6);
}

#[test]
fn a_long_image_is_seen_at_four_times_the_window_at_most() {
    let sizes = std::cell::RefCell::new(Vec::new());
    let see = |window: &Tensor| {
        sizes.borrow_mut().push(window.size());
        window.shallow_clone()
    };
    let found = Sliding { side: 8, stride: 8 }.probabilities(&noise(4, 64), Scale::SINGLE, &see);
    // 4×64 becomes 2×32: four windows, each filled up below.
    assert_eq!(sizes.into_inner(), vec![vec![3, 8, 8]; 4]);
    assert_eq!(found.size(), [3, 4, 64]);
}

fn cropping(side: i64, scale: f64) -> Cropping {
    Cropping { side, scale: (scale, scale), cat_max_ratio: 0.75, photometric: false }
}

fn as_it_is(image: &Tensor) -> Tensor {
    image.shallow_clone()
}

#[test]
fn a_crop_keeps_labels_on_their_pixels() {
    // Pixels carry ten times their label; at scale 1 nothing is interpolated.
    let labels = map(&[&[0, 0, 1, 1, 2, 2], &[0, 1, 1, 2, 2, 3], &[3, 3, 0, 0, 1, 1], &[2, 2, 3, 3, 0, 0]]);
    let image = (&labels * 10 + 5).to_kind(Kind::Float).unsqueeze(0).repeat([3, 1, 1]);
    let (sample, cropping) = (Sample { image, labels }, cropping(4, 1.0));
    let mut corners = std::collections::BTreeSet::new();
    for position in 0..20 {
        let (pixels, map) = cropping.draw(&sample, &as_it_is, 7, position);
        assert_eq!((pixels.size(), map.size()), (vec![3, 4, 4], vec![4, 4]));
        assert!(pixels.get(0).equal(&(&map * 10 + 5).to_kind(Kind::Float)));
        assert!(cropping.draw(&sample, &as_it_is, 7, position).0.equal(&pixels));
        corners.insert((map.int64_value(&[0, 0]), map.int64_value(&[3, 0]), map.int64_value(&[0, 3])));
        // Colours change, and nothing else does.
        let coloured = Cropping { photometric: true, ..cropping };
        assert!(coloured.draw(&sample, &as_it_is, 7, position).1.equal(&map));
    }
    assert!(corners.len() > 2, "every crop is the same: {corners:?}");
    let coloured = Cropping { photometric: true, ..cropping };
    let changed = |position| {
        !coloured
            .draw(&sample, &as_it_is, 7, position)
            .0
            .equal(&cropping.draw(&sample, &as_it_is, 7, position).0)
    };
    assert!((0..20).filter(|position| changed(*position)).count() >= 10);
}

#[test]
fn what_lies_beyond_a_small_image_is_zero_behind_the_normalisation_and_ignored() {
    let sample = Sample {
        image: Tensor::ones([3, 2, 2], (Kind::Float, Device::Cpu)),
        labels: map(&[&[0, 1], &[1, 0]]),
    };
    let cropping = Cropping { cat_max_ratio: 1.0, ..cropping(6, 0.5) };
    let (pixels, map) = cropping.draw(&sample, &|image| image + 4.0, 1, 0);
    assert_eq!(map.not_equal(IGNORED).sum(Kind::Int64).int64_value(&[]), 9);
    assert_eq!(pixels.sum(Kind::Double).double_value(&[]), 5.0 * 3.0 * 9.0);
}

#[test]
fn a_crop_of_one_class_is_drawn_again() {
    // Class 1 stands in one corner alone: most squares see nothing of it.
    let labels = Tensor::zeros([40, 40], (Kind::Int64, Device::Cpu));
    let _ = labels.narrow(0, 0, 10).narrow(1, 0, 10).fill_(1);
    let image = labels.to_kind(Kind::Float).unsqueeze(0).repeat([3, 1, 1]);
    let sample = Sample { image, labels };
    let mixed = |cat_max_ratio| {
        let cropping = Cropping { cat_max_ratio, ..cropping(10, 4.0) };
        let has_both = |position: &u64| {
            let (_, labels) = cropping.draw(&sample, &as_it_is, 3, *position);
            labels.max().int64_value(&[]) != labels.min().int64_value(&[])
        };
        (0..60).filter(has_both).count()
    };
    let (never, again) = (mixed(1.0), mixed(0.999));
    assert!(again > 2 * never, "{never} of 60 by chance, {again} with another try");
}

#[test]
fn heads_have_the_sizes_of_setr() {
    let options = (Kind::Float, Device::Cpu);
    let count = |head: &Head| head.params().iter().map(|p| p.value.numel() as i64).sum::<i64>();
    let main = Head::new("head", HeadShape::main(256), 1024, 150, 10.0, 1, options);
    // Norm; four convolutions without bias, each with a batch norm; the classifier.
    let expected = 2 * 1024 + 9 * 256 * (1024 + 3 * 256) + 4 * 2 * 256 + 150 * 257;
    assert_eq!(count(&main), expected);
    assert!(main.params().iter().all(|p| p.lr == 10.0 && p.value.size()[0] == 1));
    let auxiliary = Head::new("auxiliary.0", HeadShape::auxiliary(8), 12, 5, 1.0, 1, options);
    let patches = Tensor::randn([2, 9, 12], options);
    assert_eq!(auxiliary.forward(&patches, true).size(), [2, 5, 48, 48]);
    // The running statistics have moved, and are what evaluation goes by.
    let off = (auxiliary.forward(&patches, true) - auxiliary.forward(&patches, false)).abs().max();
    assert!(off.double_value(&[]) > 1e-4);
}

fn setr() -> Setr {
    let json = r#"{"backbone": "b", "task": "t", "lr": 1, "method": "linear", "head": "setr_pup", "head_channels": 6,
        "head_lr_factor": 1, "aux_blocks": [1, 2]}"#;
    Recipe::from_json(json).unwrap().setr.unwrap()
}

fn backbone() -> Backbone {
    let arch = crate::vit::Arch { image_size: 16, ..tiny::arch() };
    tiny::backbone(Arch::from(arch), Kind::Float)
}

fn ensemble(backbone: &Backbone, method: &Method, setr: &Setr) -> Ensemble {
    let members = [Member { seed: 3, wd: 0.0, wd_head: 0.0, momentum: 0.9 }];
    let setup = Setup {
        method,
        head: HeadInit::Vpt,
        setr: Some(setr),
        classes: 2,
        image_size: 16,
        rule: Rule::Sgd,
        members: &members,
        kept: None,
    };
    Ensemble::new(backbone, &setup)
}

/// The left half is class 0 and dark, the right one class 1 and light.
fn halves() -> (Tensor, Tensor) {
    let half = Tensor::arange(16, (Kind::Int64, Device::Cpu)).ge(8).to_kind(Kind::Int64);
    let labels = half.expand([2, 16, 16], false);
    let images = (labels.unsqueeze(1).to_kind(Kind::Float) * 2.0 - 1.0).expand([2, 3, 16, 16], false);
    (images, labels)
}

#[test]
fn heads_learn_what_is_where_whatever_is_tuned_below() {
    let (backbone, setr, (images, labels)) = (backbone(), setr(), halves());
    let noexpand = Deep { prompted_blocks: Some(2), noexpand: true, ..Deep::default() };
    for method in [
        Method::Linear,
        Method::Vpt(Vpt::deep(3)),
        Method::Vpt(Vpt { deep: Some(noexpand), ..Vpt::deep(3) }),
        Method::Bias { lr_factor: 1.0 },
    ] {
        let mut ensemble = ensemble(&backbone, &method, &setr);
        let own = ensemble.params().iter().filter(|p| !p.name.contains("head") && !p.name.contains("aux"));
        assert_eq!(own.count() > 0, method != Method::Linear);
        let mut step = || {
            let losses =
                ensemble.train_step(&backbone, images.shallow_clone(), &labels.unsqueeze(0), &[0.05]);
            losses.double_value(&[0])
        };
        let losses: Vec<f64> = (0..30).map(|_| step()).collect();
        // At the start every class is as likely: ln 2 for each head, of which two count 0.4.
        assert!((losses[0] - 1.8 * 2f64.ln()).abs() < 0.2, "{losses:?}");
        assert!(losses[29] < 0.5 * losses[0], "{losses:?}");
        let logits = ensemble.evaluate(&backbone, &images).get(0);
        assert_eq!(logits.size(), [2, 2, 16, 16]);
        let mut confusion = Confusion::new(2);
        confusion.add(&logits.get(0).softmax(0, Kind::Float), &labels.get(0));
        assert!(confusion.scores()["miou"] > 80.0, "{:?}", confusion.scores());
    }
}

#[test]
fn the_loss_is_the_main_heads_and_a_share_of_each_auxiliary_ones() {
    let backbone = backbone();
    let (images, labels) = halves();
    let loss = |aux_blocks: Vec<u32>, aux_weight| {
        let setr = Setr { aux_blocks: Some(aux_blocks), aux_weight, ..setr() };
        let mut ensemble = ensemble(&backbone, &Method::Linear, &setr);
        let losses = ensemble.train_step(&backbone, images.shallow_clone(), &labels.unsqueeze(0), &[0.0]);
        losses.double_value(&[0])
    };
    let main = loss(vec![], 0.4);
    let first = (loss(vec![1], 1.0) - main, loss(vec![1], 0.4) - main);
    assert!((first.1 - 0.4 * first.0).abs() < 1e-6 && first.0 > 0.1, "{first:?}");
    // `auxiliary.1` starts from other numbers and stands on another block.
    let second = loss(vec![1, 2], 0.4) - main - first.1;
    assert!(second > 0.05 && (second - first.1).abs() > 1e-6, "{second}");
}

#[test]
fn ignored_pixels_teach_nothing() {
    let backbone = backbone();
    let mut ensemble = ensemble(&backbone, &Method::Linear, &setr());
    let (images, _) = tiny::batch(16, 2, 2, Kind::Float);
    let labels = Tensor::full([1, 2, 16, 16], IGNORED, (Kind::Int64, Device::Cpu));
    let before: Vec<Tensor> = ensemble.params().iter().map(|p| p.value.copy()).collect();
    let loss = ensemble.train_step(&backbone, images, &labels, &[0.1]).double_value(&[0]);
    assert_eq!(loss, 0.0);
    assert!(ensemble.params().iter().zip(&before).all(|(p, b)| p.value.equal(b)));
}

#[test]
fn every_number_that_is_used_later_is_saved() {
    let ensemble = ensemble(&backbone(), &Method::Linear, &setr());
    let names: Vec<String> = ensemble.saved().into_iter().map(|param| param.name).collect();
    let layers = 4 + 2 * 2; // of the main head and the two others
    assert_eq!(names.iter().filter(|name| name.contains("running_")).count(), 2 * layers);
    assert!(
        names.contains(&"head.bn.3.running_var".to_owned())
            && names.contains(&"auxiliary.1.norm.bias".to_owned())
    );
}

#[test]
fn memory_of_setr_at_512_pixels_is_that_of_its_maps() {
    let arch = crate::vit::Arch { dim: 768, depth: 12, patch_size: 16, image_size: 224, ..tiny::arch() };
    let setr = Setr { channels: 256, aux_blocks: Some(Vec::new()), ..setr() };
    let numbers = kept_numbers(&setr, &arch, 150, 512);
    let (grid, k) = (32u64 * 32, 256u64);
    let maps = 768 * grid + k * grid * (2 + 4 + 8 + 16 + 32 + 64 + 128 + 256);
    assert_eq!(numbers, maps + 150 * 512 * 512);
    let with = kept_numbers(&Setr { aux_blocks: None, ..setr }, &arch, 150, 512) - numbers;
    assert_eq!(with, 2 * (768 * grid + k * grid * (2 + 16 + 32 + 256) + 150 * 512 * 512));
}
