//! A home with a random tiny ViT and a data set of light and dark squares, put there by `worker import`.

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
