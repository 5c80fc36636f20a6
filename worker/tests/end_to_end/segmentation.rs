//! Segmentations are trials like others: swept, cut and continued, kept, and used.

use std::path::Path;
use std::process::{Command, Output};

use crate::cluster::{Cluster, json};
use crate::home::{Shape, home, shape};
use crate::trials;

const SWEEP: &str = "
version: 1
kind: sweep
name: shapes
objective: {metric: val/miou, goal: maximize, at: last}
report: [test/miou, test/miou_ms, test/accuracy]
base: {backbone: tiny, task: test/shapes, lr: 0.01, image_size: 32, epochs: 4, epoch_steps: 30, batch_size: 4, optimizer: adamw,
       schedule: poly, head: setr_pup, head_channels: 16, head_lr_factor: 1, scales: [0.75, 1.25],
       split: {train: training, eval: held_out, test: validation}}
blocks:
  - {name: deep, set: {method: vpt_deep, prompt_length: 4}}
  - {name: spt, set: {method: spt_deep, prompt_length: 2}}
  - {name: untrained, set: {method: linear, epochs: 1, epoch_steps: 1}}
";

fn predict(artifact: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.args(["predict", "--device", "cpu", "--threads", "1", "--home"]).arg(home());
    command.args(["--artifact", artifact, "--images"]);
    command.arg(home().join("datasets/test/shapes/images/validation")).args(args);
    command.output().expect("worker runs")
}

/// The share of the labelled pixels of the validation images whose label is the map's.
fn accuracy(maps: &Path) -> f64 {
    let (mut hits, mut all) = (0, 0);
    for i in 20..24 {
        let map = image::open(maps.join(format!("{i:04}.png"))).expect("a map").into_luma8();
        for (x, y, pixel) in map.enumerate_pixels() {
            let label = match shape(i, x, y) {
                Shape::Edge => continue,
                Shape::Ground => 1,
                Shape::Square => 2,
                Shape::Disk => 3,
            };
            all += 1;
            hits += u32::from(pixel.0[0] == label);
        }
    }
    100.0 * f64::from(hits) / f64::from(all)
}

#[test]
fn drawn_shapes_are_learnt_in_a_sweep_and_drawn_again() {
    let mut cluster = Cluster::start(&[]);
    cluster.worker("only");
    cluster.submit(SWEEP);
    cluster.watch_to_the_end();
    let trials = trials(&cluster);
    let of =
        |method: &str| trials.iter().find(|trial| trial["parameters"]["method"] == method).expect("a trial");
    let metric = |method: &str, name: &str| of(method)["metrics"][name].as_f64().expect(name);
    // One class for all pixels is a third of 100 at the most.
    for method in ["vpt_deep", "spt_deep"] {
        assert!(metric(method, "test/miou") > 60.0 && metric(method, "test/miou_ms") > 60.0, "{method}");
        assert!(metric(method, "val/miou") > metric("linear", "val/miou"), "{method}");
    }
    assert!(metric("linear", "val/miou") < 34.0);

    let id = of("vpt_deep")["id"].to_string();
    let results = json(&cluster.sweep(&["results", "last", "--output", "json"]));
    assert!(results.to_string().contains("test/miou_ms"), "{results}");
    let artifact = json(&cluster.sweep(&["trial", &id, "--output", "json"]))["artifact"].clone();
    let path = artifact.as_str().and_then(|url| url.strip_prefix("file://")).expect("a local file");
    let refused = predict(path, &[]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success()
            && said.contains("labels pixels: say where")
            && said.contains("--maps FOLDER"),
        "{said}"
    );
    let maps = tempfile::tempdir().expect("a folder");
    let output = predict(path, &["--maps", maps.path().to_str().expect("UTF-8")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("file,map\n0020.png,0020.png\n"));
    assert!((accuracy(maps.path()) - metric("vpt_deep", "test/accuracy")).abs() < 1e-9);

    // `worker train` writes the same tensors, to the bit.
    let own = cluster.train_to(&cluster.sweep(&["capture", &id]), "own.safetensors");
    let read = |path: &str| tch::Tensor::read_safetensors(path).expect("a safetensors file");
    let (kept, own) = (read(path), read(&own));
    assert!(kept.iter().any(|(name, _)| name == "auxiliary.1.bn.0.running_mean"));
    for (name, tensor) in kept {
        assert!(own.iter().any(|(other, same)| *other == name && same.equal(&tensor)), "{name}");
    }
}

#[test]
fn a_head_that_labels_something_else_than_the_task_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let says = |task: &str, head: &str| {
        let file = folder.path().join("trial.json");
        let text = format!(
            r#"{{"backbone": "tiny", "task": "{task}", "method": "linear", "lr": 0.1, "image_size": 32, "seed": 1, "head": "{head}",
                "split": {{"train": "training", "eval": "held_out", "test": null}}}}"#
        );
        std::fs::write(&file, text).expect("the trial is written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
        let output = command.args(["train", "--device", "cpu", "--home"]).arg(home()).arg(&file).output();
        String::from_utf8(output.expect("worker runs").stderr).expect("UTF-8")
    };
    let said = says("test/shapes", "linear");
    assert!(said.contains("invalid_config: task: `test/shapes` has label maps"), "{said}");
    let said = says("test/shades", "setr_pup");
    assert!(said.contains("invalid_config: task: `test/shades` has a label for each image"), "{said}");
}
