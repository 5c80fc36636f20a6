//! What a trial has tuned is kept, and can be used.

use std::process::{Command, Output};

use crate::cluster::{Cluster, json};
use crate::home::home;
use crate::{SWEEP, trials};

fn predict(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.args(["predict", "--device", "cpu", "--threads", "1", "--home"]).arg(home()).args(args);
    command.arg("--images").arg(home().join("datasets/test/shades/images/test"));
    command.output().expect("worker runs")
}

/// The share of the lines whose class is the image's: images of odd number are light.
fn accuracy(csv: &str) -> f64 {
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("file,class,p0,p1"));
    let hits: Vec<bool> = lines
        .map(|line| {
            let [file, class, dark, light] = line.split(',').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            let [dark, light]: [f64; 2] = [dark, light].map(|p| p.parse().expect("a probability"));
            assert!((dark + light - 1.0).abs() < 1e-5 && (class == "1") == (light > dark), "{line}");
            let number: u32 = file.trim_end_matches(".png").parse().expect("a number");
            (number % 2).to_string() == class
        })
        .collect();
    assert_eq!(hits.len(), 8);
    100.0 * hits.iter().filter(|&&hit| hit).count() as f64 / hits.len() as f64
}

#[test]
fn a_finished_trial_leaves_tensors_that_predict_as_it_was_scored() {
    let mut cluster = Cluster::start(&[]);
    cluster.worker("only");
    cluster.submit(&SWEEP.replace("seeds: [0, 1]", "seeds: [0]").replace("epochs: 100", "epochs: 12"));
    cluster.watch_to_the_end();
    let trial = trials(&cluster).remove(0);
    let id = trial["id"].to_string();
    let artifact = json(&cluster.sweep(&["trial", &id, "--output", "json"]))["artifact"].clone();
    let url = artifact.as_str().expect("a URL");
    let path = url.strip_prefix("file://").expect("a local file");

    let output = predict(&["--artifact", path]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let csv = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(Some(accuracy(&csv)), trial["metrics"]["test/top1"].as_f64());
    let again = predict(&["--artifact", url, "--artifacts", &cluster.artifacts()]);
    assert_eq!(String::from_utf8(again.stdout).expect("UTF-8"), csv);

    // `worker train` writes the same tensors, to the bit.
    let own = cluster.train_to(&cluster.sweep(&["capture", &id]), "own.safetensors");
    let read = |path: &str| tch::Tensor::read_safetensors(path).expect("a safetensors file");
    let (kept, own) = (read(path), read(&own));
    assert!(kept.len() >= 3 && kept.len() == own.len());
    for (name, tensor) in kept {
        assert!(own.iter().any(|(other, same)| *other == name && same.equal(&tensor)), "{name}");
    }
}

#[test]
fn an_artifact_of_another_backbone_is_refused() {
    let cluster = Cluster::start(&[]);
    let file = r#"{"backbone": "tiny", "task": "test/shades", "image_size": 32, "batch_size": 8, "lr": 0.05, "epochs": 1,
        "method": "linear", "seed": 1, "split": {"train": "train", "eval": "val", "test": null}}"#;
    let path = cluster.train_to(file, "linear.safetensors");
    assert!(predict(&["--artifact", &path]).status.success());
    // The same tensors, said to be of other weights.
    let bytes = std::fs::read(&path).expect("the artifact");
    let mut tuned = worker::trainer::Tuned::decode(&bytes).expect("an artifact");
    let real = std::mem::replace(&mut tuned.backbone_sha256, "0".repeat(64));
    std::fs::write(&path, tuned.encode(&[]).expect("an artifact")).expect("the file is written");
    let refused = predict(&["--artifact", &path]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(said.contains("tuned on `tiny` with sha256 0000") && said.contains(&real), "{said}");

    std::fs::write(&path, &bytes[..bytes.len() - 3]).expect("the file is cut");
    let refused = predict(&["--artifact", &path]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("is no artifact") && said.contains("no safetensors file"), "{said}");
    assert_eq!(refused.stdout, b"");
}

#[test]
fn a_pruned_trial_says_what_it_kept_and_predicts_with_it() {
    let cluster = Cluster::start(&[]);
    for method in [
        r#""method": "e2vpt", "prompt_length": 4, "kv_prompt_length": 2, "segments": 8, "segment_ratio": 0.5, "pruning_ratio": 0.5"#,
        r#""method": "e2vpt", "prompt_length": 4, "kv_prompt_length": 2, "fidelity": "code", "pruning_ratio": 0.5"#,
        r#""method": "condense", "prompt_length": 3, "pruning_ratio": 0.7"#,
    ] {
        let file = format!(
            r#"{{"backbone": "tiny", "task": "test/shades", "image_size": 32, "batch_size": 8, "lr": 0.05, "epochs": 2,
            "seed": 1, "split": {{"train": "train", "eval": "val", "test": "test"}},
            "rewind_schedule": {{"epochs": 3}}, {method}}}"#
        );
        let path = cluster.train_to(&file, "pruned.safetensors");
        let output = predict(&["--artifact", &path]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let csv = String::from_utf8(output.stdout).expect("UTF-8");
        let tuned = worker::trainer::Tuned::decode(&std::fs::read(&path).expect("the artifact"))
            .expect("an artifact");
        assert_eq!(accuracy(&csv), tuned.metrics["test/top1"], "{method}");
        let size = |name: &str| tuned.tensors.get(name).map(tch::Tensor::size).unwrap_or_default();
        let metric = |name: &str| tuned.metrics[name];
        if method.contains("code") {
            // Masked, not taken out.
            assert_eq!((size("prompt"), size("pruned.tokens")), (vec![4, 4, 128], vec![2]));
        } else if method.contains("e2vpt") {
            assert_eq!((size("prompt"), metric("prompts/tokens")), (vec![4, 2, 128], 2.0));
            assert_eq!((size("importance.piece"), metric("prompts/segments")), (vec![4, 8], 4.0));
            // 4 blocks of 2 tokens of half of 128, 2 key-value prompts a block, and the head.
            assert_eq!(metric("params/effective"), f64::from(4 * 2 * 64 + 4 * 2 * 128 + 2 * 129));
        } else {
            // 12 tokens in all, 8 of which go, from wherever they matter least.
            assert_eq!((size("pruned.counts"), size("pruned.tokens")), (vec![4], vec![4]));
            assert_eq!((size("importance.token"), metric("prompts/tokens")), (vec![4, 3], 1.0));
        }
        assert!(
            tuned.metrics.contains_key("dense/top1") && tuned.metrics.contains_key("pruned/loss"),
            "{method}"
        );
    }
}

#[test]
fn rewinding_to_init_goes_back_to_the_very_values_of_the_start() {
    let cluster = Cluster::start(&[]);
    let prompt = |name: &str, method: &str| {
        // Nothing moves at a rate of 0: what the trial ends with is what it started from.
        let file = format!(
            r#"{{"backbone": "tiny", "task": "test/shades", "image_size": 32, "batch_size": 8, "lr": 0, "epochs": 1,
            "seed": 3, "split": {{"train": "train", "eval": "val", "test": null}}, "prompt_length": 4, {method}}}"#
        );
        let path = cluster.train_to(&file, name);
        let bytes = std::fs::read(&path).expect("the artifact");
        worker::trainer::Tuned::decode(&bytes).expect("an artifact").tensors
    };
    let start = prompt("start.safetensors", r#""method": "vpt_deep""#);
    for (to, is_same) in [("init", true), ("fresh", false)] {
        let method = format!(
            r#""method": "vpt_deep", "importance": "taylor", "pruning_ratio": 0.5, "rewind_schedule": {{"to": "{to}"}}"#
        );
        let after = prompt("after.safetensors", &method);
        let rows = start["prompt"].index_select(1, &after["pruned.tokens"]); // [n, 2, D]
        assert_eq!(rows.size(), after["prompt"].size());
        assert_eq!(rows.equal(&after["prompt"]), is_same, "{to}");
    }
}
