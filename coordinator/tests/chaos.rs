//! Real processes, killed and stopped at random: coordinators, workers, and Postgres itself. Judged from the database
//! and from what each worker process wrote down by itself.
//!
//! `make chaos MINUTES=10` runs it on both databases; it is left out of the ordinary tests for the time that it takes.

#[path = "support/disk.rs"]
mod disk;
#[path = "support/proxy.rs"]
mod proxy;
mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use disk::Disk;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::v1;
use proto::v1::sweeps_client::SweepsClient;
use proto::v1::workers_client::WorkersClient;
use proxy::{Held, Proxy};
use support::dice::Dice;
use support::postgres::Cluster;
use tonic::transport::{Channel, Endpoint};

const WORKERS: usize = 6;
const SLOTS: u32 = 2;
const TTL: Duration = Duration::from_secs(3);
const FILE: &str = "\
version: 1
name: chaos
base: {backbone: tiny, task: digits, method: linear, epochs: 1}
axes: {lr: {range: {min: 1, max: 300, num: 300}}}
retry: {poison_after: null}
";

/// The result that this attempt, and no other, has.
fn value(trial: i64, attempt: u32) -> f64 {
    trial as f64 * 1_000.0 + f64::from(attempt)
}

fn channel(server: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{server}")).unwrap();
    // A connection that is held half-open is given up, as the agent gives it up.
    let second = Duration::from_secs(1);
    endpoint
        .timeout(5 * second)
        .connect_timeout(second)
        .http2_keep_alive_interval(second)
        .keep_alive_timeout(second)
        .connect_lazy()
}

/// A worker process: this test binary, started again with `CHAOS_SERVER` set. It ends when it is killed.
#[tokio::test]
#[ignore = "the body of a worker process of the other test"]
async fn worker_process() {
    let Ok(server) = std::env::var("CHAOS_SERVER") else { return };
    let ledger = PathBuf::from(std::env::var_os("CHAOS_LEDGER").unwrap());
    let mut ledger = File::options().create(true).append(true).open(ledger).unwrap();
    let mut client = WorkersClient::new(channel(&server));
    let mut dice = Dice(u64::from(std::process::id()));
    let capabilities = v1::Capabilities {
        backbones: vec![v1::Backbone { name: "tiny".into(), depth: 12, dim: 32, ..Default::default() }],
        tasks: vec![v1::Task {
            name: "digits".into(),
            classes: 10,
            splits: ["train800", "val200", "test"].map(str::to_owned).into(),
        }],
        methods: vec!["linear".into()],
        ..Default::default()
    };
    let register = v1::RegisterRequest {
        instance: format!("{}.{}", std::process::id(), rand::random::<u64>()),
        name: "chaos".into(),
        capabilities: Some(capabilities),
        slots: SLOTS,
    };
    let id = loop {
        match client.register(register.clone()).await {
            Ok(reply) => break reply.into_inner().worker_id,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    for request in 0_u64.. {
        let sent = Instant::now();
        let lease = v1::LeaseRequest {
            worker_id: id.clone(),
            request: request.to_string(),
            max: SLOTS,
            wait_ms: 500,
            warm: Vec::new(),
        };
        let Ok(leased) = client.lease(lease).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let assignments = leased.into_inner().assignments;
        if assignments.is_empty() || sent.elapsed() > TTL / 2 {
            continue;
        }
        tokio::time::sleep(Duration::from_millis(dice.below(400) as u64)).await;
        let end = |row: &v1::Assignment| v1::End {
            token: Some(v1::Token { trial_id: row.trial_id, attempt: row.attempt }),
            how: Some(v1::end::How::Success(v1::Success {
                metrics: [("val/top1".to_owned(), value(row.trial_id, row.attempt))].into(),
                ..Default::default()
            })),
            ..Default::default()
        };
        let finish = v1::FinishRequest { worker_id: id.clone(), ends: assignments.iter().map(end).collect() };
        // As the agent does, until there is an answer.
        let verdicts = loop {
            match client.finish(finish.clone()).await {
                Ok(reply) => break reply.into_inner().verdicts,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        for verdict in verdicts {
            let v1::Token { trial_id, attempt } = verdict.token.unwrap();
            let word = match verdict.outcome() {
                v1::verdict::Outcome::Accepted => "accepted",
                _ => "fenced",
            };
            // One write: a line is there whole, or not at all.
            ledger.write_all(format!("{trial_id} {attempt} {word}\n").as_bytes()).unwrap();
        }
    }
}

/// A process that is started again whenever it is killed.
struct Victim {
    command: Box<dyn Fn() -> Command>,
    process: Child,
    stopped_until: Option<Instant>,
}

impl Victim {
    fn start(command: impl Fn() -> Command + 'static) -> Self {
        let process = command().spawn().unwrap();
        Self { command: Box::new(command), process, stopped_until: None }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        let _ = kill(pid, signal);
    }

    fn stop_for(&mut self, time: Duration) {
        self.signal(Signal::SIGSTOP);
        self.stopped_until = Some(Instant::now() + time);
    }

    /// Lets it go on when its time has come, and starts it again when it has ended.
    fn look_after(&mut self) {
        if self.stopped_until.is_some_and(|until| until <= Instant::now()) {
            self.signal(Signal::SIGCONT);
            self.stopped_until = None;
        }
        if self.process.try_wait().unwrap().is_some() {
            self.process = (self.command)().spawn().unwrap();
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn coordinator(url: String, address: String) -> impl Fn() -> Command {
    move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        let ttl = format!("{}ms", TTL.as_millis());
        command.args(["serve", "--listen", &address, "--database-url", &url]);
        command.args(["--lease-ttl", &ttl, "--lease-grace", "500ms"]);
        command.env_remove("SWEEP_TOKEN").stdin(Stdio::null()).stderr(Stdio::null());
        command
    }
}

fn worker(server: String, ledger: PathBuf) -> impl Fn() -> Command {
    move || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "worker_process"]);
        command.env("CHAOS_SERVER", &server).env("CHAOS_LEDGER", &ledger);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

/// A port that was free a moment ago.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn submit(server: &str, number: u32) -> Option<String> {
    let request =
        v1::SubmitRequest { file: FILE.to_owned(), key: format!("chaos {number}"), ..Default::default() };
    let reply = SweepsClient::new(channel(server)).submit(request).await;
    reply.ok().map(|reply| reply.into_inner().sweep_id)
}

/// How many trials of a sweep wait or run; `None` when nobody answers.
async fn left(server: &str, sweep: &str) -> Option<u64> {
    let request = v1::GetRequest { sweep: sweep.to_owned() };
    let reply = SweepsClient::new(channel(server)).get(request).await.ok()?.into_inner();
    let counts = reply.sweep?.counts?;
    Some(counts.queued + counts.running)
}

/// What lasts for a while and is then over.
#[derive(Debug, Default)]
struct Until(Option<Instant>);

impl Until {
    fn is_over(&mut self) -> bool {
        self.0.take_if(|until| *until <= Instant::now()).is_some()
    }
}

/// What keeps the database, and what can happen to it.
enum Keeper {
    /// SQLite on a small disk, which is full now and then.
    Disk(Disk),
    Postgres(Cluster),
}

/// Trouble for so long on one database.
async fn wreak(url: &str, keeper: &Keeper, folder: &Path, time: Duration) {
    let coordinators = if matches!(keeper, Keeper::Postgres(_)) { 2 } else { 1 };
    let servers: Vec<String> = (0..coordinators).map(|_| free_address()).collect();
    let mut coordinators: Vec<Victim> =
        servers.iter().map(|server| Victim::start(coordinator(url.to_owned(), server.clone()))).collect();
    let (mut workers, mut ways) = (Vec::new(), Vec::new());
    for number in 0..WORKERS {
        let way = Proxy::start(servers[number % servers.len()].clone()).await;
        workers.push(Victim::start(worker(way.address.clone(), folder.join(format!("ledger-{number}")))));
        ways.push((way, Until::default()));
    }
    let mut full = Until::default();
    let mut dice = Dice(rand::random());
    let mut done: BTreeMap<&str, u32> = BTreeMap::new();
    let mut sweeps: Vec<String> = Vec::new();
    let started = Instant::now();
    while started.elapsed() < time {
        let is_dry = match sweeps.last() {
            Some(sweep) => left(&servers[0], sweep).await.is_some_and(|left| left < 50),
            None => true,
        };
        if is_dry {
            sweeps.extend(submit(&servers[0], sweeps.len() as u32).await);
        }
        tokio::time::sleep(Duration::from_millis(200 + dice.below(600) as u64)).await;
        coordinators.iter_mut().chain(&mut workers).for_each(Victim::look_after);
        ways.iter_mut()
            .filter_map(|(way, until)| until.is_over().then_some(way))
            .for_each(|way| way.hold(Held::Nothing));
        if let Keeper::Disk(disk) = keeper
            && full.is_over()
        {
            disk.make_room();
        }
        let worker = dice.below(WORKERS as i64) as usize;
        let server = dice.below(servers.len() as i64) as usize;
        let a_while = Duration::from_millis(dice.below(3 * TTL.as_millis() as i64) as u64);
        let what = match (dice.below(15), keeper) {
            (0..=2, _) => {
                workers[worker].signal(Signal::SIGKILL);
                "worker killed"
            }
            (3..=6, _) => {
                workers[worker].stop_for(a_while);
                "worker stopped"
            }
            (7, _) => {
                workers[worker].signal(Signal::SIGTERM);
                "worker terminated"
            }
            (8, _) => {
                coordinators[server].signal(Signal::SIGKILL);
                "coordinator killed"
            }
            (9, _) => {
                coordinators[server].signal(Signal::SIGTERM);
                "coordinator terminated"
            }
            (10, Keeper::Postgres(cluster)) => {
                cluster.crash();
                cluster.start();
                "Postgres killed"
            }
            (10, Keeper::Disk(disk)) => {
                disk.fill();
                full.0 = Some(Instant::now() + a_while);
                "disk full"
            }
            (11..=13, _) => {
                ways[worker].0.hold(Held::Everything);
                ways[worker].1.0 = Some(Instant::now() + a_while);
                "connections half-open"
            }
            _ => {
                coordinators[server].stop_for(a_while);
                "coordinator stopped"
            }
        };
        *done.entry(what).or_default() += 1;
    }
    eprintln!("{done:?}, {} sweeps", sweeps.len());
    // Peace: everything must come to its end.
    ways.iter().for_each(|(way, _)| way.hold(Held::Nothing));
    if let Keeper::Disk(disk) = keeper {
        disk.make_room();
    }
    let peace = Instant::now();
    for sweep in &sweeps {
        while left(&servers[0], sweep).await != Some(0) {
            assert!(peace.elapsed() < Duration::from_secs(300), "sweep {sweep} does not end");
            coordinators.iter_mut().chain(&mut workers).for_each(Victim::look_after);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    judge(&servers[0], &sweeps, folder).await;
}

/// Every trial has a result, of the attempt that the database names; no worker was told that another counts.
async fn judge(server: &str, sweeps: &[String], folder: &Path) {
    let mut results: BTreeMap<i64, u32> = BTreeMap::new();
    for sweep in sweeps {
        let request = v1::TrialsRequest { sweep: sweep.clone(), limit: 10_000, ..Default::default() };
        for trial in SweepsClient::new(channel(server)).trials(request).await.unwrap().into_inner().trials {
            assert_eq!(trial.state(), v1::TrialState::Succeeded, "trial {}", trial.id);
            assert_eq!(trial.objective, Some(value(trial.id, trial.attempt)), "trial {}", trial.id);
            results.insert(trial.id, trial.attempt);
        }
    }
    let (mut accepted, mut fenced) = (0, 0);
    for number in 0..WORKERS {
        let ledger = std::fs::read_to_string(folder.join(format!("ledger-{number}"))).unwrap_or_default();
        for line in ledger.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let (trial, attempt): (i64, u32) = (words[0].parse().unwrap(), words[1].parse().unwrap());
            if words[2] == "accepted" {
                accepted += 1;
                assert_eq!(
                    results.get(&trial),
                    Some(&attempt),
                    "trial {trial}: another attempt was accepted too"
                );
            } else {
                fenced += 1;
            }
        }
    }
    eprintln!("{} trials, {accepted} results accepted as the ledgers say, {fenced} refused", results.len());
    assert!(accepted > 0, "the ledgers say nothing");
}

async fn wreak_and_check(name: &str, url: &str, keeper: Keeper, time: Duration) {
    eprintln!("{name}:");
    let ledgers = tempfile::tempdir().unwrap();
    wreak(url, &keeper, ledgers.path(), time).await;
    support::invariants::check(url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes MINUTES; make chaos"]
async fn processes_die_and_nothing_is_lost_or_done_twice() {
    let minutes = std::env::var("MINUTES").ok().and_then(|text| text.parse::<f64>().ok()).unwrap_or(1.0);
    let time = Duration::from_secs_f64(minutes * 60.0 / 2.0);
    let disk = Disk::new(64);
    let url = format!("sqlite:{}", disk.path().join("chaos.db").display());
    wreak_and_check("SQLite", &url, Keeper::Disk(disk), time).await;

    let cluster = tokio::task::spawn_blocking(Cluster::new).await.unwrap();
    let url = cluster.database().await;
    wreak_and_check("Postgres", &url, Keeper::Postgres(cluster), time).await;
}
