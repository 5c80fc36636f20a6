//! Results of earlier trials that are taken over, by real trainers that see what they would read.

use std::path::Path;

use super::cluster::Cluster;
use super::{home, trials};

const SWEEP: &str = "
version: 1
name: NAME
base: {backbone: tiny, task: test/reused, method: vpt_deep, prompt_length: 2, image_size: 32, epochs: 2, batch_size: 8,
       lr: 0.01, split: {train: train, eval: val, test: test}}
";

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in from.read_dir().expect("a folder") {
        let (from, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).expect("an entry");
        if from.is_dir() { copy(&from, &to) } else { _ = std::fs::copy(&from, &to).expect("a copy") }
    }
}

#[test]
fn a_result_is_taken_over_as_long_as_the_images_are_the_same() {
    let datasets = home::home().join("datasets/test");
    let data = datasets.join("reused");
    copy(&datasets.join("shades"), &data);
    let mut cluster = Cluster::start(&[]);
    let first = cluster.worker("first");
    let run = |cluster: &Cluster, name: &str, more: &str| {
        cluster.submit(&format!("{}{more}", SWEEP.replace("NAME", name)));
        cluster.watch_to_the_end();
        trials(cluster)
    };
    let trained = run(&cluster, "trained", "").remove(0);
    assert!(trained["origin"].is_null());
    let [reused, other] = &run(&cluster, "again", "reuse: same_code\nreplicates: {seeds: [0, 1]}\n")[..]
    else {
        panic!("two trials");
    };
    let (reused, other) = if reused["seed"] == 0 { (reused, other) } else { (other, reused) };
    assert_eq!(reused["origin"]["trial"], trained["id"], "{reused}");
    assert_eq!(reused["metrics"], trained["metrics"], "also what it cost");
    assert!(other["origin"].is_null() && other["metrics"]["val/top1"].is_number());
    let page = cluster.sweep(&["trial", &reused["id"].to_string()]);
    assert!(page.contains(&format!("taken over from trial {}", trained["id"])), "{page}");
    let table = cluster.sweep(&["results", "last"]);
    assert!(table.contains("1 of 2 results were taken over from earlier trials"), "{table}");

    // Another image in the validation split: the recipe is the same, the result would not be.
    std::fs::copy(data.join("images/train/0009.png"), data.join("images/val/0001.png")).expect("a copy");
    cluster.leave(first, nix::sys::signal::Signal::SIGTERM);
    cluster.worker("second");
    let changed = run(&cluster, "changed", "reuse: same_code\n").remove(0);
    assert!(changed["origin"].is_null(), "{changed}");
}
