//! The life of a trial. Pure, and the only place that knows which command may follow which state, what an attempt's
//! end does to its trial, and when a failure is tried again. It never reads a clock and never touches a database.

use std::fmt;

use serde::{Deserialize, Serialize};

mod policy;
#[cfg(test)]
mod tests;

pub use policy::Policy;
pub use sweeps::FailureClass;

/// Milliseconds since the Unix epoch.
pub type Millis = i64;

/// An attempt that ends through no fault of its trial spends no retry, but a trial that outlived this many is poison.
pub const MAX_INTERRUPTIONS: u32 = 50;

/// Key of a trial, unique in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrialId(pub i64);

/// Key of a registered worker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub String);

/// Why an attempt was taken away from its trainer through no fault of the trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Preempted,
    Drained,
    WorkerLost,
}

/// A trial as the lifecycle sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    pub id: TrialId,
    /// Number of the latest attempt; 0 before the first. The fencing token.
    pub attempt: u32,
    /// Attempts that failed and count against `max_attempts`.
    pub failures: u32,
    /// Attempts that were taken away.
    pub interruptions: u32,
    /// Of those, attempts whose worker was lost.
    pub lost: u32,
    /// The worker on which an attempt failed last: others are asked first.
    pub failed_on: Option<WorkerId>,
    /// Last epoch reported by the latest attempt.
    pub epoch: u32,
    pub state: State,
}

/// Where a trial stands, with what belongs to that state alone.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Queued {
        not_before: Millis,
    },
    Running {
        worker: WorkerId,
    },
    Succeeded {
        at: Millis,
    },
    /// Ended by an early-stopping rule.
    Stopped {
        at: Millis,
    },
    Failed {
        class: FailureClass,
        message: String,
        at: Millis,
    },
    Cancelled {
        at: Millis,
    },
}

impl State {
    /// The state's name in the database.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Running { .. } => "running",
            Self::Succeeded { .. } => "succeeded",
            Self::Stopped { .. } => "stopped",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
        }
    }

    /// Whether the state is an end of the trial.
    pub const fn is_terminal(&self) -> bool {
        !matches!(self, Self::Queued { .. } | Self::Running { .. })
    }
}

/// Who says that it runs an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub worker: WorkerId,
    pub attempt: u32,
}

/// What may be asked of a trial.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Give the trial to a worker as a new attempt.
    Lease {
        worker: WorkerId,
    },
    /// The attempt goes on.
    Renew {
        by: Holder,
    },
    /// The attempt has ended an epoch.
    Report {
        by: Holder,
        epoch: u32,
    },
    /// The attempt has a result.
    Succeed {
        by: Holder,
    },
    Fail {
        by: Holder,
        class: FailureClass,
        message: String,
    },
    /// The worker hands the attempt back; `cause` is never `WorkerLost`.
    Interrupt {
        by: Holder,
        cause: Cause,
        message: String,
    },
    /// The lease of that attempt ran out.
    Expire {
        attempt: u32,
    },
    /// An early-stopping rule has seen enough of it.
    Stop,
    /// The user wants no more of it.
    Cancel,
    /// The user wants a failed trial tried again, as if it had never failed.
    Revive,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Leased,
    Renewed,
    Reported {
        epoch: u32,
    },
    Succeeded,
    Stopped,
    /// A failed trial is queued again.
    Revived,
    /// The attempt ended with `end` and the trial waits for another.
    Requeued {
        end: End,
    },
    /// The trial failed for good, by an attempt that ended with `end`.
    Failed {
        end: End,
    },
    /// `was_running`: an attempt lost its lease by it.
    Cancelled {
        was_running: bool,
    },
}

/// How an attempt ended without a result.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    pub how: How,
    pub message: String,
}

/// The kind of such an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Failed(FailureClass),
    Interrupted(Cause),
}

impl How {
    /// The end's name in the table of attempts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed(_) => "failed",
            Self::Interrupted(Cause::Preempted) => "preempted",
            Self::Interrupted(Cause::Drained) => "drained",
            Self::Interrupted(Cause::WorkerLost) => "worker_lost",
        }
    }

    /// The failure class, of a failure.
    pub const fn class(self) -> Option<FailureClass> {
        match self {
            Self::Failed(class) => Some(class),
            Self::Interrupted(_) => None,
        }
    }
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("cancelled")]
    Cancelled,
    #[error("stopped early")]
    Stopped,
    #[error("ended")]
    Ended,
    #[error("expired")]
    Expired,
    #[error("leased again as attempt {attempt}")]
    LeasedAgain { attempt: u32 },
    #[error("held by another worker")]
    OtherWorker,
    #[error("attempt {attempt} does not exist")]
    NoSuchAttempt { attempt: u32 },
    #[error("not before {not_before} ms")]
    TooEarly { not_before: Millis },
    #[error("a {state} trial cannot be given the command {command}")]
    Illegal { state: &'static str, command: &'static str },
}

/// Decides what `command` does to `trial` at `now`.
///
/// # Errors
/// [`Rejected`] when the trial's state does not allow it; then nothing has changed.
pub fn apply(
    trial: &Trial,
    policy: &Policy,
    command: Command,
    now: Millis,
) -> Result<(Trial, Event), Rejected> {
    use Command as C;
    use State as S;
    let next = |state| Trial { state, ..trial.clone() };
    match (&trial.state, command) {
        (S::Queued { not_before }, C::Lease { .. }) if *not_before > now => {
            Err(Rejected::TooEarly { not_before: *not_before })
        }
        (S::Queued { .. }, C::Lease { worker }) => {
            let leased = Trial { attempt: trial.attempt + 1, epoch: 0, ..next(S::Running { worker }) };
            Ok((leased, Event::Leased))
        }
        (S::Running { .. }, C::Renew { by }) => {
            check_holder(trial, &by)?;
            Ok((trial.clone(), Event::Renewed))
        }
        (S::Running { .. }, C::Report { by, epoch }) => {
            check_holder(trial, &by)?;
            let epoch = epoch.max(trial.epoch);
            Ok((Trial { epoch, ..trial.clone() }, Event::Reported { epoch }))
        }
        (S::Running { .. }, C::Succeed { by }) => {
            check_holder(trial, &by)?;
            Ok((next(S::Succeeded { at: now }), Event::Succeeded))
        }
        (S::Running { .. }, C::Fail { by, class, message }) => {
            check_holder(trial, &by)?;
            Ok(policy.after_failure(trial, class, message, now))
        }
        (S::Running { .. }, C::Interrupt { by, cause, message }) => {
            check_holder(trial, &by)?;
            Ok(policy.after_interruption(trial, cause, message, now))
        }
        (S::Running { worker }, C::Expire { attempt }) if attempt == trial.attempt => {
            let message = format!("worker {} was not heard of for a lease", worker.0);
            Ok(policy.after_interruption(trial, Cause::WorkerLost, message, now))
        }
        (S::Running { .. }, C::Stop) => Ok((next(S::Stopped { at: now }), Event::Stopped)),
        (S::Failed { .. }, C::Revive) => {
            let state = S::Queued { not_before: now };
            let fresh = Trial { failures: 0, interruptions: 0, lost: 0, failed_on: None, ..next(state) };
            Ok((fresh, Event::Revived))
        }
        (S::Queued { .. }, C::Cancel) => {
            Ok((next(S::Cancelled { at: now }), Event::Cancelled { was_running: false }))
        }
        (S::Running { .. }, C::Cancel) => {
            Ok((next(S::Cancelled { at: now }), Event::Cancelled { was_running: true }))
        }
        (_, command) => Err(reject(trial, &command)),
    }
}

/// A write counts only from the worker and the attempt that hold the trial.
fn check_holder(trial: &Trial, by: &Holder) -> Result<(), Rejected> {
    match &trial.state {
        State::Running { worker } if by.attempt == trial.attempt && *worker == by.worker => Ok(()),
        State::Running { .. } if by.attempt == trial.attempt => Err(Rejected::OtherWorker),
        _ => Err(stale(trial, by.attempt)),
    }
}

fn reject(trial: &Trial, command: &Command) -> Rejected {
    match command {
        Command::Renew { by }
        | Command::Report { by, .. }
        | Command::Succeed { by }
        | Command::Fail { by, .. }
        | Command::Interrupt { by, .. } => stale(trial, by.attempt),
        Command::Expire { attempt } => stale(trial, *attempt),
        Command::Lease { .. } => Rejected::Illegal { state: trial.state.name(), command: "lease" },
        Command::Stop => Rejected::Illegal { state: trial.state.name(), command: "stop" },
        Command::Cancel => Rejected::Illegal { state: trial.state.name(), command: "cancel" },
        Command::Revive => Rejected::Illegal { state: trial.state.name(), command: "revive" },
    }
}

/// Why `attempt` no longer holds the trial.
fn stale(trial: &Trial, attempt: u32) -> Rejected {
    match &trial.state {
        _ if attempt > trial.attempt || attempt == 0 => Rejected::NoSuchAttempt { attempt },
        State::Cancelled { .. } => Rejected::Cancelled,
        State::Stopped { .. } => Rejected::Stopped,
        State::Succeeded { .. } | State::Failed { .. } => Rejected::Ended,
        State::Running { .. } => Rejected::LeasedAgain { attempt: trial.attempt },
        State::Queued { .. } => Rejected::Expired,
    }
}

impl fmt::Display for TrialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
