//! What the agent's core is told and what it orders: the words between it and the shell.

use std::time::Duration;

use proto::v1::{Assignment, End, Lost, Progress, Token, Warm};

use super::death::Death;
use crate::protocol::{FromTrainer, ToTrainer};

/// Monotonic time since the agent started.
pub(super) type Time = Duration;

/// What the coordinator demands, from its answer to Register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) ttl: Duration,
    pub(super) report_every: Duration,
}

/// A fact.
#[derive(Debug)]
pub(super) enum Event {
    Said {
        slot: usize,
        message: FromTrainer,
    },
    /// The trainer wrote a line that is no message.
    Garbled {
        slot: usize,
        problem: String,
    },
    Died {
        slot: usize,
        death: Death,
    },
    Registered(Terms),
    /// An answer to Lease; `sent` is before the first call of the request was made.
    Leased {
        sent: Time,
        assignments: Vec<Assignment>,
    },
    /// The request for leases was given up.
    LeaseAbandoned,
    Renewed {
        sent: Time,
        asked: Vec<Token>,
        held: Vec<Token>,
        lost: Vec<Lost>,
    },
    RenewFailed,
    Reported {
        lost: Vec<Lost>,
    },
    ReportFailed,
    /// The ends under way were all answered.
    Finished,
    /// The agent was asked to leave, and is to be gone within this time.
    Drain {
        within: Duration,
    },
    /// The coordinator knows that the agent leaves, or could not be told in time.
    Drained,
    /// Only time has passed.
    Tick,
}

/// An order to the shell.
#[derive(Debug, PartialEq)]
pub(super) enum Order {
    Spawn {
        slot: usize,
    },
    Send {
        slot: usize,
        message: ToTrainer,
    },
    Kill {
        slot: usize,
        why: String,
    },
    Register {
        devices: Vec<String>,
    },
    Lease {
        max: u32,
        wait: Duration,
        /// What the idle trainers have in memory.
        warm: Vec<Warm>,
    },
    Renew {
        tokens: Vec<Token>,
    },
    Report {
        progress: Vec<Progress>,
    },
    Finish {
        ends: Vec<End>,
    },
    Drain,
    /// No trainer can be started: the agent is of no use.
    GiveUp {
        problem: String,
    },
}
