//! Trials that prune share the training before it, and end as if they had not.

use std::collections::BTreeMap;

use serde_json::Value;

use super::cluster::{Cluster, json};
use super::trials;

const SWEEP: &str = "
version: 1
name: NAME
search: {order: as_written}
base: {backbone: tiny, task: test/shades, method: vpt_deep, prompt_length: 4, image_size: 32, epochs: 4, batch_size: 8,
       lr: 0.05, pruning_ratio: 0.5, split: {train: train, eval: val, test: test}}
axes:
  importance: {values: [abs, leave_one_out]}
  rewind_schedule:
    values:
      - {to: fresh, epochs: 2}
      - {to: init, epochs: 3}
      - {to: {epoch: 2}, epochs: 2, lr: continue}
      - {to: {epoch: 1}, epochs: 2}
";

/// All that a trial measured, but for what it cost.
fn measured(trial: &Value) -> BTreeMap<String, Value> {
    let is_cost = |name: &str| {
        ["seconds/", "memory/"].iter().any(|cost| name.starts_with(cost)) || name == "images_per_second"
    };
    let metrics = trial["metrics"].as_object().expect("metrics").iter();
    metrics.filter(|(name, _)| !is_cost(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn points(cluster: &Cluster, trial: &Value) -> Vec<Value> {
    let page = json(&cluster.sweep(&["trial", &trial["id"].to_string(), "--output", "json"]));
    let points = page["points"].as_array().expect("points").iter();
    points.filter(|point| point["name"] != "images_per_second").cloned().collect()
}

#[test]
fn trials_that_share_a_beginning_end_as_if_they_had_not() {
    let mut cluster = Cluster::start(&[]);
    cluster.worker("only");
    let run = |name: &str, more: &str| {
        cluster.submit(&format!("{}{more}", SWEEP.replace("NAME", name)));
        cluster.watch_to_the_end();
        trials(&cluster)
    };
    let shared = run("shared", "");
    let alone = run("alone", "share_prefix: false\n");
    assert_eq!((shared.len(), alone.len()), (8, 8));
    for (shared, alone) in shared.iter().zip(&alone) {
        assert_eq!(shared["parameters"], alone["parameters"]);
        assert_eq!(measured(shared), measured(alone), "to the bit");
        assert_eq!(points(&cluster, shared), points(&cluster, alone));
    }
    // Seven of eight start where the first has come to. Of those that do not share, none does.
    assert_eq!(cluster.log("only").matches("going on from a checkpoint: 4 epochs").count(), 7);
    let plan = cluster.plan(&SWEEP.replace("NAME", "plan"));
    assert_eq!(plan["stages"][0]["shared_epochs"], 28, "{plan}");
}

#[test]
fn who_cannot_read_the_shared_beginning_trains_it() {
    let mut cluster = Cluster::start(&[]);
    let first = cluster.worker("first");
    let file = SWEEP.replace("NAME", "lost").replace("[abs, leave_one_out]", "[abs]");
    cluster.submit(&file);
    // The first is done, and nobody has started from what it has kept.
    cluster.wait_for("succeeded");
    cluster.leave(first, nix::sys::signal::Signal::SIGTERM);
    let id = json(&cluster.sweep(&["show", "last", "--output", "json"]))["sweep"]["id"].clone();
    let folder = std::path::Path::new(&cluster.artifacts()).join(id.as_str().expect("an id"));
    let is_prefix = |path: &std::path::Path| path.to_string_lossy().contains(".prefix.");
    let mut lost = 0;
    for trial in folder.read_dir().expect("the sweep's artifacts") {
        for file in trial.expect("an entry").path().read_dir().expect("a trial's artifacts") {
            let path = file.expect("an entry").path();
            if is_prefix(&path) {
                std::fs::remove_file(path).expect("it is removed");
                lost += 1;
            }
        }
    }
    assert_eq!(lost, 1);
    cluster.worker("second");
    cluster.watch_to_the_end();
    assert!(trials(&cluster).iter().all(|trial| trial["state"] == "succeeded"));
    assert!(cluster.log("second").contains("the checkpoint cannot be had, beginning anew"));
}
