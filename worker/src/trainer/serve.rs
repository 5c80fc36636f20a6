//! The trainer as the agent's child: runs come in on stdin, news go out on stdout.

use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sweeps::recipe::Recipe;

use super::attendant::Attendant;
use super::device;
use super::error::{TrialError, chain};
use super::ran::CODE;
use super::run::{Job, Metrics, Outcome, run_from};
use super::session::Session;
use super::tuned::Tuned;
use crate::artifacts::{Artifacts, Place};
use crate::protocol::{FailureClass, FromTrainer, Reusable, ToTrainer};

/// The trainer's side of the pipe.
#[derive(Debug)]
pub struct Pipe(File);

impl Pipe {
    /// Takes stdout for the protocol and points descriptor 1 at stderr, where whatever a library prints belongs. To be
    /// called before any library is.
    pub fn claim_stdout() -> std::io::Result<Pipe> {
        let protocol: OwnedFd = nix::unistd::dup(std::io::stdout())?;
        nix::unistd::dup2_stdout(std::io::stderr())?;
        Ok(Pipe(File::from(protocol)))
    }

    fn send(&mut self, news: &FromTrainer) -> std::io::Result<()> {
        let mut line = serde_json::to_string(news).map_err(std::io::Error::other)?;
        line.push('\n');
        self.0.write_all(line.as_bytes())
    }
}

/// Serves runs until stdin closes.
pub fn serve(session: &mut Session, artifacts: &Artifacts, mut pipe: Pipe) -> std::io::Result<()> {
    pipe.send(&FromTrainer::Ready { device: device::name(session.device()) })?;
    let leaving = Arc::new(AtomicBool::new(false));
    for order in orders(&leaving) {
        let ToTrainer::Run {
            sweep,
            trial,
            attempt,
            recipe,
            seed,
            start,
            from,
            checkpoint_every_ms,
            prefix,
            keep,
            reusable,
        } = order?
        else {
            continue; // there is no run to end: that of the order before has just ended by itself
        };
        let recipe = Recipe::from_json(&recipe.to_string()).map_err(TrialError::invalid);
        let mut agent = Agent {
            pipe: &mut pipe,
            artifacts,
            place: Place { sweep, trial, attempt },
            leaving: &leaving,
            every: (checkpoint_every_ms > 0).then(|| Duration::from_millis(checkpoint_every_ms)),
            last: Instant::now(),
            keep,
            lost: None,
        };
        if let Ok(recipe) = &recipe
            && let Some(done) = agent.take_over(&reusable, recipe, session)
        {
            pipe.send(&done)?;
            continue;
        }
        let from = from.and_then(|url| agent.fetch(&url)).or_else(|| agent.fetch(&prefix?));
        let start = start.map(|url| agent.start(&url)).transpose();
        let outcome = recipe
            .and_then(|recipe| {
                run_from(&Job { recipe, seed }, start?.as_ref(), from.as_deref(), session, &mut agent)
            })
            .and_then(|outcome| agent.keep(outcome, session));
        if let Some(error) = agent.lost {
            return Err(error); // the agent is gone
        }
        pipe.send(&match outcome {
            Ok(news) => news,
            Err(TrialError { class, message }) => FromTrainer::Failed { trial, attempt, class, message },
        })?;
    }
    Ok(())
}

/// What the agent says, a line each. `Leave` is heard at once, also in the middle of a run.
fn orders(leaving: &Arc<AtomicBool>) -> mpsc::IntoIter<std::io::Result<ToTrainer>> {
    let (sender, orders) = mpsc::channel();
    let leaving = Arc::clone(leaving);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let order = line.and_then(|line| serde_json::from_str(&line).map_err(std::io::Error::other));
            if matches!(order, Ok(ToTrainer::Leave)) {
                leaving.store(true, Ordering::Relaxed);
            }
            if sender.send(order).is_err() {
                return;
            }
        }
    });
    orders.into_iter()
}

/// The agent, as a run sees it.
struct Agent<'a> {
    pipe: &'a mut Pipe,
    artifacts: &'a Artifacts,
    place: Place,
    leaving: &'a AtomicBool,
    every: Option<Duration>,
    /// The latest checkpoint, or the start.
    last: Instant,
    /// The epochs whose values are kept for others, if any wait.
    keep: Option<Vec<u32>>,
    /// Why the agent can be told nothing any more.
    lost: Option<std::io::Error>,
}

impl Agent<'_> {
    fn tell(&mut self, news: &FromTrainer) {
        self.lost = self.lost.take().or(self.pipe.send(news).err());
    }

    /// A checkpoint that cannot be had costs the work that is in it, not the trial.
    fn fetch(&mut self, url: &str) -> Option<Vec<u8>> {
        let problem = match self.artifacts.get(url) {
            Ok(bytes) => return Some(bytes),
            Err(error) => chain(&error),
        };
        self.note(&format!("the checkpoint cannot be had, beginning anew: {problem}"));
        None
    }

    /// What the trial starts from. Unlike a checkpoint there is nothing that could take its place.
    fn start(&self, url: &str) -> Result<Tuned, TrialError> {
        let problem = match self.artifacts.get(url) {
            Ok(bytes) => match Tuned::decode(&bytes) {
                Ok(tuned) => return Ok(tuned),
                Err(error) => chain(&error),
            },
            Err(error) => chain(&error),
        };
        let message = format!("what the chosen trial tuned cannot be had: {problem}");
        Err(TrialError::new(FailureClass::BadNode, message))
    }

    /// The end of a run whose result is there already, if one of `reusable` was trained on what is here. What keeps it from
    /// being told is left to the training to tell.
    fn take_over(
        &self,
        reusable: &[Reusable],
        recipe: &Recipe,
        session: &mut Session,
    ) -> Option<FromTrainer> {
        let Place { trial, attempt, .. } = self.place;
        let is_own = |code: &str| code.is_empty() || code == CODE;
        let mut reusable = reusable.iter().filter(|other| is_own(&other.code)).peekable();
        reusable.peek()?;
        let inputs = session.digest(recipe).ok()?;
        let reused = reusable.find(|other| other.inputs == inputs)?.trial;
        Some(FromTrainer::Done {
            trial,
            attempt,
            metrics: Metrics::new(),
            artifact: None,
            pruning: None,
            inputs,
            code: CODE.to_owned(),
            reused: Some(reused),
        })
    }

    /// Puts what was tuned in its place, and says how the run ended.
    fn keep(&mut self, outcome: Outcome, session: &mut Session) -> Result<FromTrainer, TrialError> {
        let Place { trial, attempt, .. } = self.place;
        let tuned = match outcome {
            Outcome::Left => return Ok(FromTrainer::Left { trial, attempt }),
            Outcome::Finished(tuned) => tuned,
        };
        let (metrics, pruning) = (tuned.metrics.clone(), tuned.pruning());
        // Not known, it is never taken over: no reason to lose it.
        let inputs = session.digest(&tuned.recipe).unwrap_or_default();
        let artifact = self.put(*tuned).map_err(|error| {
            let message = format!("the tuned tensors cannot be kept: {}", chain(error.as_ref()));
            TrialError::new(FailureClass::BadNode, message)
        })?;
        Ok(FromTrainer::Done {
            trial,
            attempt,
            metrics,
            artifact: Some(artifact),
            pruning,
            inputs,
            code: CODE.to_owned(),
            reused: None,
        })
    }

    fn put(&self, tuned: Tuned) -> Result<String, Box<dyn std::error::Error>> {
        let Place { sweep, trial, attempt } = &self.place;
        let notes =
            [("sweep", sweep.clone()), ("trial", trial.to_string()), ("attempt", attempt.to_string())];
        Ok(self.artifacts.put(&self.place.tuned(), tuned.encode(&notes)?)?)
    }
}

impl Attendant for Agent<'_> {
    fn note(&mut self, message: &str) {
        self.tell(&FromTrainer::Note { message: message.to_owned() });
    }

    fn epoch(&mut self, epoch: u32, metrics: &Metrics) {
        let Place { trial, attempt, .. } = self.place;
        self.tell(&FromTrainer::Epoch { trial, attempt, epoch, metrics: metrics.clone() });
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    fn keeps(&self) -> Option<&[u32]> {
        self.keep.as_deref()
    }

    fn share(&mut self, bytes: Vec<u8>) {
        match self.artifacts.put(&self.place.prefix(), bytes) {
            Ok(url) => {
                let Place { trial, attempt, .. } = self.place;
                self.tell(&FromTrainer::Shared { trial, attempt, url });
            }
            Err(error) => self.note(&format!("nothing is shared: {}", chain(&error))),
        }
    }

    fn is_checkpoint_due(&self) -> bool {
        self.every.is_some_and(|every| self.last.elapsed() >= every)
    }

    fn checkpoint(&mut self, bytes: Vec<u8>, _epoch: u32) {
        self.last = Instant::now();
        match self.artifacts.put(&self.place.checkpoint(), bytes) {
            Ok(url) => {
                let Place { trial, attempt, .. } = self.place;
                self.tell(&FromTrainer::Kept { trial, attempt, url });
            }
            Err(error) => self.note(&format!("no checkpoint: {}", chain(&error))),
        }
    }
}
