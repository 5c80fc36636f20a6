//! The trainer as the agent's child: runs come in on stdin, news go out on stdout.

use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::OwnedFd;

use sweeps::recipe::Recipe;

use super::device;
use super::error::TrialError;
use super::run::{Job, run};
use super::session::Session;
use crate::protocol::{FromTrainer, ToTrainer};

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
pub fn serve(session: &mut Session, mut pipe: Pipe) -> std::io::Result<()> {
    pipe.send(&FromTrainer::Ready { device: device::name(session.device()) })?;
    for line in std::io::stdin().lock().lines() {
        let ToTrainer::Run { trial, attempt, recipe, seed } =
            serde_json::from_str(&line?).map_err(std::io::Error::other)?;
        let mut lost = None;
        let outcome =
            Recipe::from_json(&recipe.to_string()).map_err(TrialError::invalid).and_then(|recipe| {
                run(&Job { recipe, seed }, session, &mut |epoch, metrics| {
                    let news = FromTrainer::Epoch { trial, attempt, epoch, metrics: metrics.clone() };
                    lost = lost.take().or(pipe.send(&news).err());
                })
            });
        if let Some(error) = lost {
            return Err(error); // the agent is gone
        }
        let news = match outcome {
            Ok(metrics) => FromTrainer::Done { trial, attempt, metrics },
            Err(TrialError { class, message }) => FromTrainer::Failed { trial, attempt, class, message },
        };
        pipe.send(&news)?;
    }
    Ok(())
}
