//! Processes of one test: a coordinator on a fresh SQLite file, workers, and calls of `sweep`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;
use serde_json::Value;

use crate::home::home;

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// The exit code of `sweep` then.
const UNREACHABLE: i32 = 5;

pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    flags: Vec<String>,
    coordinator: Child,
    address: String,
    workers: Vec<Child>,
}

impl Cluster {
    /// A coordinator with these flags besides the usual ones.
    pub(crate) fn start(flags: &[&str]) -> Cluster {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let flags: Vec<String> = flags.iter().map(|&f| f.to_owned()).collect();
        let (coordinator, address) = serve(folder.path(), &flags, "127.0.0.1:0");
        Cluster { folder, flags, coordinator, address, workers: Vec::new() }
    }

    /// Starts a worker and returns its number.
    pub(crate) fn worker(&mut self, name: &str) -> usize {
        let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
        command
            .args(["start", "--name", name, "--device", "cpu", "--threads", "1", "--server", &self.server()])
            .arg("--home")
            .arg(home())
            .arg("--artifacts")
            .arg(self.folder.path().join("artifacts"));
        let log = File::options().create(true).append(true).open(self.log_of(name)).expect("a log");
        self.workers.push(command.stderr(log).stdout(Stdio::null()).spawn().expect("worker starts"));
        self.workers.len() - 1
    }

    /// A worker of this name in the place of one that has ended, and another coordinator if it has.
    pub(crate) fn look_after(&mut self, names: &[String]) {
        for (number, name) in names.iter().enumerate() {
            if self.workers[number].try_wait().expect("a state").is_some() {
                self.worker(name);
                // The last one, which was just started, takes the place.
                self.workers.swap_remove(number).wait().expect("it has ended");
            }
        }
        if self.coordinator.try_wait().expect("a state").is_some() {
            let (coordinator, _) = serve(self.folder.path(), &self.flags, &self.address);
            self.coordinator = coordinator;
        }
    }

    pub(crate) fn pid_of_worker(&self, number: usize) -> i32 {
        self.workers[number].id() as i32
    }

    pub(crate) fn pid_of_coordinator(&self) -> i32 {
        self.coordinator.id() as i32
    }

    /// What `coordinator check` says of the database.
    pub(crate) fn check(&self) {
        let mut command = Command::new(program("coordinator"));
        let url = format!("sqlite:{}", self.folder.path().join("sweeps.db").display());
        let output = command.args(["check", "--database-url", &url]).output().expect("coordinator runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    pub(crate) fn kill_worker(&mut self, number: usize) {
        self.workers[number].kill().expect("the worker is killed");
        self.workers[number].wait().expect("the worker is gone");
    }

    /// Sends the signal and waits for the worker to go; whether it went by itself.
    pub(crate) fn leave(&mut self, number: usize, signal: Signal) -> bool {
        let worker = &mut self.workers[number];
        send(Pid::from_raw(worker.id() as i32), signal).expect("the worker is there");
        worker.wait().expect("the worker is gone").success()
    }

    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_of(name)).expect("a log")
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// Until something is so.
    pub(crate) fn wait(&self, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < PATIENCE, "it does not come to be");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The process of a worker's trainer.
    pub(crate) fn trainer_of(&self, number: usize) -> i32 {
        self.trainer_if_any(number).expect("a trainer")
    }

    pub(crate) fn trainer_if_any(&self, number: usize) -> Option<i32> {
        let agent = self.workers[number].id();
        let children = std::fs::read_to_string(format!("/proc/{agent}/task/{agent}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// kill -9, and another one on the same file and address.
    pub(crate) fn restart_coordinator(&mut self) {
        self.coordinator.kill().expect("the coordinator is killed");
        self.coordinator.wait().expect("the coordinator is gone");
        let (coordinator, _) = serve(self.folder.path(), &self.flags, &self.address);
        self.coordinator = coordinator;
    }

    pub(crate) fn submit(&self, file: &str) {
        let path = self.folder.path().join("sweep.yaml");
        std::fs::write(&path, file).expect("the sweep file is written");
        self.sweep(&["submit", path.to_str().expect("UTF-8")]);
    }

    /// What `sweep plan --offline` says of a file.
    pub(crate) fn plan(&self, file: &str) -> Value {
        let path = self.folder.path().join("plan.yaml");
        std::fs::write(&path, file).expect("the sweep file is written");
        json(&self.sweep(&["plan", path.to_str().expect("UTF-8"), "--offline", "--output", "json"]))
    }

    /// Runs `sweep` and returns its standard output; it has to succeed.
    pub(crate) fn sweep(&self, args: &[&str]) -> String {
        let output = self.answered(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "sweep {args:?}: {error}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// What `sweep` printed, if it succeeded.
    pub(crate) fn try_sweep(&self, args: &[&str]) -> Option<String> {
        let output = self.command(args).output().expect("sweep runs");
        output.status.success().then(|| String::from_utf8(output.stdout).expect("UTF-8"))
    }

    /// Follows the sweep to its end.
    pub(crate) fn watch(&self) -> ExitStatus {
        self.answered(&["watch", "last"]).status
    }

    pub(crate) fn watch_to_the_end(&self) {
        assert_eq!(self.watch().code(), Some(0), "{}", self.sweep(&["show", "last"]));
    }

    /// The first event of that kind.
    pub(crate) fn wait_for(&self, kind: &str) -> Value {
        self.wait_until(|event| event["kind"] == kind)
    }

    /// The first event of that kind after another one.
    pub(crate) fn wait_for_after(&self, kind: &str, other: &Value) -> Value {
        let after = other["seq"].as_u64();
        self.wait_until(|event| event["kind"] == kind && event["seq"].as_u64() > after)
    }

    fn wait_until(&self, found: impl Fn(&Value) -> bool) -> Value {
        let mut watch = self.command(&["watch", "last", "--output", "json"]);
        let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("sweep runs");
        let lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
        let event = lines.map(|line| json(&line.expect("a line"))).find(found);
        let _ = watch.kill();
        let _ = watch.wait();
        event.expect("the event comes before the sweep ends")
    }

    /// `worker train` on the file's text; returns the final metrics.
    pub(crate) fn train(&self, file: &str) -> Value {
        let text = self.run_trial(file, &[]);
        json(text.lines().last().expect("a last line"))["final"].clone()
    }

    /// `worker train` on the file's text; returns the path of what it has tuned.
    pub(crate) fn train_to(&self, file: &str, name: &str) -> String {
        let path = self.folder.path().join(name).to_str().expect("UTF-8").to_owned();
        self.run_trial(file, &["--artifact", &path]);
        path
    }

    fn run_trial(&self, file: &str, args: &[&str]) -> String {
        let path = self.folder.path().join("trial.json");
        File::create(&path).and_then(|mut f| f.write_all(file.as_bytes())).expect("the trial is written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
        command
            .args(["train", "--device", "cpu", "--threads", "1", "--output", "json", "--home"])
            .arg(home())
            .args(args)
            .args(["--artifacts", &self.artifacts()])
            .arg(&path);
        let output = command.output().expect("worker runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The folder of the workers' artifacts.
    pub(crate) fn artifacts(&self) -> String {
        self.folder.path().join("artifacts").to_str().expect("UTF-8").to_owned()
    }

    /// What `sweep` said. With `SWEEP_FAULTS` it is run again when the coordinator did not answer, as a person would.
    fn answered(&self, args: &[&str]) -> Output {
        loop {
            let output = self.command(args).output().expect("sweep runs");
            if std::env::var_os("SWEEP_FAULTS").is_none() || output.status.code() != Some(UNREACHABLE) {
                return output;
            }
        }
    }

    fn server(&self) -> String {
        format!("http://{}", self.address)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("sweep"));
        command.args(args).env("SWEEP_SERVER", self.server()).env_remove("SWEEP_TOKEN");
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.workers.iter_mut().chain([&mut self.coordinator]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for log in ["coordinator.log", "first.log", "second.log", "only.log"] {
                if let Ok(text) = std::fs::read_to_string(self.folder.path().join(log)) {
                    eprintln!("--- {log}\n{text}");
                }
            }
        }
    }
}

/// kill -9.
pub(crate) fn kill(pid: i32) {
    send(Pid::from_raw(pid), Signal::SIGKILL).expect("the process is killed");
}

pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// A program of another package, built beside `worker`.
fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_worker")).with_file_name(name);
    assert!(
        path.is_file(),
        "`{name}` is not built; run `make test`, or `cargo build --workspace --bins` first"
    );
    path
}

fn serve(folder: &Path, flags: &[String], listen: &str) -> (Child, String) {
    let address = folder.join("address");
    let _ = std::fs::remove_file(&address);
    let log = File::options().create(true).append(true).open(folder.join("coordinator.log"));
    let mut command = Command::new(program("coordinator"));
    command.args(["serve", "--listen", listen, "--database-url"]);
    command.arg(format!("sqlite:{}", folder.join("sweeps.db").display())).arg("--address-file").arg(&address);
    // A trial must be heard of long before it ends, however fast the machine is.
    command.args(["--report-every", "100ms"]);
    command.args(flags).env_remove("SWEEP_TOKEN").stdout(Stdio::null()).stderr(log.expect("a log"));
    let mut child = command.spawn().expect("coordinator starts");
    let start = Instant::now();
    loop {
        match std::fs::read_to_string(&address) {
            Ok(text) if !text.trim().is_empty() => return (child, text.trim().to_owned()),
            _ => {}
        }
        assert!(child.try_wait().expect("a state").is_none(), "the coordinator has ended");
        assert!(start.elapsed() < PATIENCE, "the coordinator does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
}
