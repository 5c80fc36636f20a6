//! Every miniature of a protocol runs from its first stage to its last by a real trainer, on the backbone and the images
//! of these tests.

use std::path::Path;

use super::cluster::Cluster;
use super::{home, trials};

/// The files, what fits them to the tiny backbone, and their trials.
const MINIATURES: &[(&str, &[&str], usize)] = &[
    ("demo_e2vpt.yaml", &["base.task=test/mini"], 4 + 1 + 4 + 2),
    ("demo_spt.yaml", &["base.task=test/mini", "base.epochs=2"], 6 + 6),
    ("demo_gated.yaml", &["axes.task.values=[test/mini]", "base.insertion_depth=1", "base.epochs=2"], 4 + 2),
    ("demo_pruning.yaml", &["base.task=test/mini", "blocks.last3.set.insertion_depth=1"], 16),
];

/// The images of `test/shades` under the names of the demo's splits.
fn task() {
    let datasets = home::home().join("datasets/test");
    super::reuse::copy(&datasets.join("shades"), &datasets.join("mini"));
    for split in ["train", "val", "test"] {
        let file = |name: String| datasets.join("mini").join(name);
        std::fs::rename(file(format!("{split}.txt")), file(format!("demo_{split}.txt"))).expect("a new name");
    }
}

#[test]
fn every_miniature_runs_to_its_end() {
    task();
    let mut cluster = Cluster::start(&[]);
    cluster.worker("only");
    for (name, changes, count) in MINIATURES {
        let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../sweeps")).join(name);
        let mut submit = vec!["submit", file.to_str().expect("UTF-8")];
        for change in ["base.backbone=tiny", "base.image_size=32"].iter().chain(*changes) {
            submit.extend(["--set", change]);
        }
        cluster.sweep(&submit);
        cluster.watch_to_the_end();
        let trials = trials(&cluster);
        assert!(trials.iter().all(|trial| trial["state"] == "succeeded"), "{name}: {trials:?}");
        assert_eq!(trials.len(), *count, "{name}");
        let last = trials.last().expect("a trial");
        assert!(last["metrics"]["test/top1"].is_number(), "{name}: {last}");
    }
}
