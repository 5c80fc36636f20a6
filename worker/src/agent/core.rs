//! What the agent knows and decides: slots, the attempts they hold, when a lease must be renewed or a run killed.
//! Pure: facts go in, orders come out, and time is a parameter. Never waits, never calls, never spawns.

mod due;

use std::time::Duration;

use proto::v1::end::How;
use proto::v1::{Assignment, End, FailureClass as Class, Lost, Point, Success, Token, Warm};

use super::death::{Death, failure, interruption};
use super::facts::{Event, Order, Terms, Time};
use super::life::Life;
use crate::protocol::{FailureClass, FromTrainer, Reusable, ToTrainer};

#[derive(Debug)]
struct Run {
    token: Token,
    /// The lease is good until then.
    leased_until: Time,
    /// The run is killed then.
    times_out: Option<Time>,
    /// Points not reported yet, and since when the oldest waits.
    points: Vec<Point>,
    waiting_since: Option<Time>,
    /// Points of the report under way.
    sent: Vec<Point>,
    /// The latest checkpoint, if it was not reported yet, and that of the report under way.
    checkpoint: Option<String>,
    sent_checkpoint: Option<String>,
    /// Likewise, where it has kept what others start from.
    prefix: Option<String>,
    sent_prefix: Option<String>,
    /// Whether it writes a last checkpoint when the agent leaves.
    on_drain: bool,
    /// It was asked for that, and is killed if it has not answered by then.
    leave_by: Option<Time>,
    /// When the latest epoch ended, or the run began.
    ticked: Time,
}

#[expect(clippy::large_enum_variant, reason = "one a slot, and nearly always the large one")]
#[derive(Debug)]
enum State {
    /// Started, but not ready yet.
    Starting,
    Idle,
    Running(Run),
    /// Killed, but not dead yet.
    Dying,
    /// Died too early; the next one is started then.
    Resting(Time),
    /// The agent leaves, and the trainer is gone.
    Off,
}

#[derive(Debug)]
struct Slot {
    state: State,
    /// Deaths in a row before `Ready`.
    stillborn: u32,
    device: Option<String>,
    /// What its trainer has in memory, by its latest run.
    warm: Option<Warm>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// The coordinator is being told.
    Telling,
    Told,
}

/// Trainers that die this often in a row before any was ever ready make the agent give up.
const STILLBORN_LIMIT: u32 = 3;
const REST_FIRST: Duration = Duration::from_millis(500);
const REST_LONGEST: Duration = Duration::from_secs(60);
/// Points of one attempt in one call: half of what the coordinator takes.
pub(super) const POINTS_AT_ONCE: usize = 5_000;
const LEAVING: &str = "the worker is leaving";

#[derive(Debug)]
pub(super) struct Core {
    slots: Vec<Slot>,
    terms: Option<Terms>,
    registering: bool,
    leasing: bool,
    reporting: bool,
    renewing: bool,
    /// When the next renewal is due, if anything is held.
    renew_at: Option<Time>,
    /// Ends to be sent, and ends under way.
    ends: Vec<End>,
    finishing: Vec<Token>,
    leaving: Leaving,
    life: Life,
}

impl Core {
    /// `leave_at`: when the agent will be asked to leave, if that is known.
    pub(super) fn new(slots: usize, leave_at: Option<Time>) -> Self {
        let slot = || Slot { state: State::Off, stillborn: 0, device: None, warm: None };
        Self {
            slots: (0..slots).map(|_| slot()).collect(),
            terms: None,
            registering: false,
            leasing: false,
            reporting: false,
            renewing: false,
            renew_at: None,
            ends: Vec::new(),
            finishing: Vec::new(),
            leaving: Leaving::No,
            life: Life::new(leave_at),
        }
    }

    /// Starts every trainer.
    pub(super) fn begin(&mut self) -> Vec<Order> {
        let mut orders = Vec::new();
        for slot in 0..self.slots.len() {
            self.spawn(slot, &mut orders);
        }
        orders
    }

    /// Takes a fact in and says what is to be done about it.
    pub(super) fn step(&mut self, now: Time, event: Event) -> Vec<Order> {
        let mut orders = Vec::new();
        match event {
            Event::Said { slot, message } => self.said(now, slot, message, &mut orders),
            Event::Garbled { slot, problem } => self.garbled(slot, problem, &mut orders),
            Event::Died { slot, death } => self.died(now, slot, &death, &mut orders),
            Event::Registered(terms) => {
                self.registering = false;
                self.terms = Some(terms);
            }
            Event::Leased { sent, assignments } => {
                self.leasing = false;
                for assignment in assignments {
                    self.assigned(now, sent, assignment, &mut orders);
                }
            }
            Event::LeaseAbandoned => self.leasing = false,
            Event::Renewed { sent, asked, held, lost } => {
                self.renewed(sent, &asked, &held, lost, &mut orders);
            }
            Event::RenewFailed => {
                self.renewing = false;
                self.renew_at = self.terms.map(|terms| now + (terms.ttl / 12).min(Duration::from_secs(2)));
            }
            Event::Reported { lost } => {
                self.reporting = false;
                for run in self.runs() {
                    run.sent.clear();
                    run.sent_checkpoint = None;
                    run.sent_prefix = None;
                }
                lost.into_iter().for_each(|lost| self.stop(lost, &mut orders));
            }
            Event::ReportFailed => self.report_failed(now),
            Event::Finished => self.finishing.clear(),
            Event::Drain { within } => self.drain(now, within, &mut orders),
            Event::Drained => self.leaving = Leaving::Told,
            Event::Tick => {}
        }
        self.due(now, &mut orders);
        orders
    }

    /// When `step` must be called again even if nothing happens.
    pub(super) fn wakes_at(&self) -> Option<Time> {
        let terms = self.terms;
        let of_slot = |slot: &Slot| match &slot.state {
            State::Resting(until) => Some(*until),
            State::Running(run) => {
                let report = run.waiting_since.zip(terms).map(|(since, terms)| since + terms.report_every);
                let report = report.filter(|_| !self.reporting);
                let expiry = terms.map(|terms| run.give_up_at(terms));
                [run.times_out, report, expiry, run.leave_by].into_iter().flatten().min()
            }
            _ => None,
        };
        let renewal = self.renew_at.filter(|_| !self.renewing);
        let closing = self.life.closes_at().filter(|_| self.leaving == Leaving::No);
        self.slots.iter().filter_map(of_slot).chain(renewal).chain(closing).min()
    }

    /// Whether the agent may go: asked to leave, no trainer left, every end answered.
    pub(super) fn is_done(&self) -> bool {
        self.leaving == Leaving::Told
            && !self.leasing
            && self.ends.is_empty()
            && self.finishing.is_empty()
            && self.slots.iter().all(|slot| matches!(slot.state, State::Off))
    }

    fn runs(&mut self) -> impl Iterator<Item = &mut Run> {
        self.slots.iter_mut().filter_map(|slot| match &mut slot.state {
            State::Running(run) => Some(run),
            _ => None,
        })
    }

    fn spawn(&mut self, slot: usize, orders: &mut Vec<Order>) {
        self.slots[slot].state = State::Starting;
        self.slots[slot].warm = None;
        orders.push(Order::Spawn { slot });
    }

    // Facts from trainers.

    fn said(&mut self, now: Time, slot: usize, message: FromTrainer, orders: &mut Vec<Order>) {
        let about = |run: &Run, trial, attempt| run.token == Token { trial_id: trial, attempt };
        let here = &mut self.slots[slot];
        match (&mut here.state, message) {
            // What a killed trainer still said before it died counts no more.
            (State::Dying | State::Off, _) => {}
            (State::Starting, FromTrainer::Ready { device }) => {
                here.state = State::Idle;
                here.stillborn = 0;
                here.device = Some(device);
            }
            (State::Running(run), FromTrainer::Epoch { trial, attempt, epoch, metrics })
                if about(run, trial, attempt) =>
            {
                let points = metrics.into_iter().map(|(name, value)| Point { name, epoch, value });
                run.points.extend(points);
                run.waiting_since.get_or_insert(now);
                self.life.saw_epoch(now - std::mem::replace(&mut run.ticked, now));
            }
            // The shell has logged it.
            (_, FromTrainer::Note { .. }) => {}
            (State::Running(run), FromTrainer::Kept { trial, attempt, url })
                if about(run, trial, attempt) =>
            {
                run.checkpoint = Some(url);
                run.waiting_since.get_or_insert(now);
            }
            (State::Running(run), FromTrainer::Shared { trial, attempt, url })
                if about(run, trial, attempt) =>
            {
                run.prefix = Some(url);
                run.waiting_since.get_or_insert(now);
            }
            (
                State::Running(run),
                FromTrainer::Done { trial, attempt, metrics, artifact, pruning, inputs, code, reused },
            ) if about(run, trial, attempt) => {
                let success = Success {
                    metrics: metrics.into_iter().collect(),
                    artifact: artifact.unwrap_or_default(),
                    pruning_json: pruning.unwrap_or_default(),
                    inputs,
                    code,
                    reused: reused.unwrap_or_default(),
                };
                self.end(slot, How::Success(success), State::Idle);
                self.dismiss(slot, orders);
            }
            (State::Running(run), FromTrainer::Left { trial, attempt })
                if about(run, trial, attempt) && run.leave_by.is_some() =>
            {
                self.end(slot, interruption("drained", LEAVING.to_owned()), State::Idle);
                self.dismiss(slot, orders);
            }
            (State::Running(run), FromTrainer::Failed { trial, attempt, class, message })
                if about(run, trial, attempt) =>
            {
                // Behind a crash in libtorch nothing can be relied on: the next run gets a fresh process.
                use FailureClass::{BadNode, CodeError, CudaOom, HostOom};
                let broken = matches!(class, CodeError | CudaOom | HostOom | BadNode);
                let next = if broken { State::Dying } else { State::Idle };
                self.end(slot, failure(wire(class), message), next);
                if broken {
                    orders.push(Order::Kill { slot, why: "its run failed inside libtorch".to_owned() });
                }
                self.dismiss(slot, orders);
            }
            (_, message) => self.garbled(slot, format!("unexpected message {message:?}"), orders),
        }
    }

    fn garbled(&mut self, slot: usize, problem: String, orders: &mut Vec<Order>) {
        if matches!(self.slots[slot].state, State::Dying | State::Off | State::Resting(_)) {
            return;
        }
        let message = format!("the trainer broke the protocol: {problem}");
        self.end(slot, failure(Class::CodeError, message.clone()), State::Dying);
        orders.push(Order::Kill { slot, why: message });
    }

    fn died(&mut self, now: Time, slot: usize, death: &Death, orders: &mut Vec<Order>) {
        let rested = matches!(self.slots[slot].state, State::Idle);
        self.end(slot, death.verdict(), State::Dying);
        let here = &mut self.slots[slot];
        if self.leaving != Leaving::No {
            here.state = State::Off;
            return;
        }
        if here.device.take().is_some() && !rested {
            return self.spawn(slot, orders);
        }
        here.stillborn += 1;
        let rest = REST_FIRST.saturating_mul(1 << (here.stillborn - 1).min(16)).min(REST_LONGEST);
        here.state = State::Resting(now + rest);
        let stillborn = here.stillborn >= STILLBORN_LIMIT;
        let hope = self.slots.iter().any(|s| s.device.is_some() || matches!(s.state, State::Starting));
        if stillborn && !hope && self.terms.is_none() && !self.registering {
            orders.push(Order::GiveUp { problem: death.describe() });
        }
    }

    // Facts from the coordinator.

    fn assigned(&mut self, now: Time, sent: Time, assignment: Assignment, orders: &mut Vec<Order>) {
        let token = Token { trial_id: assignment.trial_id, attempt: assignment.attempt };
        let hand_back = |cause: &str, why: &str| End {
            token: Some(token),
            points: Vec::new(),
            how: Some(interruption(cause, why.to_owned())),
            ..Default::default()
        };
        if self.leaving != Leaving::No {
            return self.ends.push(hand_back("drained", LEAVING));
        }
        let Some(terms) = self.terms else { return };
        if sent + terms.ttl - terms.ttl / 4 <= now {
            return self.ends.push(hand_back("preempted", "the assignment came too late to be run"));
        }
        let recipe = match serde_json::from_str(&assignment.recipe_json) {
            Ok(recipe) => recipe,
            Err(error) => {
                let how = Some(failure(Class::InvalidConfig, format!("the recipe is not JSON: {error}")));
                return self.ends.push(End { token: Some(token), how, ..Default::default() });
            }
        };
        let can_pause = assignment.checkpoint_on_drain || assignment.checkpoint_every_ms > 0;
        if !can_pause && !self.life.suffices(now, epochs(&recipe)) {
            self.life.close();
            let why = "the worker leaves before the run could end, and it writes no checkpoints";
            return self.ends.push(hand_back("drained", why));
        }
        let warm = warm_by(&recipe);
        let Some(slot) = self.slot_for(warm.as_ref()) else {
            return self.ends.push(hand_back("preempted", "no trainer was ready to run it"));
        };
        let run = Run {
            token,
            leased_until: sent + terms.ttl,
            times_out: (assignment.timeout_ms > 0)
                .then(|| now + Duration::from_millis(assignment.timeout_ms)),
            points: Vec::new(),
            waiting_since: None,
            sent: Vec::new(),
            checkpoint: None,
            sent_checkpoint: None,
            prefix: None,
            sent_prefix: None,
            on_drain: assignment.checkpoint_on_drain,
            leave_by: None,
            ticked: now,
        };
        let due = sent + terms.ttl / 3;
        self.renew_at = Some(self.renew_at.map_or(due, |at| at.min(due)));
        self.slots[slot].state = State::Running(run);
        self.slots[slot].warm = warm;
        let Token { trial_id: trial, attempt } = token;
        let message = ToTrainer::Run {
            sweep: assignment.sweep_id,
            trial,
            attempt,
            recipe,
            seed: assignment.seed,
            start: Some(assignment.start).filter(|url| !url.is_empty()),
            from: Some(assignment.checkpoint).filter(|url| !url.is_empty()),
            checkpoint_every_ms: assignment.checkpoint_every_ms,
            prefix: Some(assignment.prefix).filter(|url| !url.is_empty()),
            keep: assignment.keep_prefix.then_some(assignment.keep_epochs),
            reusable: assignment.reusable.into_iter().map(reusable).collect(),
        };
        orders.push(Order::Send { slot, message });
    }

    /// An idle slot: one that is warm for the run, else one that has nothing to lose, else any.
    fn slot_for(&self, warm: Option<&Warm>) -> Option<usize> {
        let idle = self.slots.iter().enumerate().filter(|(_, slot)| matches!(slot.state, State::Idle));
        let loss = |slot: &Slot| match &slot.warm {
            Some(own) if Some(own) == warm => 0,
            None => 1,
            Some(_) => 2,
        };
        idle.min_by_key(|(_, slot)| loss(slot)).map(|(place, _)| place)
    }

    fn renewed(
        &mut self,
        sent: Time,
        asked: &[Token],
        held: &[Token],
        lost: Vec<Lost>,
        orders: &mut Vec<Order>,
    ) {
        self.renewing = false;
        let Some(terms) = self.terms else { return };
        self.renew_at = Some(sent + terms.ttl / 3);
        for run in self.runs().filter(|run| held.contains(&run.token)) {
            run.leased_until = run.leased_until.max(sent + terms.ttl);
        }
        lost.into_iter().for_each(|lost| self.stop(lost, orders));
        for &token in asked.iter().filter(|token| !held.contains(token)) {
            self.stop(Lost { token: Some(token), reason: "not held any more".to_owned() }, orders);
        }
    }

    /// The attempt no longer holds its trial: its run is killed, and nobody is told.
    fn stop(&mut self, lost: Lost, orders: &mut Vec<Order>) {
        let holds = |slot: &Slot| matches!(&slot.state, State::Running(run) if Some(run.token) == lost.token);
        if let Some(slot) = self.slots.iter().position(holds) {
            self.slots[slot].state = State::Dying;
            orders.push(Order::Kill { slot, why: format!("the lease is lost: {}", lost.reason) });
        }
    }

    fn report_failed(&mut self, now: Time) {
        self.reporting = false;
        for run in self.runs() {
            let newer = std::mem::take(&mut run.points);
            run.points = std::mem::take(&mut run.sent);
            run.points.extend(newer);
            run.checkpoint = run.checkpoint.take().or(run.sent_checkpoint.take());
            run.prefix = run.prefix.take().or(run.sent_prefix.take());
            // The wait begins anew: that is the pause before the next try.
            let is_waiting = !run.points.is_empty() || run.checkpoint.is_some() || run.prefix.is_some();
            run.waiting_since = is_waiting.then_some(now);
        }
    }

    fn drain(&mut self, now: Time, within: Duration, orders: &mut Vec<Order>) {
        if self.leaving != Leaving::No {
            return;
        }
        self.leaving = Leaving::Telling;
        orders.push(Order::Drain);
        for slot in 0..self.slots.len() {
            if let State::Running(run) = &mut self.slots[slot].state
                && run.on_drain
            {
                // The rest is for telling the coordinator.
                run.leave_by = Some(now + within * 3 / 5);
                orders.push(Order::Send { slot, message: ToTrainer::Leave });
                continue;
            }
            self.end(slot, interruption("drained", LEAVING.to_owned()), State::Dying);
            let here = &mut self.slots[slot].state;
            if matches!(here, State::Resting(_) | State::Off) {
                *here = State::Off;
            } else {
                *here = State::Dying;
                orders.push(Order::Kill { slot, why: LEAVING.to_owned() });
            }
        }
    }

    /// Ends an idle trainer when the agent leaves.
    fn dismiss(&mut self, slot: usize, orders: &mut Vec<Order>) {
        if self.leaving != Leaving::No && matches!(self.slots[slot].state, State::Idle) {
            self.slots[slot].state = State::Dying;
            orders.push(Order::Kill { slot, why: LEAVING.to_owned() });
        }
    }

    /// Ends the run of a slot, if there is one, and leaves the slot in `next`.
    fn end(&mut self, slot: usize, how: How, next: State) {
        if let State::Running(run) = &mut self.slots[slot].state {
            let mut points = std::mem::take(&mut run.sent);
            points.append(&mut run.points);
            let checkpoint = run.checkpoint.take().or(run.sent_checkpoint.take()).unwrap_or_default();
            let prefix = run.prefix.take().or(run.sent_prefix.take()).unwrap_or_default();
            self.ends.push(End { token: Some(run.token), points, how: Some(how), checkpoint, prefix });
        }
        if !matches!(self.slots[slot].state, State::Off) {
            self.slots[slot].state = next;
        }
    }
}

impl Run {
    /// The old run must be dead before the trial can run elsewhere.
    fn give_up_at(&self, terms: Terms) -> Time {
        self.leased_until.saturating_sub(terms.ttl / 4)
    }
}

/// How many epochs the recipe asks for; 0 where it does not say.
fn epochs(recipe: &serde_json::Value) -> u32 {
    let number = |value: &serde_json::Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    // Pruning trains a second time.
    number(&recipe["epochs"]).saturating_add(number(&recipe["rewind_schedule"]["epochs"]))
}

/// What a run loads, if its recipe says so.
fn warm_by(recipe: &serde_json::Value) -> Option<Warm> {
    let text = |key: &str| recipe.get(key).and_then(|value| value.as_str()).map(str::to_owned);
    Some(Warm { backbone: text("backbone")?, task: text("task")? })
}

fn wire(class: FailureClass) -> Class {
    match class {
        FailureClass::InvalidConfig => Class::InvalidConfig,
        FailureClass::CodeError => Class::CodeError,
        FailureClass::Diverged => Class::Diverged,
        FailureClass::CudaOom => Class::CudaOom,
        FailureClass::HostOom => Class::HostOom,
        FailureClass::Timeout => Class::Timeout,
        FailureClass::BadData => Class::BadData,
        FailureClass::BadNode => Class::BadNode,
        FailureClass::Poison => Class::Poison,
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;

fn reusable(given: proto::v1::Reusable) -> Reusable {
    Reusable { trial: given.trial_id, inputs: given.inputs, code: given.code }
}
