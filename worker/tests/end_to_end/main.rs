//! The real programs on a real, tiny backbone: what is killed comes back, and every trial counts once.
//!
//! `make test` builds `coordinator` and `sweep` first; this package's tests find them beside `worker`.

mod artifacts;
mod chaos;
mod cluster;
mod home;
mod miniatures;
mod resume;
mod reuse;
mod segmentation;
mod shared;

use std::collections::BTreeMap;

use cluster::{Cluster, json, kill};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Four trials of a few seconds each.
const SWEEP: &str = "
version: 1
kind: sweep
name: end-to-end
objective: {metric: val/top1, at: last}
report: [test/top1]
base: {backbone: tiny, task: test/shades, image_size: 32, epochs: 100, batch_size: 8,
       split: {train: train, eval: val, test: test}}
axes:
  lr: {values: [0.01, 0.02]}
blocks:
  - {name: deep, set: {method: vpt_deep, prompt_length: 4}}
replicates: {seeds: [0, 1]}
";

fn trials(cluster: &Cluster) -> Vec<Value> {
    let all = json(&cluster.sweep(&["trials", "last", "--output", "json"]));
    all.as_array().expect("a list of trials").clone()
}

fn attempts(cluster: &Cluster, trial: &Value) -> Vec<Value> {
    let id = trial["id"].to_string();
    let detail = json(&cluster.sweep(&["trial", &id, "--output", "json"]));
    detail["attempts"].as_array().expect("a list of attempts").clone()
}

/// Each of the four trials has succeeded, and each configuration counts each of its two seeds once.
fn assert_complete(cluster: &Cluster) -> Vec<Value> {
    let trials = trials(cluster);
    assert_eq!(trials.len(), 4);
    assert!(trials.iter().all(|t| t["state"] == "succeeded"), "{trials:?}");
    let results = json(&cluster.sweep(&["results", "last", "--output", "json"]));
    let results = results.as_array().expect("a list of configurations");
    assert_eq!(results.len(), 2);
    assert!(results.iter().all(|r| r["n"] == 2 && r["trials"] == 2), "{results:?}");
    trials
}

#[test]
fn a_worker_killed_in_the_middle_of_a_trial_costs_an_attempt_and_nothing_else() {
    let mut cluster = Cluster::start(&["--lease-ttl", "2s", "--lease-grace", "500ms"]);
    let first = cluster.worker("first");
    cluster.submit(SWEEP);
    let event = cluster.wait_for("reported");
    cluster.kill_worker(first);
    cluster.worker("second");
    cluster.watch_to_the_end();

    let trials = assert_complete(&cluster);
    let lost = trials.iter().find(|t| t["id"] == event["trial"]).expect("the trial that was killed");
    let attempts = attempts(&cluster, lost);
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    assert_eq!(attempts[0]["end"], "worker_lost");
    assert_eq!(attempts[1]["end"], "succeeded");
}

#[test]
fn a_killed_trainer_and_a_killed_coordinator_lose_nothing() {
    let mut cluster = Cluster::start(&["--lease-ttl", "20s"]);
    let worker = cluster.worker("only");
    cluster.submit(SWEEP);
    let event = cluster.wait_for("reported");
    kill(cluster.trainer_of(worker));
    let next = cluster.wait_for_after("leased", &event);
    let running = cluster.wait_for_after("reported", &next);
    cluster.restart_coordinator();
    cluster.watch_to_the_end();

    let trials = assert_complete(&cluster);
    let by_id = |id: &Value| trials.iter().find(|t| &t["id"] == id).expect("the trial");
    let killed = attempts(&cluster, by_id(&event["trial"]));
    assert_eq!(killed[0]["end"], "preempted", "{killed:?}");
    // The lease outlived the restart: what ran went on.
    let attempt = running["attempt"].as_u64().expect("an attempt");
    let survivor = &attempts(&cluster, by_id(&running["trial"]))[attempt as usize - 1];
    assert_eq!(survivor["end"], "succeeded", "{survivor:?}");
}

/// With a learning rate of 0 nothing changes: what goes on from a tuned trial scores as that trial did in the end.
#[test]
fn a_stage_goes_on_from_what_the_one_before_has_tuned() {
    let mut cluster = Cluster::start(&[]);
    cluster.worker("only");
    let stages = "
stages:
  - {name: tune, split: {train: train, eval: val}}
  - {name: more, from: {stage: tune}, start: artifact, set: {lr: 0, epochs: 1}}
  - {name: fresh, from: {stage: tune}, set: {lr: 0, epochs: 1}}
";
    let file = SWEEP.replace("epochs: 100", "epochs: 6").replace("seeds: [0, 1]", "seeds: [0]");
    cluster.submit(&format!("{}{stages}", file.replace("report: [test/top1]\n", "")));
    cluster.watch_to_the_end();
    let trials = trials(&cluster);
    let loss = |stage: &str| -> Vec<f64> {
        let of_stage = trials.iter().filter(|trial| trial["stage"] == stage);
        of_stage.map(|trial| trial["metrics"]["val/loss"].as_f64().expect("a loss")).collect()
    };
    let (tuned, more, fresh) = (loss("tune"), loss("more"), loss("fresh"));
    assert_eq!((tuned.len(), more.len(), fresh.len()), (2, 1, 1));
    assert!(tuned.contains(&more[0]), "{tuned:?} {more:?}");
    assert!(!tuned.contains(&fresh[0]), "{tuned:?} {fresh:?}");
    // A captured trial carries what it starts from.
    let trial = trials.iter().find(|trial| trial["stage"] == "more").expect("a trial");
    let file = cluster.sweep(&["capture", &trial["id"].to_string()]);
    assert!(json(&file)["start"].is_string(), "{file}");
    assert_eq!(scores(&trial["metrics"]), scores(&cluster.train(&file)));
}

/// The protocol of E²VPT with one setting and two candidates. The first epoch of a candidate has a learning rate of 0: what
/// it scores and prunes is what the stage before has tuned.
#[test]
fn candidates_are_pruned_from_what_was_tuned() {
    let mut cluster = Cluster::start(&[]);
    cluster.worker("only");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../sweeps/vtab_e2vpt.yaml");
    let mut submit = vec!["submit", file];
    for change in [
        "base={backbone: tiny, method: e2vpt, prompt_length: 4, kv_prompt_length: 2, image_size: 32, epochs: 4, batch_size: 8, \
         schedule: {name: cosine, warmup_epochs: 1, warmup: vpt}}",
        "axes={task: {values: [test/shades]}, lr: {values: [0.1]}}",
        "stages.tune.split={train: train, eval: val}",
        "stages.rewind.set.rewind_schedule={prune_at: 1, to: fresh, epochs: 2}",
        "stages.rewind.axes={pruning_ratio: {values: [0.25, 0.5]}, segment_ratio: {values: [0.5]}}",
        "stages.final.split={train: train, eval: val, test: test}",
        "stages.final.set.rewind_schedule={prune_at: 4, to: fresh, epochs: 2}",
        "stages.final.replicates.seeds=[42]",
    ] {
        submit.extend(["--set", change]);
    }
    cluster.sweep(&submit);
    cluster.watch_to_the_end();
    let trials = trials(&cluster);
    let of = |stage: &str, metric: &str| -> Vec<f64> {
        let of_stage = trials.iter().filter(|trial| trial["stage"] == stage);
        of_stage.map(|trial| trial["metrics"][metric].as_f64().expect("a score")).collect()
    };
    let scored = of("score", "val/loss");
    assert_eq!(of("rewind", "dense/loss"), [scored[0], scored[0]]);
    assert_eq!((of("final", "test/top1").len(), of("tune", "val/top1").len()), (1, 1));
}

/// The miniature of the paper's protocol, on the backbone and the images of these tests.
#[test]
fn a_protocol_runs_from_tuning_to_test() {
    let mut cluster = Cluster::start(&[]);
    cluster.worker("only");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../sweeps/demo_vpt.yaml");
    let mut submit = vec!["submit", file];
    for change in [
        "base.backbone=tiny",
        "base.image_size=32",
        "base.insertion_depth=1",
        "base.epochs=3",
        "axes.task.values=[test/shades]",
        "stages.tune.split={train: train, eval: val}",
        "stages.final.split={train: train, eval: val, test: test}",
    ] {
        submit.extend(["--set", change]);
    }
    cluster.sweep(&submit);
    cluster.watch_to_the_end();

    let (tuned, last): (Vec<Value>, Vec<Value>) =
        trials(&cluster).into_iter().partition(|trial| trial["stage"] == "tune");
    assert_eq!((tuned.len(), last.len()), (8, 2));
    assert!(tuned.iter().all(|trial| trial["metrics"]["test/top1"].is_null()), "tuning sees no test images");
    let rank = |trial: &&Value| {
        let score = trial["objective"].as_f64().expect("a score");
        let lr = trial["parameters"]["lr"].as_f64().expect("a rate");
        // The score, then the smaller rate, then the order of the file, which is that of ids.
        ((score * 1e6) as i64, (-lr * 1e6) as i64)
    };
    let best = tuned.iter().map(|trial| rank(&trial)).max().expect("a trial");
    let among: Vec<&Value> = tuned.iter().filter(|trial| rank(trial) == best).collect();
    for trial in &last {
        assert!(among.iter().any(|tuned| tuned["parameters"] == trial["parameters"]), "{trial}");
        assert!(trial["metrics"]["test/top1"].is_number(), "{trial}");
    }
    assert_eq!(last.iter().map(|trial| trial["seed"].as_i64()).collect::<Vec<_>>(), [Some(42), Some(44)]);
}

#[test]
fn a_drained_trial_goes_on_elsewhere_to_the_same_result() {
    let mut cluster = Cluster::start(&[]);
    let first = cluster.worker("first");
    cluster.submit(&SWEEP.replace("seeds: [0, 1]", "seeds: [0]").replace("[0.01, 0.02]", "[0.01]"));
    let event = cluster.wait_for("reported");
    assert!(cluster.leave(first, Signal::SIGTERM), "the worker leaves in good order");
    let id = event["trial"].to_string();
    let checkpoint = json(&cluster.sweep(&["trial", &id, "--output", "json"]))["checkpoint"].clone();
    assert!(
        checkpoint.as_str().is_some_and(|url| url.ends_with("attempt-1.checkpoint.safetensors")),
        "{checkpoint}"
    );
    cluster.worker("second");
    cluster.watch_to_the_end();

    let trial = trials(&cluster).remove(0);
    let attempts = attempts(&cluster, &trial);
    assert_eq!((&attempts[0]["end"], &attempts[1]["end"]), (&"drained".into(), &"succeeded".into()));
    assert!(cluster.log("second").contains("going on from a checkpoint"));
    assert_eq!(scores(&trial["metrics"]), scores(&cluster.train(&cluster.sweep(&["capture", &id]))));
}

#[test]
fn a_killed_trial_goes_on_from_its_last_checkpoint() {
    let mut cluster = Cluster::start(&["--lease-ttl", "2s", "--lease-grace", "500ms"]);
    let first = cluster.worker("first");
    let file = SWEEP.replace("seeds: [0, 1]", "seeds: [0]").replace("[0.01, 0.02]", "[0.01]");
    cluster.submit(&format!("{}checkpoint: {{every: 1s}}\n", file.replace("epochs: 100", "epochs: 400")));
    let event = cluster.wait_for("reported");
    let id = event["trial"].to_string();
    cluster.wait(|| json(&cluster.sweep(&["trial", &id, "--output", "json"]))["checkpoint"].is_string());
    cluster.kill_worker(first);
    cluster.worker("second");
    cluster.watch_to_the_end();
    let trial = trials(&cluster).remove(0);
    assert_eq!(trial["attempt"], 2);
    assert!(cluster.log("second").contains("going on from a checkpoint"));
    assert_eq!(scores(&trial["metrics"]), scores(&cluster.train(&cluster.sweep(&["capture", &id]))));
}

#[test]
fn a_captured_trial_gives_the_same_bits_again() {
    let mut cluster = Cluster::start(&[]);
    cluster.worker("only");
    cluster.submit(&SWEEP.replace("epochs: 100", "epochs: 12"));
    cluster.watch_to_the_end();
    let trials = assert_complete(&cluster);
    let trial = &trials[2];
    let file = cluster.sweep(&["capture", &trial["id"].to_string()]);
    let again = cluster.train(&file);
    assert!(scores(&trial["metrics"]).len() >= 11, "{trial}");
    assert_eq!(scores(&trial["metrics"]), scores(&again));
}

/// The metrics that are the same wherever and whenever a trial runs.
fn scores(metrics: &Value) -> BTreeMap<String, f64> {
    let kinds = ["train/", "val/", "test/", "params/"];
    let all = metrics.as_object().expect("metrics").iter();
    let kept = all.filter(|(name, _)| kinds.iter().any(|kind| name.starts_with(kind)));
    kept.map(|(name, value)| (name.clone(), value.as_f64().expect("a number"))).collect()
}

#[test]
fn a_corrupt_image_fails_its_trials_by_name_and_stops_nothing_else() {
    let mut cluster = Cluster::start(&[]);
    cluster.worker("only");
    let tasks = SWEEP
        .replace("epochs: 100", "epochs: 2")
        .replace("task: test/shades, ", "")
        .replace("axes:", "axes:\n  task: {values: [test/corrupt, test/shades]}");
    cluster.submit(&tasks.replace("seeds: [0, 1]", "seeds: [0]"));
    assert_eq!(cluster.watch().code(), Some(10));
    for trial in trials(&cluster) {
        match trial["parameters"]["task"].as_str() {
            Some("test/shades") => assert_eq!(trial["state"], "succeeded"),
            _ => {
                assert_eq!((&trial["state"], &trial["failure"]), (&"failed".into(), &"bad_data".into()));
                let message = trial["message"].as_str().unwrap_or_default();
                assert!(message.contains("images/train/0003.png"), "{message}");
                assert_eq!(trial["attempt"], 1);
            }
        }
    }
}

#[test]
fn a_diverged_trial_is_a_scored_end_and_is_not_tried_again() {
    let mut cluster = Cluster::start(&[]);
    cluster.worker("only");
    // One step an epoch: the training loss is still finite when the weights are not.
    let file = SWEEP.replace("epochs: 100, batch_size: 8", "epochs: 2, batch_size: 16");
    cluster.submit(&file.replace("[0.01, 0.02]", "[0.01, 1.0e+30]"));
    cluster.watch_to_the_end();
    for trial in trials(&cluster) {
        if trial["parameters"]["lr"] == 0.01 {
            assert_eq!(trial["state"], "succeeded", "{trial}");
        } else {
            assert_eq!(
                (&trial["state"], &trial["failure"]),
                (&"failed".into(), &"diverged".into()),
                "{trial}"
            );
            assert_eq!(trial["attempt"], 1);
        }
    }
}
