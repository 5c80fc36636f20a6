//! The demo's tasks, as `make setup` leaves them, read through the reader that trials use.

use std::path::PathBuf;

use sweeps::recipe::{Normalization, Preprocessing};
use tch::{Kind, Tensor};
use worker::data;

fn datasets() -> PathBuf {
    let home = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../third_party/home"));
    assert!(home.is_dir(), "the demo's data is missing; run `make setup`");
    home.join("datasets")
}

fn counts(labels: &Tensor, classes: i64) -> Vec<i64> {
    Vec::try_from(labels.bincount::<Tensor>(None, classes)).expect("counts")
}

#[test]
fn the_demos_splits_are_stratified() {
    for (task, classes, split, expected) in [
        ("elpv/defect", 2, "demo_train", vec![109, 51]),
        ("elpv/type", 2, "demo_val", vec![33, 47]),
        ("digits", 10, "train800", vec![79, 81, 79, 81, 81, 81, 81, 80, 77, 80]),
        ("digits", 10, "demo_test", vec![16; 10]),
    ] {
        let read = data::load(&datasets().join(task), classes, split, Preprocessing::Noah, 28).expect(task);
        assert_eq!(counts(&read.labels, classes), expected, "{task} {split}");
        assert_eq!(read.images.size(), [expected.iter().sum(), 3, 28, 28]);
    }
    let splits = data::splits(&datasets().join("elpv/type")).expect("the demo's data");
    let all = ["demo_test", "demo_train", "demo_val", "test", "train800", "train800val200", "val200"];
    assert_eq!(splits, all);
}

#[test]
fn solar_cells_are_grey_images_that_differ() {
    let read = |preprocessing| {
        data::load(&datasets().join("elpv/type"), 2, "demo_val", preprocessing, 112).expect("the demo's data")
    };
    let (noah, vpt_tf) = (read(Preprocessing::Noah), read(Preprocessing::VptTf));
    assert_eq!(noah.sha256, vpt_tf.sha256, "the hash is of the content, not of what is made of it");
    assert_ne!(noah.images, vpt_tf.images);
    assert_eq!(noah.images.select(1, 0), noah.images.select(1, 2), "red and blue");
    let images = data::normalise(&noah.images, Normalization::None);
    let means = images.mean_dim([1_i64, 2, 3].as_slice(), false, Kind::Float);
    assert!(means.std(true).double_value(&[]) > 0.02, "{means:?}");
    let mean = means.mean(Kind::Float).double_value(&[]);
    assert!((0.2..0.8).contains(&mean), "{mean}");
}
