//! A trainer process from start to death: its pipe, its last words, its end. One task a trainer; what it says and how
//! it died become events, in order, and nothing follows its death.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::death::{Death, Status};
use super::facts::Event;
use crate::protocol::ToTrainer;

/// How a trainer is started.
#[derive(Debug, Clone)]
pub struct TrainerCommand {
    pub program: PathBuf,
    pub args: Vec<OsString>,
}

/// The agent's end of a trainer. Dropping it kills the trainer.
#[derive(Debug)]
pub(super) struct Trainer {
    orders: mpsc::UnboundedSender<ToDo>,
}

#[expect(clippy::large_enum_variant, reason = "one a slot, and nearly always the large one")]
#[derive(Debug)]
enum ToDo {
    Write(ToTrainer),
    Kill,
}

/// A message is a few kilobytes; a longer line is no message.
const LINE_LIMIT: u64 = 1 << 20;
/// Lines of stderr that are kept, and how much of each.
const LAST_WORDS: usize = 20;
const WORD_LIMIT: usize = 500;
/// How long a dead trainer's pipes may stay open before they are left behind.
const PIPE_LINGER: Duration = Duration::from_secs(1);

impl Trainer {
    /// Starts a trainer. A failure to start is a death like any other.
    pub(super) fn spawn(command: &TrainerCommand, slot: usize, events: mpsc::Sender<Event>) -> Self {
        let (orders, todo) = mpsc::unbounded_channel();
        match start(command) {
            Ok(child) => {
                tracing::info!(slot, pid = child.id(), "trainer started");
                tokio::spawn(supervise(child, slot, todo, events));
            }
            Err(error) => {
                let why = format!("{}: {error}", command.program.display());
                let death = Death { status: Status::NotStarted(why), oom_killed: false, stderr: Vec::new() };
                tokio::spawn(async move { events.send(Event::Died { slot, death }).await });
            }
        }
        Self { orders }
    }

    pub(super) fn send(&self, message: ToTrainer) {
        // A trainer that is gone has told so, or will.
        let _ = self.orders.send(ToDo::Write(message));
    }

    pub(super) fn kill(&self) {
        let _ = self.orders.send(ToDo::Kill);
    }
}

fn start(command: &TrainerCommand) -> io::Result<Child> {
    let mut process = Command::new(&command.program);
    process.args(&command.args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Its own group: Ctrl-C at a terminal goes to the agent alone, and a kill reaches the trainer's own children.
    process.process_group(0).kill_on_drop(true);
    let agent = nix::unistd::getpid();
    // SAFETY: between fork and exec only prctl and getppid are called, which are async-signal-safe.
    unsafe {
        process.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The agent may have died before the line above.
            if nix::unistd::getppid() == agent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        });
    }
    process.spawn()
}

/// Passes lines on as events until the trainer is dead, then reports the death.
async fn supervise(
    mut child: Child,
    slot: usize,
    mut todo: mpsc::UnboundedReceiver<ToDo>,
    events: mpsc::Sender<Event>,
) {
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let mut stdin = child.stdin.take();
    let words = Words::default();
    let listener = child.stderr.take().map(|stderr| tokio::spawn(listen(stderr, slot, words.clone())));
    let reader = child.stdout.take().map(|stdout| tokio::spawn(read(stdout, slot, events.clone())));
    let mut kills_before = oom_kills();
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            order = todo.recv() => match order {
                Some(ToDo::Write(message)) => {
                    kills_before = oom_kills();
                    if let Some(pipe) = &mut stdin && let Err(error) = write(pipe, &message).await {
                        tracing::debug!(slot, %error, "trainer does not listen");
                    }
                }
                Some(ToDo::Kill) => kill(group),
                // The agent is gone.
                None => {
                    kill(group);
                    break child.wait().await;
                }
            },
        }
    };
    // Its own children must not outlive it: they could hold memory, a device, or the pipes.
    kill(group);
    close(reader).await;
    close(listener).await;
    let stderr = words.lock().map(|mut words| words.drain(..).collect()).unwrap_or_default();
    let death = Death { status: status_of(status), oom_killed: oom_kills() > kills_before, stderr };
    tracing::info!(slot, status = ?death.status, oom_killed = death.oom_killed, "trainer ended");
    // Nobody listens when the agent is already leaving.
    let _ = events.send(Event::Died { slot, death }).await;
}

async fn write(pipe: &mut tokio::process::ChildStdin, message: &ToTrainer) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    pipe.write_all(&line).await?;
    pipe.flush().await
}

/// Makes events of the lines on stdout. After the first line that is no message, nothing it says is trusted.
async fn read(stdout: tokio::process::ChildStdout, slot: usize, events: mpsc::Sender<Event>) {
    let mut stdout = BufReader::new(stdout);
    loop {
        let (event, garbled) = match line(&mut stdout).await {
            Ok(None) => return,
            Ok(Some(bytes)) => match serde_json::from_slice(&bytes) {
                Ok(message) => (Event::Said { slot, message }, false),
                Err(error) => {
                    let shown = shorten(&String::from_utf8_lossy(&bytes));
                    (Event::Garbled { slot, problem: format!("{error} in `{shown}`") }, true)
                }
            },
            Err(error) => (Event::Garbled { slot, problem: error.to_string() }, true),
        };
        if events.send(event).await.is_err() || garbled {
            return;
        }
    }
}

/// The next line without its end; `None` at the end of the stream.
async fn line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let length = stream.take(LINE_LIMIT).read_until(b'\n', &mut bytes).await?;
    match bytes.last() {
        None => Ok(None),
        Some(b'\n') => {
            bytes.pop();
            Ok(Some(bytes))
        }
        Some(_) if length as u64 == LINE_LIMIT => Err(io::Error::other("a line is longer than 1 MiB")),
        // Cut off in the middle: the death that follows says more.
        Some(_) => Ok(None),
    }
}

/// The last lines of stderr; shared, so that they can be read even if a stray process keeps the pipe open.
type Words = Arc<Mutex<VecDeque<String>>>;

async fn listen(stderr: ChildStderr, slot: usize, words: Words) {
    let mut stderr = BufReader::new(stderr);
    while let Ok(Some(bytes)) = line(&mut stderr).await {
        let said = shorten(&String::from_utf8_lossy(&bytes));
        tracing::debug!(slot, said, "trainer wrote to stderr");
        if let Ok(mut words) = words.lock() {
            if words.len() == LAST_WORDS {
                words.pop_front();
            }
            words.push_back(said);
        }
    }
}

/// Waits for a reader of one of the pipes, unless a stray process keeps the pipe open.
async fn close(reader: Option<JoinHandle<()>>) {
    if let Some(mut reader) = reader
        && tokio::time::timeout(PIPE_LINGER, &mut reader).await.is_err()
    {
        reader.abort();
    }
}

fn shorten(text: &str) -> String {
    text[..text.floor_char_boundary(WORD_LIMIT)].to_owned()
}

fn kill(group: Option<Pid>) {
    if let Some(group) = group {
        // ESRCH: it is gone already.
        let _ = killpg(group, Signal::SIGKILL);
    }
}

fn status_of(status: io::Result<ExitStatus>) -> Status {
    match status {
        Ok(status) => match status.signal() {
            Some(signal) => Status::Signal(signal),
            None => Status::Exit(status.code().unwrap_or(-1)),
        },
        Err(error) => Status::NotStarted(error.to_string()),
    }
}

/// How many processes the kernel has killed for memory since boot; 0 where it does not say.
fn oom_kills() -> u64 {
    let counters = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = counters.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
    count.unwrap_or(0)
}
