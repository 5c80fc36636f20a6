//! What time and the new state of things demand, after each fact: kills, starts, calls to the coordinator.

use std::time::Duration;

use proto::v1::{FailureClass as Class, Progress, Token, Warm};

use super::super::death::{failure, interruption};
use super::super::facts::{Order, Terms, Time};
use super::{Core, Leaving, POINTS_AT_ONCE, Run, State};

/// The coordinator's bound on `wait_ms`.
const WAIT_LONGEST: Duration = Duration::from_secs(30);

impl Core {
    pub(super) fn due(&mut self, now: Time, orders: &mut Vec<Order>) {
        self.kill_overdue(now, orders);
        for slot in 0..self.slots.len() {
            if matches!(self.slots[slot].state, State::Resting(until) if until <= now) {
                self.spawn(slot, orders);
            }
        }
        self.register_when_ready(orders);
        let Some(terms) = self.terms else { return };
        self.finish(orders);
        self.renew(now, orders);
        self.report(now, terms, orders);
        let has_idle = self.slots.iter().any(|slot| matches!(slot.state, State::Idle));
        if self.life.is_closing(now) {
            // Nothing more is begun: when the last run has ended, there is nothing to stay for.
            if self.runs().next().is_none() {
                self.drain(now, Duration::ZERO, orders);
            }
            return;
        }
        if has_idle && !self.leasing && self.leaving == Leaving::No {
            self.leasing = true;
            // A quarter of the lease, so that an answer that comes at the last moment still leaves time to renew.
            let wait = (terms.ttl / 4).min(WAIT_LONGEST);
            let idle = self.slots.iter().filter(|slot| matches!(slot.state, State::Idle));
            let mut warm: Vec<Warm> = idle.clone().filter_map(|slot| slot.warm.clone()).collect();
            warm.dedup();
            let max = u32::try_from(idle.count()).unwrap_or(u32::MAX);
            orders.push(Order::Lease { max, wait, warm });
        }
    }

    fn kill_overdue(&mut self, now: Time, orders: &mut Vec<Order>) {
        let Some(terms) = self.terms else { return };
        for slot in 0..self.slots.len() {
            let State::Running(run) = &self.slots[slot].state else { continue };
            let (how, why) = if run.times_out.is_some_and(|at| at <= now) {
                let why = "the run took longer than its timeout";
                (failure(Class::Timeout, why.to_owned()), why)
            } else if run.leave_by.is_some_and(|at| at <= now) {
                let why = "the worker is leaving, and the run wrote no checkpoint in time";
                (interruption("drained", why.to_owned()), why)
            } else if run.give_up_at(terms) <= now {
                let why = "the lease could not be renewed in time";
                (interruption("preempted", why.to_owned()), why)
            } else {
                continue;
            };
            self.end(slot, how, State::Dying);
            orders.push(Order::Kill { slot, why: why.to_owned() });
        }
    }

    /// The offer names the devices, so it waits until each trainer has either opened its own or died at it.
    fn register_when_ready(&mut self, orders: &mut Vec<Order>) {
        let settled = self.slots.iter().all(|slot| !matches!(slot.state, State::Starting));
        let mut devices: Vec<String> = self.slots.iter().filter_map(|slot| slot.device.clone()).collect();
        if self.terms.is_none() && !self.registering && settled && !devices.is_empty() {
            devices.sort();
            devices.dedup();
            self.registering = true;
            orders.push(Order::Register { devices });
        }
    }

    fn finish(&mut self, orders: &mut Vec<Order>) {
        // While leaving, the coordinator is told first: else what is handed back could be leased to us again.
        if self.ends.is_empty() || !self.finishing.is_empty() || self.leaving == Leaving::Telling {
            return;
        }
        let ends = std::mem::take(&mut self.ends);
        self.finishing = ends.iter().filter_map(|end| end.token).collect();
        orders.push(Order::Finish { ends });
    }

    fn renew(&mut self, now: Time, orders: &mut Vec<Order>) {
        if self.renewing || self.renew_at.is_none_or(|at| at > now) {
            return;
        }
        let running: Vec<Token> = self.runs().map(|run| run.token).collect();
        let ending = self.ends.iter().filter_map(|end| end.token).chain(self.finishing.iter().copied());
        let tokens: Vec<Token> = running.into_iter().chain(ending).collect();
        if tokens.is_empty() {
            self.renew_at = None;
            return;
        }
        self.renewing = true;
        orders.push(Order::Renew { tokens });
    }

    fn report(&mut self, now: Time, terms: Terms, orders: &mut Vec<Order>) {
        let late = |run: &Run| run.waiting_since.is_some_and(|since| since + terms.report_every <= now);
        if self.reporting || !self.runs().any(|run| late(run)) {
            return;
        }
        let mut progress = Vec::new();
        for run in self.runs().filter(|run| run.waiting_since.is_some()) {
            let rest = run.points.split_off(run.points.len().min(POINTS_AT_ONCE));
            run.sent = std::mem::replace(&mut run.points, rest);
            run.waiting_since = (!run.points.is_empty()).then_some(now);
            run.sent_checkpoint = run.checkpoint.take();
            let checkpoint = run.sent_checkpoint.clone().unwrap_or_default();
            run.sent_prefix = run.prefix.take();
            let prefix = run.sent_prefix.clone().unwrap_or_default();
            progress.push(Progress { token: Some(run.token), points: run.sent.clone(), checkpoint, prefix });
        }
        self.reporting = true;
        orders.push(Order::Report { progress });
    }
}
