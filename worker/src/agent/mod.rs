//! The agent: one process a node. It leases trials for its free slots, feeds one trainer a slot, keeps the leases,
//! passes metrics and ends on, and leaves when asked to. It never touches a tensor, so nothing that a device does to a
//! trainer can take it down.
//!
//! `core` decides; this shell and its tasks do what it orders and tell it what happened.

mod child;
mod core;
mod death;
mod facts;
mod life;
mod link;
mod offer;
mod presence;

use std::path::PathBuf;
use std::time::Duration;

use proto::v1::{Capabilities, End, Progress, RegisterRequest, Token, Warm};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use child::TrainerCommand;
pub(crate) use offer::host_memory;
pub use offer::{LIBTORCH_VERSION, capabilities, host_name};
pub use presence::{Presence, agents};

use child::Trainer;
use core::Core;
use facts::{Event, Order, Time};
use link::Link;

use crate::protocol::{FromTrainer, ToTrainer};

/// What an agent is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The coordinator: `http://host:port`, `https://host:port` or `host:port`.
    pub server: String,
    /// Certificates to trust at an https address, instead of those that this machine trusts.
    pub ca: Option<PathBuf>,
    /// Sent as `authorization: Bearer`, if there is one.
    pub token: Option<String>,
    /// For people.
    pub name: String,
    /// One a slot: as many trials run at the same time.
    pub trainers: Vec<TrainerCommand>,
    /// Without devices: those are what the trainers open.
    pub capabilities: Capabilities,
    /// After being asked to leave, the agent is gone within this time, whether or not the coordinator answers.
    pub leave_within: Duration,
    /// It leaves so that it is gone after this long.
    pub lifetime: Option<Duration>,
}

/// Why an agent could not go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Dial(#[from] proto::dial::DialError),
    #[error("the coordinator refused this worker ({code:?}): {why}{}", mend(*.code, .why))]
    Refused { code: tonic::Code, why: String },
    #[error("no trainer can be started: {problem}")]
    Trainer { problem: String },
}

/// What to do, unless the coordinator, or what stands before it, has said so.
fn mend(code: tonic::Code, why: &str) -> &'static str {
    match code {
        tonic::Code::Unauthenticated if !why.contains("SWEEP_TOKEN") => {
            "; set SWEEP_TOKEN to the coordinator's token"
        }
        _ => "",
    }
}

/// How long the coordinator may take to hear that the agent leaves.
const TELL_LIMIT: Duration = Duration::from_secs(5);
/// How long a request for leases may still be answered once the coordinator knows that the agent leaves.
const LATE_LEASE_LIMIT: Duration = Duration::from_millis(500);
/// Facts waiting for the loop; trainers that are faster than it wait at their pipe.
const EVENTS: usize = 256;

/// Runs an agent until `leave` is cancelled and all it held is handed back.
///
/// Trainers die with the thread that this is polled on: call it from the main thread, on a current-thread runtime.
pub async fn run(config: Config, leave: CancellationToken) -> Result<(), AgentError> {
    let (sender, mut events) = mpsc::channel(EVENTS);
    let (fatal, mut fatalities) = mpsc::channel(1);
    let link = Link::new(&config, sender.clone())?;
    let trainers = config.trainers.iter().map(|_| None).collect();
    let leave_at = config.lifetime.map(|lifetime| lifetime.saturating_sub(config.leave_within));
    let mut core = Core::new(config.trainers.len(), leave_at);
    let instance = uuid::Uuid::new_v4().to_string();
    let started = Instant::now();
    let mut shell = Shell {
        config,
        instance,
        link,
        events: sender,
        fatal,
        trainers,
        started,
        ttl: Duration::ZERO,
        leasing: None,
    };
    let mut leave_by = None;
    shell.obey(core.begin())?;
    while !core.is_done() {
        let event = tokio::select! {
            Some(event) = events.recv() => event,
            Some(error) = fatalities.recv() => return Err(error),
            () = leave.cancelled(), if leave_by.is_none() => {
                tracing::info!("leaving");
                shell.drain_event(&mut leave_by)
            }
            () = until(leave_at.map(|at| started + at)), if leave_by.is_none() => {
                tracing::info!("leaving: the time is over");
                shell.drain_event(&mut leave_by)
            }
            () = until(core.wakes_at().map(|at| started + at)) => Event::Tick,
            () = until(leave_by) => {
                tracing::warn!("leaving before everything was handed back");
                break;
            }
        };
        match &event {
            Event::Registered(terms) => shell.ttl = terms.ttl,
            Event::Said { slot, message: FromTrainer::Note { message } } => {
                tracing::info!(slot, message, "trainer")
            }
            _ => {}
        }
        let orders = core.step(shell.now(), event);
        shell.obey(orders)?;
    }
    tracing::info!("left");
    Ok(())
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Does what the core orders: each call in a task of its own, whose answer comes back as an event.
struct Shell {
    config: Config,
    instance: String,
    link: Link,
    events: mpsc::Sender<Event>,
    fatal: mpsc::Sender<AgentError>,
    trainers: Vec<Option<Trainer>>,
    started: Instant,
    ttl: Duration,
    leasing: Option<AbortHandle>,
}

impl Shell {
    fn now(&self) -> Time {
        self.started.elapsed()
    }

    /// From here on the agent leaves, whatever happens.
    fn drain_event(&self, leave_by: &mut Option<Instant>) -> Event {
        *leave_by = Some(Instant::now() + self.config.leave_within);
        Event::Drain { within: self.config.leave_within }
    }

    fn obey(&mut self, orders: Vec<Order>) -> Result<(), AgentError> {
        for order in orders {
            match order {
                Order::Spawn { slot } => {
                    self.trainers[slot] =
                        Some(Trainer::spawn(&self.config.trainers[slot], slot, self.events.clone()));
                }
                Order::Send { slot, message } => {
                    if let ToTrainer::Run { trial, attempt, from, .. } = &message {
                        tracing::info!(slot, trial, attempt, from, "trial started");
                    }
                    self.trainers[slot].iter().for_each(|trainer| trainer.send(message.clone()));
                }
                Order::Kill { slot, why } => {
                    tracing::info!(slot, why, "killing the trainer");
                    self.trainers[slot].iter().for_each(Trainer::kill);
                }
                Order::Register { devices } => self.register(&devices),
                Order::Lease { max, wait, warm } => self.lease(max, wait, warm),
                Order::Renew { tokens } => self.renew(tokens),
                Order::Report { progress } => self.report(progress),
                Order::Finish { ends } => self.finish(ends),
                Order::Drain => self.drain(),
                Order::GiveUp { problem } => return Err(AgentError::Trainer { problem }),
            }
        }
        Ok(())
    }

    /// Runs a call beside the loop and passes what came of it back.
    fn task<F>(&self, call: impl FnOnce(Link) -> F) -> AbortHandle
    where
        F: Future<Output = Event> + Send + 'static,
    {
        let (call, events) = (call(self.link.clone()), self.events.clone());
        // The loop is over when it does not listen any more.
        let task = tokio::spawn(async move { _ = events.send(call.await).await });
        task.abort_handle()
    }

    fn register(&self, devices: &[String]) {
        let capabilities = self.config.capabilities.clone();
        let devices = devices.to_vec();
        let mut request = RegisterRequest {
            instance: self.instance.clone(),
            name: self.config.name.clone(),
            capabilities: Some(capabilities),
            slots: u32::try_from(self.config.trainers.len()).unwrap_or(u32::MAX),
        };
        let (link, events, fatal) = (self.link.clone(), self.events.clone(), self.fatal.clone());
        tokio::spawn(async move {
            if let Some(capabilities) = &mut request.capabilities {
                for name in &devices {
                    capabilities.devices.push(offer::device(name).await);
                }
            }
            match link.register(request).await {
                Ok(terms) => _ = events.send(Event::Registered(terms)).await,
                Err(error) => _ = fatal.send(error).await,
            }
        });
    }

    fn lease(&mut self, max: u32, wait: Duration, warm: Vec<Warm>) {
        let (ttl, started) = (self.ttl, self.started);
        let task = self.task(|link| async move {
            let (sent, assignments) = link.lease(max, wait, ttl, warm).await;
            Event::Leased { sent: sent - started, assignments }
        });
        self.leasing = Some(task);
    }

    fn renew(&self, tokens: Vec<Token>) {
        let (limit, sent) = (self.ttl / 3, self.now());
        self.task(|link| async move {
            match link.renew(tokens.clone(), limit).await {
                Ok(reply) => Event::Renewed { sent, asked: tokens, held: reply.held, lost: reply.lost },
                Err(_) => Event::RenewFailed,
            }
        });
    }

    fn report(&self, progress: Vec<Progress>) {
        self.task(|link| async move {
            match link.report(progress).await {
                Ok(reply) => Event::Reported { lost: reply.lost },
                Err(_) => Event::ReportFailed,
            }
        });
    }

    fn finish(&self, ends: Vec<End>) {
        self.task(|link| async move {
            link.finish(ends).await;
            Event::Finished
        });
    }

    fn drain(&self) {
        let (link, events, leasing) = (self.link.clone(), self.events.clone(), self.leasing.clone());
        tokio::spawn(async move {
            if tokio::time::timeout(TELL_LIMIT, link.drain()).await.is_err() {
                tracing::warn!("the coordinator could not be told that this worker leaves");
            }
            _ = events.send(Event::Drained).await;
            // What was leased before the coordinator knew is on its way, and is handed back when it comes.
            tokio::time::sleep(LATE_LEASE_LIMIT).await;
            leasing.iter().for_each(AbortHandle::abort);
            _ = events.send(Event::LeaseAbandoned).await;
        });
    }
}
