//! The command `sweep` as its users meet it: output, messages and exit codes, against a scripted coordinator.

mod support;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use proto::v1::*;
use support::{Script, Server, World, sweep};
use tonic::Status;

const ID: &str = "3f2a9c01";

fn a_sweep() -> Sweep {
    Sweep {
        id: ID.into(),
        name: "study".into(),
        state: SweepState::Active as i32,
        objective: Some(Objective { metric: "val/top1".into(), goal: "maximize".into(), at: "last".into() }),
        report: vec!["test/top1".into()],
        axes: vec!["lr".into()],
        configurations: 3,
        counts: Some(Counts { queued: 3, ..Counts::default() }),
        ..Sweep::default()
    }
}

fn a_trial(id: i64) -> Trial {
    Trial {
        id,
        sweep_id: ID.into(),
        seed: 7,
        state: TrialState::Queued as i32,
        settings_json: format!(r#"{{"lr":{id}}}"#),
        epochs: 5,
        ..Trial::default()
    }
}

fn a_world() -> World {
    World { sweeps: vec![a_sweep()], trials: (1..=3).map(a_trial).collect(), ..World::default() }
}

fn event(seq: u64, kind: EventKind, trial_id: i64) -> Event {
    let attempt = u32::from(trial_id != 0);
    Event { seq, kind: kind as i32, trial_id, attempt, ..Event::default() }
}

fn succeeded(seq: u64, trial_id: i64, top1: f64) -> Event {
    Event { metrics: [("val/top1".to_owned(), top1)].into(), ..event(seq, EventKind::Succeeded, trial_id) }
}

/// The coordinator after the sweep: what `watch` reads for its last line.
fn end_trials(world: &mut World, failed: Option<i64>) {
    for trial in &mut world.trials {
        let state = if failed == Some(trial.id) { TrialState::Failed } else { TrialState::Succeeded };
        trial.state = state as i32;
        trial.objective = (state == TrialState::Succeeded).then_some(80.0 + trial.id as f64);
        trial.failure =
            if failed == Some(trial.id) { FailureClass::CudaOom } else { FailureClass::Unspecified } as i32;
    }
    world.sweeps[0].state = SweepState::Ended as i32;
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn nobody_listening_is_5_and_says_what_to_do() {
    // A port that was free a moment ago and that nobody listens on.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let assert = sweep(&["list", "--server", &format!("127.0.0.1:{port}")]).assert().code(5);
    let stderr = text(&assert.get_output().stderr).replace(&port.to_string(), "PORT");
    assert!(stderr.starts_with("error: coordinator at http://127.0.0.1:PORT is unreachable ("), "{stderr}");
    assert!(stderr.contains("is it running? set SWEEP_SERVER"), "{stderr}");
    assert!(assert.get_output().stdout.is_empty());
}

#[test]
fn wrong_usage_is_2() {
    sweep(&["lst"]).assert().code(2);
    sweep(&["trial", "0"]).assert().code(2);
    sweep(&["list", "--server", "ftp://node:1"]).assert().code(2);
    let assert = sweep(&["list", "--output", "csv"]).assert().code(2);
    assert!(
        text(&assert.get_output().stderr)
            .contains("this verb has no output as csv; there are `table`, `json`")
    );
}

#[test]
fn what_is_not_there_is_3() {
    let server = Server::start(a_world());
    let assert = server.sweep(&["show", "nope"]).assert().code(3);
    insta::assert_snapshot!(text(&assert.get_output().stderr), @"error: no sweep `nope`; `sweep list` shows those there are");
    server.sweep(&["watch", "nope"]).assert().code(3);
    server.sweep(&["trial", "99"]).assert().code(3);
    let assert = server.sweep(&["best", "last"]).assert().code(3);
    assert!(text(&assert.get_output().stderr).contains("no trial of sweep `last` has a result yet"));
}

#[test]
fn a_coordinator_that_refuses_is_4() {
    let server = Server::start(World {
        refuse_pause: Some(Status::failed_precondition("sweep 3f2a9c01 has ended; nothing is left to pause")),
        ..a_world()
    });
    let assert = server.sweep(&["pause", "3f2a"]).assert().code(4);
    insta::assert_snapshot!(text(&assert.get_output().stderr), @"error: sweep 3f2a9c01 has ended; nothing is left to pause");
}

#[test]
fn a_missing_or_wrong_token_is_4_and_is_never_printed() {
    let server = Server::start(World { token: Some("s3cret".into()), ..a_world() });
    let assert = server.sweep(&["list"]).assert().code(4);
    assert!(text(&assert.get_output().stderr).contains("asks for a token; set SWEEP_TOKEN"));
    let assert = server.sweep(&["list"]).env("SWEEP_TOKEN", "wr0ng").assert().code(4);
    let stderr = text(&assert.get_output().stderr);
    assert!(stderr.contains("does not accept this token; check SWEEP_TOKEN"), "{stderr}");
    assert!(!stderr.contains("wr0ng"), "{stderr}");
    server.sweep(&["list"]).env("SWEEP_TOKEN", "s3cret").assert().success();
}

#[test]
fn control_says_what_is_now() {
    let server = Server::start(a_world());
    let assert = server.sweep(&["pause", "last"]).assert().success();
    insta::assert_snapshot!(text(&assert.get_output().stdout), @"sweep 3f2a9c01 study is paused: 3 queued, 0 running, 0 succeeded, 0 failed, 0 cancelled");
    server.sweep(&["resume", "last"]).assert().success();
    let assert = server.sweep(&["cancel", "last", "--output", "json"]).assert().success();
    let sweep: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).expect("json");
    assert_eq!(sweep["state"], "cancelled");
}

#[test]
fn trials_are_read_over_all_pages_and_by_state() {
    let mut world = a_world();
    world.trials[2].state = TrialState::Running as i32;
    let server = Server::start(world);
    let ids = |arguments: &[&str]| -> Vec<i64> {
        let assert = server.sweep(arguments).assert().success();
        let trials: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).expect("json");
        trials.as_array().expect("a list").iter().map(|trial| trial["id"].as_i64().expect("an id")).collect()
    };
    assert_eq!(ids(&["trials", "last", "--output", "json"]), [1, 2, 3]);
    assert_eq!(ids(&["trials", "last", "-o", "json", "--state", "running,failed"]), [3]);
}

#[test]
fn a_captured_trial_is_its_recipe_and_seed() {
    let server = Server::start(World { recipe: r#"{"lr":0.5,"method":"linear"}"#.into(), ..a_world() });
    let assert = server.sweep(&["capture", "2"]).assert().success();
    let trial: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).expect("json");
    assert_eq!(trial, serde_json::json!({"lr": 0.5, "method": "linear", "seed": 7}));
}

#[test]
fn results_are_read_over_all_pages() {
    let row = |number: u64, mean: f64| Configuration {
        number,
        settings_json: format!(r#"{{"lr":{number}}}"#),
        trials: 1,
        succeeded: 1,
        objective: Some(Statistic { mean, std: 0.0, n: 1 }),
        metrics: [("test/top1".to_owned(), Statistic { mean: mean - 5.0, std: 0.0, n: 1 })].into(),
        ..Configuration::default()
    };
    let server =
        Server::start(World { results: vec![row(1, 80.0), row(2, 90.0), row(3, 85.0)], ..a_world() });
    let assert = server.sweep(&["results", "last"]).assert().success();
    insta::assert_snapshot!(text(&assert.get_output().stdout));
    let assert = server.sweep(&["best", "last"]).assert().success();
    insta::assert_snapshot!(text(&assert.get_output().stdout));
    let assert = server.sweep(&["results", "last", "--rows", "lrr"]).assert().code(2);
    insta::assert_snapshot!(text(&assert.get_output().stderr), @"error: `lrr` is no axis of this sweep; it has `lr`, `stage`, `block`");
}

#[test]
fn a_watch_goes_on_after_the_last_event_it_heard() {
    let mut world = a_world();
    let broken = Script {
        events: vec![event(1, EventKind::Leased, 1), succeeded(2, 1, 81.0)],
        end: Err(Status::unavailable("the coordinator stops")),
        stays: false,
    };
    // Trial 1 comes again: a coordinator may repeat nothing, but a client must not count twice.
    let rest = Script {
        events: vec![
            succeeded(2, 1, 81.0),
            succeeded(3, 2, 82.0),
            succeeded(4, 3, 83.0),
            event(5, EventKind::Ended, 0),
        ],
        end: Ok(()),
        stays: false,
    };
    world.watches = VecDeque::from([broken, rest]);
    let server = Server::start(world);
    let assert = server.sweep(&["watch", "last"]).assert().success();
    assert_eq!(server.world.lock().expect("no panic").watched_after, [0, 2]);
    let stderr = text(&assert.get_output().stderr);
    assert_eq!(stderr.matches(" succeeded  val/top1").count(), 3, "{stderr}");
    assert!(stderr.contains("(the coordinator stops); trying again"), "{stderr}");
    assert!(assert.get_output().stdout.is_empty());
}

#[test]
fn a_restart_of_the_coordinator_does_not_end_a_watch() {
    let mut world = a_world();
    let first = Script { events: vec![succeeded(1, 1, 81.0)], end: Ok(()), stays: true };
    let rest = vec![succeeded(2, 2, 82.0), succeeded(3, 3, 83.0), event(4, EventKind::Ended, 0)];
    let rest = Script { events: rest, end: Ok(()), stays: false };
    world.watches = VecDeque::from([first, rest]);
    let server = Server::start(world);
    let mut watch = std::process::Command::new(env!("CARGO_BIN_EXE_sweep"))
        .args(["watch", "last", "--server", &server.address.to_string()])
        .env_remove("SWEEP_TOKEN")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(watch.stderr.take().expect("piped")).lines();
    let mut until = |words: &str| {
        let mut heard = String::new();
        while !heard.contains(words) {
            heard = lines.next().expect("still watching").expect("a line");
        }
    };
    until("[1/3] trial 1 succeeded");
    let (address, world) = server.kill();
    until("trying again");
    let server = Server::start_at(address, world);
    until("[3/3] trial 3 succeeded");
    assert!(watch.wait().expect("it ends").success());
    assert_eq!(server.world.lock().expect("no panic").watched_after, [0, 1]);
}

#[test]
fn every_outage_is_announced_though_nothing_happened_between_them() {
    let mut world = a_world();
    let quiet = Script { events: Vec::new(), end: Ok(()), stays: true };
    let events = (1..=3).map(|trial| succeeded(trial, trial as i64, 80.0));
    let events = events.chain([event(4, EventKind::Ended, 0)]).collect();
    let rest = Script { events, end: Ok(()), stays: false };
    world.watches = VecDeque::from([quiet.clone(), quiet, rest]);
    let mut server = Server::start(world);
    let watch = std::process::Command::new(env!("CARGO_BIN_EXE_sweep"))
        .args(["watch", "last", "--server", &server.address.to_string()])
        .env_remove("SWEEP_TOKEN")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    for streams in [1, 2] {
        while server.world.lock().expect("no panic").watched_after.len() < streams {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Longer than a stream must hold to count as well.
        std::thread::sleep(Duration::from_millis(5_500));
        let (address, world) = server.kill();
        server = Server::start_at(address, world);
    }
    let output = watch.wait_with_output().expect("it ends");
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr.matches("trying again").count(), 2, "{stderr}");
}

#[test]
fn an_interrupt_ends_the_watch_and_not_the_sweep() {
    let mut world = a_world();
    world.watches =
        VecDeque::from([Script { events: vec![succeeded(1, 1, 81.0)], end: Ok(()), stays: true }]);
    let server = Server::start(world);
    let mut watch = std::process::Command::new(env!("CARGO_BIN_EXE_sweep"))
        .args(["watch", "last", "--server", &server.address.to_string()])
        .env_remove("SWEEP_TOKEN")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(watch.stderr.take().expect("piped")).lines().map_while(Result::ok);
    lines.find(|line| line.contains("[1/3]")).expect("still watching");
    let kill = std::process::Command::new("kill").args(["-INT", &watch.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
    assert_eq!(watch.wait().expect("it ends").code(), Some(130));
    assert_eq!(
        lines.next().as_deref(),
        Some("stopped watching; the sweep goes on. `sweep watch 3f2a9c01` watches it again")
    );
}

#[test]
fn a_watch_of_a_sweep_with_failures_is_10() {
    let mut world = a_world();
    let failed = Event {
        failure: FailureClass::CudaOom as i32,
        message: "out of memory at batch 64".into(),
        ..event(2, EventKind::Failed, 2)
    };
    let events = vec![succeeded(1, 1, 81.0), failed, succeeded(3, 3, 83.0), event(4, EventKind::Ended, 0)];
    world.watches = VecDeque::from([Script { events, end: Ok(()), stays: false }]);
    let server = Server::start(world);
    let assert = server.sweep(&["watch", "3f2a"]).assert().code(10);
    insta::assert_snapshot!(text(&assert.get_output().stderr));
}

#[test]
fn a_sweep_that_has_ended_is_summed_up_without_a_stream() {
    let mut world = a_world();
    end_trials(&mut world, Some(3));
    let server = Server::start(world);
    let assert = server.sweep(&["watch", "last"]).assert().code(10);
    insta::assert_snapshot!(text(&assert.get_output().stderr));
    assert!(server.world.lock().expect("no panic").watched_after.is_empty());
}

#[test]
fn an_end_that_nobody_heard_is_asked_for() {
    let mut world = a_world();
    world.watches = VecDeque::from([Script { events: Vec::new(), end: Ok(()), stays: false }]);
    let server = Server::start(world);
    // The first reading says active: the sweep ends between it and the watch.
    let shared = server.world.clone();
    std::thread::spawn(move || {
        loop {
            let mut world = shared.lock().expect("no panic");
            if !world.watched_after.is_empty() {
                end_trials(&mut world, None);
                return;
            }
            world.watches.back_mut().expect("a script").events.clear();
            drop(world);
            std::thread::yield_now();
        }
    });
    server.sweep(&["watch", "last"]).assert().code(0);
}

#[test]
fn a_watch_as_json_is_a_line_per_event() {
    let mut world = a_world();
    let events = vec![
        succeeded(1, 1, 81.0),
        succeeded(2, 2, 82.0),
        succeeded(3, 3, 83.0),
        event(4, EventKind::Ended, 0),
    ];
    world.watches = VecDeque::from([Script { events, end: Ok(()), stays: false }]);
    let server = Server::start(world);
    let assert = server.sweep(&["watch", "last", "--output", "json"]).assert().success();
    let stdout = text(&assert.get_output().stdout);
    let kinds: Vec<String> = stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("json")["kind"].to_string())
        .collect();
    assert_eq!(kinds, [r#""succeeded""#, r#""succeeded""#, r#""succeeded""#, r#""ended""#]);
}

const FILE: &str = "\
version: 1
kind: sweep
name: study
objective: {metric: val/top1, goal: maximize, at: last}
base:
  backbone: vit_b16_in21k
  split: {train: train800, eval: val200, test: test}
  epochs: 5
  task: vtab/dtd
  method: linear
axes:
  lr: {values: [1, 2, 3]}
replicates: {seeds: [7]}
";

/// A folder with the sweep file above, some of its text replaced.
fn a_file(from: &str, to: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("study.yaml");
    std::fs::write(&file, FILE.replace(from, to)).expect("a file");
    let file = file.to_str().expect("a name in UTF-8").to_owned();
    (folder, file)
}

#[test]
fn a_valid_file_is_counted_without_a_coordinator() {
    let (_folder, file) = a_file("", "");
    let assert = sweep(&["validate", &file]).assert().success();
    assert_eq!(text(&assert.get_output().stdout), format!("{file} is valid: 3 configurations, 3 trials\n"));
    let set = ["--set", "replicates.seeds=[0, 1]", "--output", "json"];
    let assert = sweep(&[&["plan", &file, "--offline"], &set[..]].concat()).assert().success();
    let plan: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).expect("json");
    assert_eq!(plan["stages"][0]["configurations"], 3);
    assert_eq!(plan["stages"][0]["trials"], 6);
    assert!(plan.get("workers").is_none());
}

#[test]
fn a_wrong_file_is_2_and_says_where_before_anything_is_sent() {
    let (_folder, file) = a_file("epochs: 5", "epoch: 5");
    for verb in ["validate", "plan", "submit"] {
        let assert = sweep(&[verb, &file, "--server", "127.0.0.1:1"]).assert().code(2);
        let stderr = text(&assert.get_output().stderr);
        assert!(
            stderr.starts_with(&format!("error: `{file}` is no valid sweep file\n{file}:8:3: ")),
            "{stderr}"
        );
        assert!(stderr.contains("epochs"), "the nearest key is named: {stderr}");
    }
    let assert = sweep(&["validate", "no-such-file.yaml"]).assert().code(2);
    assert!(text(&assert.get_output().stderr).contains("failed to read the sweep file `no-such-file.yaml`"));
}

#[test]
fn a_plan_names_what_workers_lack() {
    let task =
        Task { name: "vtab/dtd".into(), classes: 47, splits: vec!["train800".into(), "val200".into()] };
    let offer = Capabilities {
        backbones: vec![Backbone { name: "vit_b16_in21k".into(), ..Backbone::default() }],
        tasks: vec![task],
        methods: vec!["linear".into()],
        ..Capabilities::default()
    };
    let worker = Worker {
        name: "gpu-01".into(),
        state: "live".into(),
        capabilities: Some(offer),
        ..Worker::default()
    };
    let server = Server::start(World { workers: vec![worker], ..a_world() });
    let (_folder, file) = a_file("", "");
    let assert = server.sweep(&["plan", &file, "--output", "json"]).assert().success();
    let plan: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).expect("json");
    assert_eq!(plan["workers"]["live"][0]["lacks"], serde_json::json!(["split test of vtab/dtd"]));
    assert_eq!(plan["workers"]["unserved"][0]["trials"], 3);
}

#[test]
fn a_quarantined_worker_says_why_and_is_released() {
    let worker = Worker {
        id: "gpu-01-abcdef".into(),
        name: "gpu-01".into(),
        state: "live".into(),
        quarantined: "trials 3, 5, 8 failed here and succeeded elsewhere".into(),
        ..Worker::default()
    };
    let server = Server::start(World { workers: vec![worker], ..a_world() });
    let assert = server.sweep(&["workers"]).assert().success();
    let listed = text(&assert.get_output().stdout);
    assert!(listed.contains("quarantined: trials 3, 5, 8 failed here"), "{listed}");
    assert!(listed.contains("sweep workers release gpu-01"), "{listed}");
    let assert = server.sweep(&["workers", "release", "gpu-01"]).assert().success();
    let released = text(&assert.get_output().stdout);
    assert!(released.contains("live") && !released.contains("quarantined"), "{released}");
    let assert = server.sweep(&["workers", "release", "gpu-02"]).assert().code(3);
    assert!(text(&assert.get_output().stderr).contains("gpu-02"));
}

#[test]
fn explain_says_what_a_trial_waits_for() {
    let explanation = ExplainResponse {
        reasons: vec!["its sweep is paused: by hand".into()],
        workers: vec![WorkerVerdict { worker: "gpu-01".into(), reasons: vec!["is draining".into()] }],
        ..ExplainResponse::default()
    };
    let server = Server::start(World { explanation, ..a_world() });
    let id = server.world.lock().expect("no panic").trials[0].id.to_string();
    let assert = server.sweep(&["explain", &id]).assert().success();
    let said = text(&assert.get_output().stdout);
    assert!(said.contains("its sweep is paused: by hand\nworker gpu-01: is draining"), "{said}");
    let assert = server.sweep(&["explain", &id, "--output", "json"]).assert().success();
    let said: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).expect("json");
    assert_eq!(said["workers"][0]["reasons"][0], "is draining");
    server.sweep(&["explain", "999999"]).assert().code(3);
}

#[test]
fn submit_prints_the_id_alone_and_is_idempotent() {
    let server = Server::start(a_world());
    let (_folder, file) = a_file("", "");
    let arguments = ["submit", &file, "--set", "base.epochs=2", "--key", "k1"];
    let assert = server.sweep(&arguments).assert().success();
    assert_eq!(text(&assert.get_output().stdout), "3f2a9c01\n");
    assert_eq!(text(&assert.get_output().stderr), "queued 3 configurations, 3 trials\n");
    let assert = server.sweep(&arguments).assert().success();
    assert_eq!(text(&assert.get_output().stdout), "3f2a9c01\n");
    assert!(text(&assert.get_output().stderr).contains("nothing was queued again"));
    let world = server.world.lock().expect("no panic");
    let sent = &world.submitted[0];
    assert_eq!((sent.file.as_str(), sent.key.as_str()), (FILE, "k1"));
    assert_eq!(sent.overrides, ["base.epochs=2"]);
    assert_eq!(sent.provenance.as_ref().expect("sent").client_version, env!("CARGO_PKG_VERSION"));
}

#[test]
fn submit_and_watch_end_with_the_code_of_the_sweep() {
    let mut world = a_world();
    let failed = Event { failure: FailureClass::BadData as i32, ..event(1, EventKind::Failed, 1) };
    let events = vec![failed, succeeded(2, 2, 1.0), succeeded(3, 3, 1.0), event(4, EventKind::Ended, 0)];
    world.watches = VecDeque::from([Script { events, end: Ok(()), stays: false }]);
    let server = Server::start(world);
    let (_folder, file) = a_file("", "");
    let assert = server.sweep(&["submit", &file, "--watch"]).assert().code(10);
    assert_eq!(text(&assert.get_output().stdout), "3f2a9c01\n");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_sweep"))
        .args(["completions", "bash"])
        .stdout(writer)
        .status()
        .expect("it starts");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn help_names_the_exit_codes() {
    let assert = sweep(&["--help"]).assert().success();
    insta::assert_snapshot!(text(&assert.get_output().stdout));
}
