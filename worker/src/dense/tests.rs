//! Scores by hand, windows against whole images, crops that stay aligned, and a segmenter that learns.

use std::path::Path;

use image::{GrayImage, Luma, Rgb, RgbImage};
use proptest::prelude::*;
use sweeps::recipe::{Method, Vpt};
use tch::{Device, Kind, Tensor};

use super::segmenter::Making;
use super::*;
use crate::backbone::{Arch, tiny};
use crate::trainer::{Member, Rule};

fn map(rows: &[&[i64]]) -> Tensor {
    Tensor::from_slice(&rows.concat()).reshape([rows.len() as i64, -1])
}

#[test]
fn miou_of_an_example_by_hand() {
    let mut confusion = Confusion::new(4);
    confusion.add(&map(&[&[0, 0, 1], &[1, 1, 2]]), &map(&[&[0, 1, 1], &[1, IGNORED, 1]]));
    confusion.add(&map(&[&[0]]), &map(&[&[0]]));
    // Class 0: 2 of 3. Class 1: 2 of 4 (the ignored pixel counts nowhere). Class 2: 0 of 1. Class 3 is never seen.
    let scores = confusion.scores("val");
    assert!((scores["val/miou"] - 100.0 * (2.0 / 3.0 + 0.5 + 0.0) / 3.0).abs() < 1e-9);
    assert!((scores["val/mean_accuracy"] - 100.0 * (1.0 + 0.5) / 2.0).abs() < 1e-9);
    assert!((scores["val/pixel_accuracy"] - 100.0 * 4.0 / 6.0).abs() < 1e-9);
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

#[test]
fn a_mirrored_look_is_turned_back() {
    let image = Tensor::arange(12, (Kind::Float, Device::Cpu)).reshape([1, 3, 4]);
    let image = Tensor::cat(&[&image, &(11.0 - &image), &image.zeros_like()], 0);
    let sliding = Sliding { side: 3, stride: 3 };
    let see = |window: &Tensor| window.shallow_clone();
    let single = sliding.classes(&image, Scale::SINGLE, &see);
    assert!(single.equal(&image.argmax(0, false)));
    let mirrored = [Scale { factor: 1.0, is_mirrored: true }];
    assert!(sliding.classes(&image, &mirrored, &see).equal(&single));
    assert_eq!(Scale::multi().len(), 12);
    assert_eq!(sliding.classes(&image, &Scale::multi(), &see).size(), [3, 4]);
}

#[test]
fn a_crop_keeps_labels_on_their_pixels() {
    // Pixels carry ten times their label; at scale 1 nothing is interpolated.
    let labels = map(&[&[0, 0, 1, 1, 2, 2], &[0, 1, 1, 2, 2, 3], &[3, 3, 0, 0, 1, 1], &[2, 2, 3, 3, 0, 0]]);
    let image = (&labels * 10 + 5).to_kind(Kind::Float).unsqueeze(0).repeat([3, 1, 1]);
    let cropping = Cropping { side: 4, scale: (1.0, 1.0), largest_class: 0.75 };
    let mut corners = std::collections::BTreeSet::new();
    for position in 0..20 {
        let (pixels, map) = cropping.draw(&image, &labels, 7, position);
        assert_eq!((pixels.size(), map.size()), (vec![3, 4, 4], vec![4, 4]));
        assert!(pixels.get(0).equal(&(&map * 10 + 5).to_kind(Kind::Float)));
        assert!(cropping.draw(&image, &labels, 7, position).0.equal(&pixels));
        corners.insert((map.int64_value(&[0, 0]), map.int64_value(&[3, 0]), map.int64_value(&[0, 3])));
    }
    assert!(corners.len() > 2, "every crop is the same: {corners:?}");
}

#[test]
fn what_lies_beyond_a_small_image_is_ignored() {
    let labels = map(&[&[0, 1], &[1, 0]]);
    let image = Tensor::ones([3, 2, 2], (Kind::Float, Device::Cpu));
    let cropping = Cropping { side: 6, scale: (0.5, 0.5), largest_class: 1.0 };
    let (pixels, map) = cropping.draw(&image, &labels, 1, 0);
    assert_eq!(map.not_equal(IGNORED).sum(Kind::Int64).int64_value(&[]), 9);
    assert_eq!(pixels.sum(Kind::Double).double_value(&[]), 3.0 * 9.0);
}

fn write(root: &Path, name: &str, (width, height): (u32, u32), label: impl Fn(u32, u32) -> u8) {
    for folder in ["images/training", "annotations/training"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    let colours = [[0, 0, 0], [220, 30, 30], [30, 200, 60]];
    let colour = |x, y| Rgb(colours[usize::from(label(x, y)).min(2)]);
    RgbImage::from_fn(width, height, colour).save(root.join(format!("images/training/{name}.png"))).unwrap();
    let map = GrayImage::from_fn(width, height, |x, y| Luma([label(x, y)]));
    map.save(root.join(format!("annotations/training/{name}.png"))).unwrap();
}

#[test]
fn a_folder_is_read_and_its_faults_are_named() {
    let root = tempfile::tempdir().unwrap();
    let open = || Folder::open(root.path(), "training", 2);
    assert!(open().unwrap_err().to_string().contains("images/training"));
    write(root.path(), "b", (3, 2), |x, _| x as u8);
    write(root.path(), "a", (2, 2), |_, y| y as u8);
    let folder = open().unwrap();
    assert_eq!(folder.samples().len(), 2);
    let (image, labels) = folder.read(&folder.samples()[1]).unwrap();
    assert_eq!(image.size(), [3, 2, 3]);
    assert_eq!(image.double_value(&[0, 1, 1]), 220.0);
    assert!(labels.equal(&map(&[&[IGNORED, 0, 1], &[IGNORED, 0, 1]])));

    let maps = root.path().join("annotations/training");
    GrayImage::from_pixel(2, 2, Luma([3])).save(maps.join("a.png")).unwrap();
    let error = folder.read(&folder.samples()[0]).unwrap_err().to_string();
    assert!(error.contains("a.png") && error.contains("label 3") && error.contains("2 classes"), "{error}");
    GrayImage::new(2, 3).save(maps.join("a.png")).unwrap();
    assert!(folder.read(&folder.samples()[0]).unwrap_err().to_string().contains("is 2×3, its image is 2×2"));
    RgbImage::new(2, 2).save(maps.join("a.png")).unwrap();
    assert!(matches!(folder.read(&folder.samples()[0]), Err(FolderError::Format { .. })));
    std::fs::write(maps.join("a.png"), b"no image").unwrap();
    assert!(matches!(folder.read(&folder.samples()[0]), Err(FolderError::Decode { .. })));
    std::fs::remove_file(maps.join("a.png")).unwrap();
    assert!(matches!(open(), Err(FolderError::Unlabelled { .. })));
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

#[test]
fn a_segmenter_learns_what_is_where() {
    let arch = crate::vit::Arch { image_size: 16, ..tiny::arch() };
    let backbone = tiny::backbone(Arch::from(arch.clone()), Kind::Float);
    for method in [Method::Linear, Method::Vpt(Vpt::deep(3)), Method::Bias { lr_factor: 1.0 }] {
        let making = Making {
            method: &method,
            classes: 2,
            side: 16,
            channels: 6,
            head_rate: 1.0,
            rule: Rule::Sgd,
            member: Member { seed: 3, wd: 0.0, wd_head: 0.0, momentum: 0.9 },
        };
        let mut segmenter = Segmenter::new(&backbone, &arch, &making);
        let own = segmenter.params().iter().filter(|p| !p.name.contains("head") && !p.name.contains("aux"));
        assert_eq!(own.count() > 0, method != Method::Linear);
        // The left half is class 0 and dark, the right one class 1 and light.
        let half = Tensor::arange(16, (Kind::Int64, Device::Cpu)).ge(8).to_kind(Kind::Int64);
        let labels = half.expand([2, 16, 16], false);
        let images = (labels.unsqueeze(1).to_kind(Kind::Float) * 2.0 - 1.0).expand([2, 3, 16, 16], false);
        let losses: Vec<f64> = (0..30)
            .map(|_| segmenter.train_step(&backbone, &images, &labels, 0.05).double_value(&[]))
            .collect();
        // At the start every class is as likely: ln 2 for each head, of which two count 0.4.
        assert!((losses[0] - 1.8 * 2f64.ln()).abs() < 0.2, "{losses:?}");
        assert!(losses[29] < 0.5 * losses[0], "{losses:?}");
        let mut confusion = Confusion::new(2);
        confusion.add(&segmenter.logits(&backbone, &images).argmax(1, false).get(0), &labels.get(0));
        let miou = confusion.scores("val")["val/miou"];
        assert!(miou > 80.0, "{miou}");
    }
}

#[test]
fn ignored_pixels_teach_nothing() {
    let arch = crate::vit::Arch { image_size: 16, ..tiny::arch() };
    let backbone = tiny::backbone(Arch::from(arch.clone()), Kind::Float);
    let making = Making {
        method: &Method::Linear,
        classes: 2,
        side: 16,
        channels: 6,
        head_rate: 1.0,
        rule: Rule::Sgd,
        member: Member { seed: 3, wd: 0.0, wd_head: 0.0, momentum: 0.9 },
    };
    let mut segmenter = Segmenter::new(&backbone, &arch, &making);
    let (images, _) = tiny::batch(16, 2, 2, Kind::Float);
    let labels = Tensor::full([2, 16, 16], IGNORED, (Kind::Int64, Device::Cpu));
    let before: Vec<Tensor> = segmenter.params().iter().map(|p| p.value.copy()).collect();
    let loss = segmenter.train_step(&backbone, &images, &labels, 0.1).double_value(&[]);
    assert_eq!(loss, 0.0);
    assert!(segmenter.params().iter().zip(&before).all(|(p, b)| p.value.equal(b)));
}
