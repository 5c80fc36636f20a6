//! What is known of a sweep while it runs: a pure fold over its events, started from a reading of its trials.
//!
//! The reading may be newer than the first event that follows it, so an event never takes a trial back: not to an
//! earlier attempt, and not from a terminal state.

use std::collections::{BTreeMap, BTreeSet};

use proto::v1::{Event, EventKind, FailureClass, Objective, Sweep, SweepState, Trial, TrialState};

use crate::error::CliError;
use crate::format::{self, Settings};

/// A sweep and its trials.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) objective: Objective,
    pub(crate) phase: Phase,
    /// The last event folded in: the stream goes on after it.
    pub(crate) seq: u64,
    trials: BTreeMap<i64, Run>,
    varying: Vec<String>,
    axes: Vec<String>,
    failures_seen: BTreeSet<&'static str>,
    /// When the first and the last event happened, in seconds.
    span: Option<(f64, f64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Active,
    Paused,
    Ended,
    Cancelled,
}

/// What is known of one trial.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    pub(crate) id: i64,
    pub(crate) status: TrialState,
    pub(crate) attempt: u32,
    pub(crate) worker: String,
    pub(crate) epoch: u32,
    pub(crate) epochs: u32,
    /// The objective's metric: the last one reported, in the end the score.
    pub(crate) score: Option<f64>,
    /// The objective's metric epoch by epoch, while it runs and as far as it was watched.
    pub(crate) curve: Vec<f64>,
    pub(crate) failure: FailureClass,
    pub(crate) message: String,
    /// `false`: an event named it and its settings are still to be asked for.
    is_known: bool,
    settings: Settings,
    stage: String,
    seed: i64,
    started: Option<f64>,
    ended: Option<f64>,
}

/// Something that a watcher may want to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A trial became terminal. `is_new`: it failed, with a class not seen in this sweep before.
    Ended {
        trial: i64,
        is_new: bool,
    },
    /// An attempt ended without a result; the trial is queued again.
    Requeued {
        trial: i64,
    },
    Paused,
    Resumed,
}

/// Trials by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) total: u64,
    pub(crate) running: u64,
    pub(crate) succeeded: u64,
    pub(crate) stopped: u64,
    /// Failed with class `diverged`: a result of its own kind.
    pub(crate) diverged: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
}

impl Tally {
    pub(crate) fn ended(&self) -> u64 {
        self.succeeded + self.stopped + self.diverged + self.failed + self.cancelled
    }
}

impl State {
    pub(crate) fn new(sweep: &Sweep, trials: Vec<Trial>) -> Result<Self, CliError> {
        let phase = match sweep.state() {
            SweepState::Ended => Phase::Ended,
            SweepState::Cancelled => Phase::Cancelled,
            SweepState::Paused => Phase::Paused,
            SweepState::Active | SweepState::Unspecified => Phase::Active,
        };
        let mut state = Self {
            id: sweep.id.clone(),
            name: sweep.name.clone(),
            objective: sweep.objective.clone().unwrap_or_default(),
            phase,
            seq: sweep.last_seq,
            trials: BTreeMap::new(),
            varying: Vec::new(),
            axes: sweep.axes.clone(),
            failures_seen: BTreeSet::new(),
            span: None,
        };
        if let Some(created) = &sweep.created {
            state.see(format::seconds(created));
        }
        state.learn(trials)?;
        for run in state.trials.values().filter(|run| run.status == TrialState::Failed) {
            state.failures_seen.insert(format::failure(run.failure));
        }
        Ok(state)
    }

    /// Takes over what the coordinator says of some trials.
    fn learn(&mut self, trials: Vec<Trial>) -> Result<(), CliError> {
        for trial in trials {
            let run = Run::read(trial)?;
            if let Some(at) = run.ended.or(run.started) {
                self.see(at);
            }
            self.trials.insert(run.id, run);
        }
        self.varying = varying(&self.axes, self.trials.values());
        Ok(())
    }

    /// Takes in trials of a stage that opened after the first reading: what they are, not what became of them,
    /// which the events are about to say.
    pub(crate) fn introduce(&mut self, trials: Vec<Trial>) -> Result<(), CliError> {
        for trial in trials {
            let run = Run::read(trial)?;
            let known = self.trials.entry(run.id).or_insert_with(|| Run::unknown(run.id));
            *known = Run {
                settings: run.settings,
                stage: run.stage,
                seed: run.seed,
                epochs: run.epochs,
                is_known: true,
                ..known.clone()
            };
        }
        self.varying = varying(&self.axes, self.trials.values());
        Ok(())
    }

    /// If some events are of trials that nothing is known of: the id after which to ask for trials.
    pub(crate) fn missing_after(&self, events: &[Event]) -> Option<i64> {
        let is_known = |id: &i64| self.trials.get(id).is_some_and(|run| run.is_known);
        let first = events.iter().map(|event| event.trial_id).filter(|id| *id != 0 && !is_known(id)).min()?;
        Some(self.trials.range(..first).next_back().map_or(0, |(id, _)| *id))
    }

    /// Folds one event in. An event that was seen already changes nothing.
    pub(crate) fn apply(&mut self, event: &Event) -> Option<Notice> {
        if event.seq <= self.seq {
            return None;
        }
        self.seq = event.seq;
        let at = event.at.as_ref().map(format::seconds);
        if let Some(at) = at {
            self.see(at);
        }
        match event.kind() {
            EventKind::Paused => {
                self.phase = Phase::Paused;
                Some(Notice::Paused)
            }
            EventKind::Resumed => {
                self.phase = Phase::Active;
                Some(Notice::Resumed)
            }
            EventKind::Ended => {
                if self.phase != Phase::Cancelled {
                    self.phase = Phase::Ended;
                }
                None
            }
            EventKind::Cancelled if event.trial_id == 0 => {
                self.phase = Phase::Cancelled;
                None
            }
            EventKind::Extended => {
                self.phase = Phase::Active;
                None
            }
            EventKind::Unspecified
            | EventKind::Submitted
            | EventKind::Suggested
            | EventKind::StageOpened
            | EventKind::GroupFailed => None,
            EventKind::Leased
            | EventKind::Reported
            | EventKind::Succeeded
            | EventKind::Stopped
            | EventKind::Failed
            | EventKind::Requeued
            | EventKind::Revived
            | EventKind::Cancelled => self.apply_to_trial(event, at),
        }
    }

    fn apply_to_trial(&mut self, event: &Event, at: Option<f64>) -> Option<Notice> {
        let best = self.objective.at == "best";
        let minimize = self.objective.goal == "minimize";
        let run = self.trials.entry(event.trial_id).or_insert_with(|| Run::unknown(event.trial_id));
        let is_older = event.attempt != 0 && event.attempt < run.attempt;
        if event.kind() == EventKind::Revived {
            run.revive();
            return None;
        }
        if run.has_ended() || is_older {
            return None;
        }
        let value = event.metrics.get(&self.objective.metric).copied();
        match event.kind() {
            EventKind::Leased => {
                run.status = TrialState::Running;
                run.attempt = event.attempt;
                run.worker = event.worker.clone();
                run.epoch = 0;
                run.score = None;
                run.curve.clear();
                run.started = at;
                None
            }
            EventKind::Reported => {
                run.epoch = run.epoch.max(event.epoch);
                run.curve.extend(value);
                run.score = match (run.score, value) {
                    (Some(old), Some(new)) if best => {
                        Some(if minimize { old.min(new) } else { old.max(new) })
                    }
                    (old, new) => new.or(old),
                };
                None
            }
            EventKind::Requeued => {
                run.status = TrialState::Queued;
                run.epoch = 0;
                run.message = event.message.clone();
                Some(Notice::Requeued { trial: run.id })
            }
            kind => {
                run.status = match kind {
                    EventKind::Succeeded => TrialState::Succeeded,
                    EventKind::Stopped => TrialState::Stopped,
                    EventKind::Failed => TrialState::Failed,
                    _ => TrialState::Cancelled,
                };
                run.ended = at;
                run.curve = Vec::new();
                run.failure = event.failure();
                run.message = event.message.clone();
                if !best || run.score.is_none() {
                    run.score = value.or(run.score);
                }
                let is_new =
                    kind == EventKind::Failed && self.failures_seen.insert(format::failure(run.failure));
                Some(Notice::Ended { trial: run.id, is_new })
            }
        }
    }

    fn see(&mut self, at: f64) {
        self.span = Some(self.span.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
    }

    /// `true` when nothing more will happen.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended | Phase::Cancelled) && self.trials.values().all(Run::has_ended)
    }

    pub(crate) fn trial(&self, id: i64) -> Option<&Run> {
        self.trials.get(&id)
    }

    /// Trials that run now, by id.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Run> {
        self.trials.values().filter(|run| run.status == TrialState::Running)
    }

    pub(crate) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for run in self.trials.values() {
            tally.total += 1;
            match run.status {
                TrialState::Running => tally.running += 1,
                TrialState::Succeeded => tally.succeeded += 1,
                TrialState::Stopped => tally.stopped += 1,
                TrialState::Failed if run.failure == FailureClass::Diverged => tally.diverged += 1,
                TrialState::Failed => tally.failed += 1,
                TrialState::Cancelled => tally.cancelled += 1,
                TrialState::Waiting | TrialState::Queued | TrialState::Unspecified => {}
            }
        }
        tally
    }

    /// Seconds until the last trial ends, if the others take as long as those that ended and as many run at once
    /// as now. `None` before the first has ended or while none runs.
    pub(crate) fn remaining(&self) -> Option<f64> {
        let times: Vec<f64> = self
            .trials
            .values()
            .filter(|run| run.status == TrialState::Succeeded)
            .filter_map(Run::seconds)
            .collect();
        let running = self.running().count();
        if times.is_empty() || running == 0 {
            return None;
        }
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        let left: f64 = self.trials.values().map(Run::share_left).sum();
        Some(left * mean / running as f64)
    }

    /// Seconds from the submission to the last event.
    pub(crate) fn elapsed(&self) -> f64 {
        self.span.map_or(0.0, |(first, last)| last - first)
    }

    /// The trial with the best score.
    pub(crate) fn best(&self) -> Option<&Run> {
        let minimize = self.objective.goal == "minimize";
        let scored = self.trials.values().filter(|run| run.status == TrialState::Succeeded);
        let scored = scored.filter_map(|run| Some((run, run.score.filter(|score| score.is_finite())?)));
        let best = scored.min_by(|(_, a), (_, b)| if minimize { a.total_cmp(b) } else { b.total_cmp(a) });
        best.map(|(run, _)| run)
    }

    /// What tells this trial from the others: the settings that vary, and the seed.
    pub(crate) fn label(&self, run: &Run) -> String {
        let settings = self.varying.iter().filter_map(|axis| {
            run.settings.get(axis).map(|value| format!("{axis}={}", format::setting(value)))
        });
        let stage = self.has_stages().then(|| run.stage.clone());
        let seed = run.is_known.then(|| format!("seed={}", run.seed));
        stage.into_iter().chain(settings).chain(seed).collect::<Vec<_>>().join(" ")
    }

    fn has_stages(&self) -> bool {
        let stages: BTreeSet<&str> = self.trials.values().map(|run| run.stage.as_str()).collect();
        stages.len() > 1
    }
}

impl Run {
    fn read(trial: Trial) -> Result<Self, CliError> {
        Ok(Self {
            id: trial.id,
            status: trial.state(),
            failure: trial.failure(),
            settings: format::settings(&trial.settings_json)?,
            attempt: trial.attempt,
            worker: trial.worker,
            epoch: trial.epoch,
            epochs: trial.epochs,
            score: trial.objective,
            curve: Vec::new(),
            message: trial.message,
            is_known: true,
            stage: trial.stage,
            seed: trial.seed,
            started: trial.started.as_ref().map(format::seconds),
            ended: trial.ended.as_ref().map(format::seconds),
        })
    }

    fn unknown(id: i64) -> Self {
        Self {
            id,
            status: TrialState::Queued,
            failure: FailureClass::Unspecified,
            settings: Settings::new(),
            attempt: 0,
            worker: String::new(),
            epoch: 0,
            epochs: 0,
            score: None,
            curve: Vec::new(),
            message: String::new(),
            is_known: false,
            stage: String::new(),
            seed: 0,
            started: None,
            ended: None,
        }
    }

    /// It failed and is queued again.
    fn revive(&mut self) {
        self.status = TrialState::Queued;
        self.failure = FailureClass::Unspecified;
        self.epoch = 0;
        self.score = None;
        self.message.clear();
        self.ended = None;
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(
            self.status,
            TrialState::Succeeded | TrialState::Stopped | TrialState::Failed | TrialState::Cancelled
        )
    }

    /// How long the attempt that counts took.
    pub(crate) fn seconds(&self) -> Option<f64> {
        Some((self.ended? - self.started?).max(0.0))
    }

    /// How much of the trial is still to be done, from 0 to 1.
    fn share_left(&self) -> f64 {
        match self.status {
            TrialState::Running if self.epochs > 0 => {
                1.0 - f64::from(self.epoch.min(self.epochs)) / f64::from(self.epochs)
            }
            _ if self.has_ended() => 0.0,
            _ => 1.0,
        }
    }
}

/// Settings that differ between trials: axes in the order of the file, then the others.
fn varying<'a>(axes: &[String], runs: impl Iterator<Item = &'a Run> + Clone) -> Vec<String> {
    let mut names: Vec<String> = axes.to_vec();
    let others: BTreeSet<&String> = runs.clone().flat_map(|run| run.settings.keys()).collect();
    names.extend(others.into_iter().filter(|name| !axes.contains(name)).cloned());
    names.retain(|name| {
        let values: BTreeSet<Option<String>> = runs
            .clone()
            .filter(|run| run.is_known)
            .map(|run| run.settings.get(name).map(ToString::to_string))
            .collect();
        values.len() > 1
    });
    names
}
