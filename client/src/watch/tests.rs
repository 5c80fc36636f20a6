//! The fold over a sweep's events, and what a watch says of it.

use proto::v1::{Event, EventKind, FailureClass, Objective, Sweep, SweepState, Trial, TrialState};

use super::report;
use super::state::{Notice, Phase, State, Tally};
use crate::error::Outcome;

const START: i64 = 1_700_000_000;

fn moment(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: START + seconds, nanos: 0 })
}

fn sweep(goal: &str, at: &str) -> Sweep {
    Sweep {
        id: "3f2a9c01".into(),
        name: "study".into(),
        state: SweepState::Active as i32,
        created: moment(0),
        objective: Some(Objective { metric: "val/top1".into(), goal: goal.into(), at: at.into() }),
        axes: vec!["lr".into(), "wd".into()],
        ..Sweep::default()
    }
}

fn trial(id: i64, lr: f64) -> Trial {
    Trial {
        id,
        state: TrialState::Queued as i32,
        settings_json: format!(r#"{{"lr":{lr},"wd":0}}"#),
        epochs: 10,
        ..Trial::default()
    }
}

/// A watched sweep whose events number themselves, ten seconds apart.
struct Watched(State);

impl Watched {
    fn new(goal: &str, at: &str, trials: i64) -> Self {
        let trials = (1..=trials).map(|id| trial(id, id as f64)).collect();
        Self(State::new(&sweep(goal, at), trials).expect("valid settings"))
    }

    fn event(&self, kind: EventKind, trial_id: i64, attempt: u32) -> Event {
        let seq = self.0.seq + 1;
        Event { seq, at: moment(10 * seq as i64), kind: kind as i32, trial_id, attempt, ..Event::default() }
    }

    fn on(&mut self, kind: EventKind, trial: i64, attempt: u32) -> Option<Notice> {
        let event = self.event(kind, trial, attempt);
        self.0.apply(&event)
    }

    fn leased(&mut self, trial: i64, attempt: u32) {
        let event = Event { worker: "gpu-03".into(), ..self.event(EventKind::Leased, trial, attempt) };
        assert_eq!(self.0.apply(&event), None);
    }

    fn reported(&mut self, trial: i64, attempt: u32, epoch: u32, top1: f64) {
        let metrics = [("val/top1".to_owned(), top1)].into();
        let event = Event { epoch, metrics, ..self.event(EventKind::Reported, trial, attempt) };
        assert_eq!(self.0.apply(&event), None);
    }

    fn succeeded(&mut self, trial: i64, attempt: u32, top1: f64) -> Option<Notice> {
        let metrics = [("val/top1".to_owned(), top1)].into();
        let event = Event { metrics, ..self.event(EventKind::Succeeded, trial, attempt) };
        self.0.apply(&event)
    }

    fn failed(&mut self, trial: i64, class: FailureClass) -> Option<Notice> {
        let event = Event {
            failure: class as i32,
            message: "loss is NaN in epoch 3".into(),
            ..self.event(EventKind::Failed, trial, 1)
        };
        self.0.apply(&event)
    }
}

#[test]
fn a_sweep_from_its_first_lease_to_its_end() {
    let mut watched = Watched::new("maximize", "last", 3);
    for trial in 1..=3 {
        watched.leased(trial, 1);
    }
    watched.reported(1, 1, 5, 80.0);
    assert_eq!(watched.0.tally(), Tally { total: 3, running: 3, ..Tally::default() });
    assert_eq!(watched.succeeded(1, 1, 85.0), Some(Notice::Ended { trial: 1, is_new: false }));
    assert_eq!(watched.failed(2, FailureClass::Diverged), Some(Notice::Ended { trial: 2, is_new: true }));
    assert!(!watched.0.is_over());
    assert_eq!(watched.succeeded(3, 1, 83.0), Some(Notice::Ended { trial: 3, is_new: false }));
    assert!(!watched.0.is_over(), "the sweep says itself when it has ended");
    assert_eq!(watched.on(EventKind::Ended, 0, 0), None);
    assert!(watched.0.is_over());
    assert_eq!(watched.0.tally(), Tally { total: 3, succeeded: 2, diverged: 1, ..Tally::default() });
    assert_eq!(watched.0.best().map(|run| run.id), Some(1));
    assert_eq!(watched.0.running().count(), 0);
    insta::assert_snapshot!(report::summary(&watched.0), @"sweep 3f2a9c01 study ended after 1m 20s: 2 succeeded, 1 diverged; best val/top1 85.00  trial 1 lr=1 seed=0");
}

#[test]
fn an_event_that_comes_twice_changes_nothing() {
    let mut watched = Watched::new("maximize", "last", 1);
    watched.leased(1, 1);
    let event = watched.event(EventKind::Succeeded, 1, 1);
    assert!(watched.0.apply(&event).is_some());
    let before = watched.0.clone();
    assert_eq!(watched.0.apply(&event), None);
    assert_eq!(format!("{before:?}"), format!("{:?}", watched.0));
}

#[test]
fn events_older_than_the_first_reading_take_nothing_back() {
    let mut reading = trial(1, 0.5);
    reading.state = TrialState::Succeeded as i32;
    reading.attempt = 2;
    let mut running = trial(2, 0.5);
    running.state = TrialState::Running as i32;
    running.attempt = 3;
    let state = State::new(&sweep("maximize", "last"), vec![reading, running]).expect("valid");
    let mut watched = Watched(state);
    watched.leased(1, 2);
    watched.on(EventKind::Requeued, 2, 2);
    assert_eq!(watched.succeeded(1, 2, 1.0), None, "it was counted in the reading");
    assert_eq!(watched.0.tally(), Tally { total: 2, running: 1, succeeded: 1, ..Tally::default() });
}

#[test]
fn a_lost_attempt_starts_again_from_nothing() {
    let mut watched = Watched::new("maximize", "last", 1);
    watched.leased(1, 1);
    watched.reported(1, 1, 7, 80.0);
    assert_eq!(watched.on(EventKind::Requeued, 1, 1), Some(Notice::Requeued { trial: 1 }));
    assert_eq!(watched.0.tally().running, 0);
    watched.leased(1, 2);
    let run = watched.0.trial(1).expect("known");
    assert_eq!((run.epoch, run.score, run.attempt), (0, None, 2));
}

#[test]
fn only_the_first_failure_of_a_class_is_new() {
    let mut watched = Watched::new("maximize", "last", 3);
    assert_eq!(watched.failed(1, FailureClass::CudaOom), Some(Notice::Ended { trial: 1, is_new: true }));
    assert_eq!(watched.failed(2, FailureClass::CudaOom), Some(Notice::Ended { trial: 2, is_new: false }));
    assert_eq!(watched.failed(3, FailureClass::Timeout), Some(Notice::Ended { trial: 3, is_new: true }));
}

#[test]
fn failures_before_the_watch_are_not_new() {
    let mut failed = trial(1, 0.5);
    failed.state = TrialState::Failed as i32;
    failed.failure = FailureClass::CudaOom as i32;
    let state = State::new(&sweep("maximize", "last"), vec![failed, trial(2, 1.0)]).expect("valid");
    let mut watched = Watched(state);
    assert_eq!(watched.failed(2, FailureClass::CudaOom), Some(Notice::Ended { trial: 2, is_new: false }));
}

#[test]
fn the_score_is_of_the_last_or_of_the_best_epoch() {
    for (goal, at, expected) in [
        ("maximize", "last", 84.0),
        ("minimize", "last", 84.0),
        ("maximize", "best", 90.0),
        ("minimize", "best", 80.0),
    ] {
        let mut watched = Watched::new(goal, at, 1);
        watched.leased(1, 1);
        for (epoch, top1) in [(1, 80.0), (2, 90.0), (3, 84.0)] {
            watched.reported(1, 1, epoch, top1);
        }
        watched.succeeded(1, 1, 84.0);
        assert_eq!(watched.0.trial(1).expect("known").score, Some(expected), "{goal} {at}");
    }
}

#[test]
fn trials_of_a_stage_that_opens_later_are_asked_for() {
    let mut watched = Watched::new("maximize", "last", 2);
    let events = [12, 9, 1, 0].map(|trial| watched.event(EventKind::Leased, trial, 1));
    assert_eq!(watched.0.missing_after(&events), Some(2), "everything after 2 is to be asked for");
    assert_eq!(watched.0.missing_after(&events[2..]), None, "1 is known, 0 is the sweep");
    // When they are asked for, trial 9 has ended already; the events that say so are still to come.
    let opened = [9, 12].map(|id| Trial {
        state: TrialState::Succeeded as i32,
        attempt: 1,
        stage: "final".into(),
        ..trial(id, 1.0)
    });
    watched.0.introduce(opened.to_vec()).expect("valid");
    assert_eq!(watched.0.missing_after(&events), None);
    assert_eq!(watched.0.tally(), Tally { total: 4, ..Tally::default() });
    watched.leased(9, 1);
    assert_eq!(watched.succeeded(9, 1, 80.0), Some(Notice::Ended { trial: 9, is_new: false }));
    let label = watched.0.label(watched.0.trial(9).expect("known"));
    assert_eq!(label, "final lr=1 seed=0", "wd does not vary");
}

#[test]
fn the_time_left_follows_from_the_trials_that_ended() {
    let mut watched = Watched::new("maximize", "last", 4);
    assert_eq!(watched.0.remaining(), None);
    watched.leased(1, 1); // at 10 s
    watched.leased(2, 1);
    watched.succeeded(1, 1, 80.0); // at 30 s: 20 s a trial
    watched.leased(3, 1);
    assert_eq!(watched.0.remaining(), Some(30.0), "three trials of 20 s, two at once");
    watched.reported(2, 1, 5, 80.0);
    assert_eq!(watched.0.remaining(), Some(25.0), "trial 2 is half done");
}

#[test]
fn a_pause_is_not_the_end() {
    let mut watched = Watched::new("maximize", "last", 1);
    assert_eq!(watched.on(EventKind::Paused, 0, 0), Some(Notice::Paused));
    assert_eq!(watched.0.phase, Phase::Paused);
    assert!(!watched.0.is_over());
    assert_eq!(watched.on(EventKind::Resumed, 0, 0), Some(Notice::Resumed));
    assert_eq!(watched.0.phase, Phase::Active);
}

#[test]
fn a_cancelled_sweep_is_over_when_its_trials_are() {
    let mut watched = Watched::new("maximize", "last", 1);
    watched.on(EventKind::Cancelled, 0, 0);
    assert!(!watched.0.is_over());
    watched.on(EventKind::Cancelled, 1, 0);
    watched.on(EventKind::Ended, 0, 0);
    assert!(watched.0.is_over());
    assert_eq!(watched.0.phase, Phase::Cancelled);
    assert_eq!(report::verdict(&watched.0), Outcome::SweepFailed);
}

#[test]
fn a_sweep_fails_by_failures_but_not_by_diverged_trials() {
    let ending = |ends: &[Option<FailureClass>]| {
        let mut watched = Watched::new("maximize", "last", ends.len() as i64);
        for (trial, end) in (1..).zip(ends) {
            match end {
                Some(class) => watched.failed(trial, *class),
                None => watched.succeeded(trial, 1, 80.0),
            };
        }
        watched.on(EventKind::Ended, 0, 0);
        report::verdict(&watched.0)
    };
    assert_eq!(ending(&[None, None]), Outcome::Done);
    assert_eq!(ending(&[None, Some(FailureClass::Diverged)]), Outcome::Done);
    assert_eq!(ending(&[None, Some(FailureClass::CudaOom)]), Outcome::SweepFailed);
    assert_eq!(ending(&[Some(FailureClass::Diverged)]), Outcome::SweepFailed, "nothing came out of it");
}

#[test]
fn the_sentences_of_a_watch() {
    let mut watched = Watched::new("maximize", "last", 4);
    let mut said = vec![report::opening(&watched.0)];
    watched.leased(1, 1);
    watched.leased(2, 1);
    said.push(report::progress(&watched.0));
    watched.succeeded(1, 1, 87.204);
    watched.failed(2, FailureClass::Diverged);
    for id in [1, 2] {
        said.push(report::ended(&watched.0, watched.0.trial(id).expect("known")));
    }
    watched.leased(3, 1);
    said.push(report::progress(&watched.0));
    let lost = Event { message: "worker gpu-03 was lost".into(), ..watched.event(EventKind::Requeued, 3, 1) };
    watched.0.apply(&lost);
    said.push(report::requeued(&watched.0, watched.0.trial(3).expect("known")));
    watched.on(EventKind::Paused, 0, 0);
    said.push(report::opening(&watched.0));
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn curves_run_from_the_lowest_to_the_highest_value() {
    assert_eq!(report::curve(&[]), "");
    assert_eq!(report::curve(&[1.0]), "");
    assert_eq!(report::curve(&[0.0, f64::NAN, 7.0]), "▁█");
    assert_eq!(report::curve(&[3.0, 3.0]), "▅▅");
    let rising: Vec<f64> = (0..100).map(f64::from).collect();
    let curve = report::curve(&rising);
    assert_eq!(curve.chars().count(), 12);
    assert!(curve.starts_with('▁') && curve.ends_with('█'), "{curve}");
}

#[test]
fn a_curve_is_of_the_attempt_that_runs() {
    let mut watched = Watched::new("maximize", "last", 1);
    let reported = |watched: &mut Watched, attempt, value| {
        let event = Event {
            metrics: [("val/top1".to_owned(), value)].into(),
            ..watched.event(EventKind::Reported, 1, attempt)
        };
        watched.0.apply(&event);
    };
    watched.leased(1, 1);
    reported(&mut watched, 1, 50.0);
    watched.on(EventKind::Requeued, 1, 1);
    watched.leased(1, 2);
    reported(&mut watched, 2, 40.0);
    reported(&mut watched, 2, 60.0);
    assert_eq!(watched.0.trial(1).expect("known").curve, [40.0, 60.0]);
    watched.on(EventKind::Succeeded, 1, 2);
    assert!(watched.0.trial(1).expect("known").curve.is_empty());
}
