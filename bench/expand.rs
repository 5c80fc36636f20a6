//! How long it takes to expand a sweep file, in CPU time, and what memory a large one costs: `make bench-expand`.

use sweeps::Spec;

const ROUNDS: usize = 7;

/// A million configurations on three axes.
const MILLION: &str = "
version: 1
name: million
base: {backbone: vit_b16, task: t, method: linear}
axes:
  lr: {range: {min: 1e-4, max: 1, scale: log, num: 100}}
  wd: {range: {min: 0, max: 1, num: 100}}
  batch_size: {range: {min: 1, max: 100, step: 1, type: int}}
";

#[allow(clippy::print_stdout, reason = "a benchmark's table")]
fn main() {
    let vtab = include_str!("../sweeps/vtab_vpt.yaml");
    let mut runs: Vec<Run> = (0..ROUNDS).map(|_| expand(vtab)).collect();
    runs.sort_by(|a, b| a.read.total_cmp(&b.read));
    println!("vtab_vpt.yaml (median of {ROUNDS}): {}", runs[ROUNDS / 2].text());
    println!("a million: {}, {} MiB of memory at most", expand(MILLION).text(), peak_mib());
}

/// What an expansion took, in seconds of one CPU.
struct Run {
    trials: usize,
    /// To read the file, check every configuration and take out what is the same.
    read: f64,
    /// To make every configuration of the first stage, one at a time.
    made: f64,
}

impl Run {
    fn text(&self) -> String {
        let Run { trials, read, made } = self;
        format!("{trials} trials expanded in {:.1} ms, made in {:.1} ms more", 1e3 * read, 1e3 * made)
    }
}

fn expand(text: &str) -> Run {
    let start = cpu_seconds();
    let spec = Spec::parse("bench", text, &[]).unwrap_or_else(|errors| panic!("{errors}"));
    let read = cpu_seconds();
    let bytes: usize = spec.configurations().map(|configuration| configuration.hash.len()).sum();
    assert_eq!(bytes, 64 * spec.configuration_count());
    Run { trials: spec.trial_count(), read: read - start, made: cpu_seconds() - read }
}

/// Of this thread, whatever else the machine does meanwhile.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    nanoseconds.expect("a kernel that counts the time of threads") / 1e9
}

/// The most memory that this process has ever had.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
    kib / 1024
}
