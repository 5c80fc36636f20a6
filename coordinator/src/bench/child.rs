//! The coordinator under test: this very program, as a process of its own, so that what it costs can be told apart.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(60);
/// Of the times in `/proc`, on every Linux.
const TICKS_A_SECOND: f64 = 100.0;

#[derive(Debug)]
pub(super) struct Child {
    process: tokio::process::Child,
    /// What to start, but for the address.
    arguments: Vec<String>,
    folder: PathBuf,
    pub(super) address: String,
}

/// What the process has used since it started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    pub(super) cpu: Duration,
    pub(super) peak_mib: u64,
}

impl Child {
    pub(super) async fn start(database: &str, ttl: Duration, folder: &Path) -> anyhow::Result<Self> {
        let ttl = format!("{}ms", ttl.as_millis());
        let arguments = ["serve", "--database-url", database, "--lease-ttl", &ttl, "--log-format", "json"];
        let arguments: Vec<String> = arguments.map(str::to_owned).into();
        let process = spawn(&arguments, "127.0.0.1:0", folder)?;
        let mut child = Self { process, arguments, folder: folder.to_owned(), address: String::new() };
        child.address = child.wait_for_address().await?;
        Ok(child)
    }

    /// Kills it, starts it at the same address, and gives the time until it answers.
    pub(super) async fn restart(&mut self) -> anyhow::Result<Duration> {
        self.process.kill().await.context("the coordinator cannot be killed")?;
        let started = Instant::now();
        self.process = spawn(&self.arguments, &self.address, &self.folder)?;
        self.wait_for_address().await?;
        self.channel().await?;
        Ok(started.elapsed())
    }

    async fn wait_for_address(&mut self) -> anyhow::Result<String> {
        let started = Instant::now();
        loop {
            if let Ok(address) = std::fs::read_to_string(self.folder.join("address")) {
                return Ok(address);
            }
            if let Some(status) = self.process.try_wait()? {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                bail!("the coordinator ended at once ({status}): {}", log.lines().last().unwrap_or_default());
            }
            if started.elapsed() > PATIENCE {
                bail!("the coordinator did not start within {} s", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) async fn channel(&self) -> anyhow::Result<Channel> {
        connect(&self.address).await
    }

    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.process.id().context("the coordinator has ended")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("no /proc/PID/stat")?;
        // After the name, which may hold spaces: the 12th and 13th are the times of user and system.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("no /proc/PID/status")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak_kib: u64 = peak
            .and_then(|text| text.trim().strip_suffix(" kB"))
            .and_then(|kib| kib.parse().ok())
            .unwrap_or(0);
        Ok(Usage { cpu: Duration::from_secs_f64(ticks as f64 / TICKS_A_SECOND), peak_mib: peak_kib / 1024 })
    }

    /// Asks it to stop, and gives the number of commits that it says it has made since its last start.
    pub(super) async fn stop(mut self) -> anyhow::Result<u64> {
        let pid = self.process.id().context("the coordinator has ended")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        tokio::time::timeout(PATIENCE, self.process.wait())
            .await
            .context("the coordinator does not stop")??;
        let log = std::fs::read_to_string(self.folder.join("log"))?;
        let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap_or_default())?;
        last["fields"]["commits"].as_u64().context("the coordinator did not say how many commits it made")
    }
}

fn spawn(arguments: &[String], listen: &str, folder: &Path) -> anyhow::Result<tokio::process::Child> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    // Of the one before, if there was one.
    let _ = std::fs::remove_file(folder.join("address"));
    let log = std::fs::File::create(folder.join("log"))?;
    let mut command = Command::new(program);
    command.args(arguments).args(["--listen", listen, "--address-file"]).arg(folder.join("address"));
    command.env_remove("SWEEP_TOKEN").env_remove("RUST_LOG").env_remove("SWEEP_DATABASE_URL");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    command.spawn().context("the coordinator cannot be started")
}

pub(super) async fn connect(address: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    endpoint.connect().await.context("the coordinator cannot be reached")
}
