//! A home with a random tiny ViT, a data set of light and dark squares, and one of drawn shapes with label maps, put there by
//! `worker import`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};
use worker::backbone::TensorShape;
use worker::vit::{Arch, Pool, PositionResize};

/// The home that all tests share.
pub(crate) fn home() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("home-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the home");
        let home = folder.join("home");
        backbone(&folder, &home);
        for (name, corrupt) in [("test/shades", false), ("test/corrupt", true)] {
            dataset(&folder.join(name), name, corrupt, &home);
        }
        shapes(&folder.join("shapes"));
        let shapes = folder.join("shapes");
        import(
            &["dataset", shapes.to_str().expect("UTF-8"), "--name", "test/shapes", "--classes", "3"],
            &home,
        );
        home
    })
}

fn import(args: &[&str], home: &Path) {
    let status =
        Command::new(env!("CARGO_BIN_EXE_worker")).arg("import").args(args).arg("--home").arg(home).status();
    assert!(status.expect("worker runs").success(), "worker import {args:?}");
}

fn backbone(folder: &Path, home: &Path) {
    let arch = Arch {
        dim: 128,
        depth: 4,
        heads: 2,
        patch_size: 8,
        image_size: 32,
        mlp_dim: 256,
        layer_norm_eps: 1e-6,
        layer_scale: false,
        pool: Pool::Cls,
        position_resize: PositionResize::Bicubic,
    };
    tch::manual_seed(1);
    let draw = |TensorShape { name, shape }: TensorShape| {
        let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let value = Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.1;
        (name.clone(), if name.contains("norm") && name.ends_with("weight") { value + 1.0 } else { value })
    };
    let tensors: Vec<(String, Tensor)> = arch.tensors().into_iter().map(draw).collect();
    let file = folder.join("tiny.safetensors");
    Tensor::write_safetensors(&tensors, &file).expect("the weights are written");
    import(&["backbone", file.to_str().expect("UTF-8"), "--name", "tiny"], home);
}

/// Sixteen images to train on, eight each to validate and test. In the corrupt one, the fourth is cut off.
fn dataset(folder: &Path, name: &str, corrupt: bool, home: &Path) {
    for (split, count) in [("train", 16u32), ("val", 8), ("test", 8)] {
        let images = folder.join("images").join(split);
        std::fs::create_dir_all(&images).expect("a folder for images");
        let mut lines = String::new();
        for i in 0..count {
            let (label, file) = (i % 2, format!("{i:04}.png"));
            let shade =
                |x: u32, y: u32| image::Luma([(label * 90 + 60 + (x * 7 + y * 13 + i * 29) % 50) as u8]);
            image::GrayImage::from_fn(32, 32, shade).save(images.join(&file)).expect("an image is written");
            lines += &format!("images/{split}/{file} {label}\n");
        }
        std::fs::write(folder.join(format!("{split}.txt")), lines).expect("labels are written");
    }
    if corrupt {
        let path = folder.join("images/train/0003.png");
        let bytes = std::fs::read(&path).expect("the image is there");
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("the image is cut");
    }
    import(&["dataset", folder.to_str().expect("UTF-8"), "--name", name, "--classes", "2"], home);
}

/// What a pixel of a drawn image shows.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Shape {
    Ground,
    Square,
    Disk,
    /// The edge of a shape, which has no label.
    Edge,
}

/// Of image `i`: a light square and a reddish disk on dark ground, on their own sides of it.
pub(crate) fn shape(i: u32, x: u32, y: u32) -> Shape {
    let (x, y, shift) = (f64::from(x), f64::from(y), f64::from(i % 5) * 2.0);
    let square = (x - 13.0 - shift).abs().max((y - 15.0 - shift).abs());
    let disk = (x - 39.0 + shift).hypot(y - 24.0 + shift);
    match square.min(disk) {
        r if (9.0..10.0).contains(&r) => Shape::Edge,
        r if r < 9.0 => {
            if square < disk {
                Shape::Square
            } else {
                Shape::Disk
            }
        }
        _ => Shape::Ground,
    }
}

/// Images of different sizes with their label maps, as ADE20K's benchmark has them.
fn shapes(folder: &Path) {
    for (split, numbers) in [("training", 0..16u32), ("held_out", 16..20), ("validation", 20..24)] {
        let [images, maps] = ["images", "annotations"].map(|part| folder.join(part).join(split));
        for folder in [&images, &maps] {
            std::fs::create_dir_all(folder).expect("a folder for images");
        }
        for i in numbers {
            let (width, height) = (52 + i % 3 * 4, 40 + i % 2 * 6);
            let colour = |x: u32, y: u32| {
                let noise = (x * 7 + y * 13 + i * 29) % 30;
                let [r, g, b] = match shape(i, x, y) {
                    Shape::Ground | Shape::Edge => [20, 20, 40],
                    Shape::Square => [190, 210, 190],
                    Shape::Disk => [200, 60, 20],
                };
                image::Rgb([r + noise as u8, g + noise as u8, b + noise as u8])
            };
            let label = |x: u32, y: u32| match shape(i, x, y) {
                Shape::Edge => image::Luma([0]),
                Shape::Ground => image::Luma([1]),
                Shape::Square => image::Luma([2]),
                Shape::Disk => image::Luma([3]),
            };
            let name = format!("{i:04}.png");
            image::RgbImage::from_fn(width, height, colour).save(images.join(&name)).expect("an image");
            image::GrayImage::from_fn(width, height, label).save(maps.join(&name)).expect("a map");
        }
    }
    // What lies beside them in ADE20K's archive is no label file.
    std::fs::write(folder.join("objectInfo150.txt"), "Idx Ratio Train Val Name\n1 0.16 11664 1172 wall\n")
        .expect("a file");
}
