//! Real workers and their trainers under attack: whatever is killed or stopped, every trial ends once, in the bits of an
//! undisturbed run. `make chaos MINUTES=10`; left out of the ordinary tests for the time that it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::random_range;

use crate::cluster::{Cluster, json};
use crate::{SWEEP, scores, trials};

const WORKERS: usize = 2;
const TTL_MS: u64 = 3_000;
/// So long there is trouble for a sweep.
const ROUND: Duration = Duration::from_secs(20);

/// What a trial is, and what came of it.
type Scores = BTreeMap<(String, i64), BTreeMap<String, f64>>;

fn file(name: &str) -> String {
    let file = SWEEP.replace("end-to-end", name).replace("epochs: 100", "epochs: 60");
    format!(
        "{file}checkpoint: {{every: 1s}}\nretry: {{poison_after: null, max_attempts: 100, backoff: {{first: 1s, max: 2s}}}}\n"
    )
}

fn all_scores(cluster: &Cluster) -> Scores {
    let key = |trial: &serde_json::Value| {
        (trial["parameters"]["lr"].to_string(), trial["seed"].as_i64().expect("a seed"))
    };
    trials(cluster).iter().map(|trial| (key(trial), scores(&trial["metrics"]))).collect()
}

/// Processes that are stopped, and until when.
#[derive(Default)]
struct Stopped(Vec<(i32, Instant)>);

impl Stopped {
    fn stop(&mut self, pid: i32) {
        send(pid, Signal::SIGSTOP);
        self.0.push((pid, Instant::now() + Duration::from_millis(random_range(0..2 * TTL_MS))));
    }

    fn let_go(&mut self, now: Option<Instant>) {
        let (over, rest) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(_, until)| now.is_none_or(|now| *until <= now));
        self.0 = rest;
        let over: Vec<_> = over;
        over.into_iter().for_each(|(pid, _)| send(pid, Signal::SIGCONT));
    }
}

/// The process may have gone.
fn send(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

fn trouble(cluster: &Cluster, stopped: &mut Stopped) -> &'static str {
    let number = random_range(0..WORKERS);
    let worker = cluster.pid_of_worker(number);
    let coordinator = cluster.pid_of_coordinator();
    match (random_range(0..13), cluster.trainer_if_any(number)) {
        (0..=2, Some(trainer)) => {
            send(trainer, Signal::SIGKILL);
            "trainer killed"
        }
        (3 | 4, Some(trainer)) => {
            stopped.stop(trainer);
            "trainer stopped"
        }
        (0..=5, _) => {
            send(worker, Signal::SIGKILL);
            "worker killed"
        }
        (6 | 7, _) => {
            stopped.stop(worker);
            "worker stopped"
        }
        (8, _) => {
            send(worker, Signal::SIGTERM);
            "worker terminated"
        }
        (9, _) => {
            send(coordinator, Signal::SIGKILL);
            "coordinator killed"
        }
        (10, _) => {
            send(coordinator, Signal::SIGTERM);
            "coordinator terminated"
        }
        _ => {
            stopped.stop(coordinator);
            "coordinator stopped"
        }
    }
}

/// In peace, every trial must succeed. A program that was asked to end may still do so, and is started again.
fn come_to_the_end(cluster: &mut Cluster, names: &[String]) {
    let started = Instant::now();
    loop {
        cluster.look_after(names);
        let trials = cluster.try_sweep(&["trials", "last", "--output", "json"]);
        let trials = trials.map(|text| json(&text).as_array().expect("a list of trials").clone());
        let states: Vec<_> = trials.iter().flatten().map(|trial| trial["state"].clone()).collect();
        if !states.is_empty() && states.iter().all(|state| state == "succeeded") {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(600), "it does not end: {states:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// The ends that workers were told are accepted, as they wrote it down: no attempt's twice.
fn accepted(cluster: &Cluster, names: &[String]) -> BTreeSet<(u64, u64)> {
    let mut all = BTreeSet::new();
    for name in names {
        for line in cluster.log(name).lines().filter(|line| line.contains("end accepted")) {
            let number = |key: &str| -> u64 {
                let rest = line.split(key).nth(1).expect(line);
                rest.split_whitespace().next().and_then(|word| word.parse().ok()).expect(line)
            };
            assert!(all.insert((number("trial="), number("attempt="))), "accepted twice: {line}");
        }
    }
    all
}

#[test]
#[ignore = "takes MINUTES; make chaos"]
fn whatever_is_killed_results_are_those_of_an_undisturbed_run() {
    let minutes = std::env::var("MINUTES").ok().and_then(|text| text.parse::<f64>().ok()).unwrap_or(1.0);
    let time = Duration::from_secs_f64(minutes * 60.0 / 2.0);
    let mut calm = Cluster::start(&[]);
    calm.worker("only");
    calm.submit(&file("calm"));
    calm.watch_to_the_end();
    let expected = all_scores(&calm);
    drop(calm);

    let ttl = format!("{TTL_MS}ms");
    let mut cluster = Cluster::start(&["--lease-ttl", &ttl, "--lease-grace", "500ms"]);
    let names: Vec<String> = (0..WORKERS).map(|number| format!("w{number}")).collect();
    names.iter().for_each(|name| _ = cluster.worker(name));
    let (mut stopped, mut done) = (Stopped::default(), BTreeMap::<_, u32>::new());
    let started = Instant::now();
    let mut sweeps = 0;
    while started.elapsed() < time {
        sweeps += 1;
        cluster.submit(&file(&format!("chaos-{sweeps}")));
        let round = Instant::now();
        while round.elapsed() < ROUND {
            *done.entry(trouble(&cluster, &mut stopped)).or_default() += 1;
            std::thread::sleep(Duration::from_millis(random_range(500..3_000)));
            stopped.let_go(Some(Instant::now()));
            cluster.look_after(&names);
        }
        stopped.let_go(None);
        come_to_the_end(&mut cluster, &names);
        assert_eq!(all_scores(&cluster), expected, "sweep {sweeps}");
    }
    let accepted = accepted(&cluster, &names);
    eprintln!("{done:?}; {sweeps} sweeps of {} trials, {} ends accepted", expected.len(), accepted.len());
    cluster.check();
}
