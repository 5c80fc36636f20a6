//! Every state against every command.

use super::*;

const NOW: Millis = 1_000_000;

fn policy() -> Policy {
    Policy {
        max_attempts: 3,
        first_ms: 30_000,
        factor: 2.0,
        max_ms: 60_000,
        never: vec![FailureClass::InvalidConfig],
        poison_after: Some(3),
    }
}

fn worker(name: &str) -> WorkerId {
    WorkerId(name.to_owned())
}

fn trial(state: State) -> Trial {
    Trial {
        id: TrialId(7),
        attempt: 2,
        failures: 1,
        interruptions: 0,
        lost: 0,
        failed_on: None,
        epoch: 4,
        state,
    }
}

fn states() -> Vec<State> {
    vec![
        State::Queued { not_before: NOW },
        State::Running { worker: worker("a") },
        State::Succeeded { at: 5 },
        State::Stopped { at: 5 },
        State::Failed { class: FailureClass::CodeError, message: "boom".to_owned(), at: 5 },
        State::Cancelled { at: 5 },
    ]
}

fn by(worker_name: &str, attempt: u32) -> Holder {
    Holder { worker: worker(worker_name), attempt }
}

fn worker_commands(by: &Holder) -> Vec<Command> {
    let mut commands = vec![
        Command::Renew { by: by.clone() },
        Command::Report { by: by.clone(), epoch: 5 },
        Command::Succeed { by: by.clone() },
        Command::Interrupt { by: by.clone(), cause: Cause::Drained, message: "drain".to_owned() },
    ];
    commands.extend(FailureClass::ALL.map(|class| Command::Fail {
        by: by.clone(),
        class,
        message: "m".to_owned(),
    }));
    commands
}

fn run(trial: &Trial, command: Command) -> Result<(Trial, Event), Rejected> {
    apply(trial, &policy(), command, NOW)
}

#[test]
fn lease_takes_queued_trials_only() {
    for state in states() {
        let before = trial(state);
        let outcome = run(&before, Command::Lease { worker: worker("b") });
        match &before.state {
            State::Queued { .. } => {
                let (after, event) = outcome.unwrap();
                assert_eq!(event, Event::Leased);
                assert_eq!(after.attempt, 3);
                assert_eq!(after.epoch, 0);
                assert_eq!(after.state, State::Running { worker: worker("b") });
                assert_eq!((after.failures, after.interruptions), (1, 0));
            }
            other => {
                assert_eq!(outcome.unwrap_err(), Rejected::Illegal { state: other.name(), command: "lease" })
            }
        }
    }
}

#[test]
fn lease_waits_for_the_backoff() {
    let before = trial(State::Queued { not_before: NOW + 1 });
    assert_eq!(
        run(&before, Command::Lease { worker: worker("b") }).unwrap_err(),
        Rejected::TooEarly { not_before: NOW + 1 }
    );
}

#[test]
fn only_the_holder_of_a_running_trial_may_write() {
    for state in states() {
        let before = trial(state);
        for (holder, wrong) in [
            (by("a", 1), Some(Rejected::LeasedAgain { attempt: 2 })),
            (by("b", 2), Some(Rejected::OtherWorker)),
            (by("a", 3), Some(Rejected::NoSuchAttempt { attempt: 3 })),
            (by("a", 0), Some(Rejected::NoSuchAttempt { attempt: 0 })),
            (by("a", 2), None),
        ] {
            for command in worker_commands(&holder) {
                let expected = match (&before.state, &wrong) {
                    (_, Some(error @ Rejected::NoSuchAttempt { .. })) => Some(error.clone()),
                    (State::Running { .. }, wrong) => wrong.clone(),
                    (State::Queued { .. }, _) => Some(Rejected::Expired),
                    (State::Succeeded { .. } | State::Failed { .. }, _) => Some(Rejected::Ended),
                    (State::Stopped { .. }, _) => Some(Rejected::Stopped),
                    (State::Cancelled { .. }, _) => Some(Rejected::Cancelled),
                };
                assert_eq!(run(&before, command.clone()).err(), expected, "{before:?} {command:?}");
            }
        }
    }
}

#[test]
fn only_running_trials_are_stopped_and_only_failed_ones_revived() {
    for state in states() {
        let before = trial(state);
        match (&before.state, run(&before, Command::Stop)) {
            (State::Running { .. }, outcome) => {
                let (after, event) = outcome.unwrap();
                assert_eq!(
                    (after.state, event, after.attempt),
                    (State::Stopped { at: NOW }, Event::Stopped, 2)
                );
            }
            (state, outcome) => {
                assert_eq!(outcome.unwrap_err(), Rejected::Illegal { state: state.name(), command: "stop" });
            }
        }
        match (&before.state, run(&before, Command::Revive)) {
            (State::Failed { .. }, outcome) => {
                let (after, event) = outcome.unwrap();
                assert_eq!((after.state, event), (State::Queued { not_before: NOW }, Event::Revived));
                assert_eq!(
                    (after.attempt, after.failures, after.interruptions),
                    (2, 0, 0),
                    "attempts only grow"
                );
            }
            (state, outcome) => {
                assert_eq!(
                    outcome.unwrap_err(),
                    Rejected::Illegal { state: state.name(), command: "revive" }
                );
            }
        }
    }
}

#[test]
fn report_never_goes_back() {
    let before = trial(State::Running { worker: worker("a") });
    let (after, event) = run(&before, Command::Report { by: by("a", 2), epoch: 9 }).unwrap();
    assert_eq!((after.epoch, event), (9, Event::Reported { epoch: 9 }));
    let (after, event) = run(&before, Command::Report { by: by("a", 2), epoch: 1 }).unwrap();
    assert_eq!((after.epoch, event), (4, Event::Reported { epoch: 4 }));
    assert_eq!(after, before);
}

#[test]
fn success_ends_the_trial() {
    let before = trial(State::Running { worker: worker("a") });
    let (after, event) = run(&before, Command::Succeed { by: by("a", 2) }).unwrap();
    assert_eq!(event, Event::Succeeded);
    assert_eq!(after, Trial { state: State::Succeeded { at: NOW }, ..before });
}

#[test]
fn failures_are_retried_until_attempts_are_spent() {
    for class in FailureClass::ALL {
        for failures in 0..3 {
            let before = Trial { failures, ..trial(State::Running { worker: worker("a") }) };
            let fail = Command::Fail { by: by("a", 2), class, message: "m".to_owned() };
            let (after, event) = run(&before, fail).unwrap();
            assert_eq!(after.failures, failures + 1);
            let end = End { how: How::Failed(class), message: "m".to_owned() };
            let never = matches!(class, FailureClass::InvalidConfig | FailureClass::Diverged);
            if never || failures == 2 {
                assert_eq!(event, Event::Failed { end });
                assert_eq!(after.state, State::Failed { class, message: "m".to_owned(), at: NOW });
            } else {
                assert_eq!(event, Event::Requeued { end });
                assert!(matches!(after.state, State::Queued { .. }));
            }
        }
    }
}

#[test]
fn backoff_grows_to_its_bound_and_is_the_same_each_time() {
    let wait = |failures, id| {
        let before = Trial { failures, id: TrialId(id), ..trial(State::Running { worker: worker("a") }) };
        let generous = Policy { max_attempts: 100, ..policy() };
        let fail = Command::Fail { by: by("a", 2), class: FailureClass::CodeError, message: String::new() };
        match apply(&before, &generous, fail, NOW).unwrap().0.state {
            State::Queued { not_before } => not_before - NOW,
            other => panic!("{other:?}"),
        }
    };
    for id in 0..200 {
        assert!((24_000..=30_000).contains(&wait(0, id)));
        assert!((48_000..=60_000).contains(&wait(1, id)));
        assert!((48_000..=60_000).contains(&wait(40, id)));
        assert_eq!(wait(0, id), wait(0, id));
    }
    let different: std::collections::BTreeSet<_> = (0..200).map(|id| wait(0, id)).collect();
    assert!(different.len() > 150, "jitter spreads: {}", different.len());
}

#[test]
fn a_bad_node_never_makes_the_trial_wait_longer() {
    for failures in [0, 1] {
        let before = Trial { failures, ..trial(State::Running { worker: worker("a") }) };
        let class = FailureClass::BadNode;
        let fail = Command::Fail { by: by("a", 2), class, message: String::new() };
        let after = run(&before, fail).unwrap().0;
        assert!(matches!(after.state, State::Queued { not_before } if not_before <= NOW + 30_000));
        assert_eq!(after.failed_on, Some(worker("a")));
    }
}

#[test]
fn a_trial_that_loses_worker_after_worker_is_parked() {
    let before = trial(State::Running { worker: worker("a") });
    let expire = |before: &Trial| run(before, Command::Expire { attempt: 2 }).unwrap();
    let (after, _) = expire(&before);
    assert_eq!((after.lost, after.interruptions, after.failures), (1, 1, 1));
    assert_eq!(after.state, State::Queued { not_before: NOW }, "the first is a misfortune");
    let (after, _) = expire(&Trial { lost: 1, ..before.clone() });
    assert!(matches!(after.state, State::Queued { not_before } if not_before > NOW), "then it slows down");
    let (after, event) = expire(&Trial { lost: 2, ..before.clone() });
    let Event::Failed { end } = event else { panic!("{event:?}") };
    assert_eq!(end.how, How::Interrupted(Cause::WorkerLost));
    match after.state {
        State::Failed { class: FailureClass::Poison, message, .. } => {
            assert!(message.contains("3 workers were lost") && message.contains("worker a"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    let patient = Policy { poison_after: None, ..policy() };
    let (after, _) =
        apply(&Trial { lost: 40, ..before.clone() }, &patient, Command::Expire { attempt: 2 }, NOW).unwrap();
    assert!(matches!(after.state, State::Queued { .. }), "unless the sweep says so");
    let interrupt = Command::Interrupt { by: by("a", 2), cause: Cause::Preempted, message: String::new() };
    let (after, _) = run(&Trial { lost: 2, ..before }, interrupt).unwrap();
    assert_eq!((after.lost, after.state), (2, State::Queued { not_before: NOW }), "only lost workers count");
}

#[test]
fn interruptions_spend_no_retry_but_have_a_ceiling() {
    for cause in [Cause::Preempted, Cause::Drained] {
        let before = trial(State::Running { worker: worker("a") });
        let interrupt = Command::Interrupt { by: by("a", 2), cause, message: "m".to_owned() };
        let (after, event) = run(&before, interrupt.clone()).unwrap();
        let end = End { how: How::Interrupted(cause), message: "m".to_owned() };
        assert_eq!(event, Event::Requeued { end: end.clone() });
        assert_eq!((after.failures, after.interruptions), (1, 1));
        assert_eq!(after.state, State::Queued { not_before: NOW });

        let last = Trial { interruptions: MAX_INTERRUPTIONS - 1, ..before };
        let (after, event) = run(&last, interrupt).unwrap();
        assert_eq!(event, Event::Failed { end });
        match after.state {
            State::Failed { class: FailureClass::BadNode, message, .. } => {
                assert!(message.contains("50 attempts"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn expiry_requeues_the_attempt_that_holds_the_lease() {
    for state in states() {
        let before = trial(state);
        for attempt in [0, 1, 2, 3] {
            let outcome = run(&before, Command::Expire { attempt });
            if matches!(before.state, State::Running { .. }) && attempt == 2 {
                let (after, event) = outcome.unwrap();
                let Event::Requeued { end } = event else { panic!("{event:?}") };
                assert_eq!(end.how, How::Interrupted(Cause::WorkerLost));
                assert_eq!(after.state, State::Queued { not_before: NOW });
            } else {
                assert!(outcome.is_err(), "{before:?} {attempt}");
            }
        }
    }
}

#[test]
fn cancel_ends_what_has_not_ended() {
    for state in states() {
        let before = trial(state);
        let outcome = run(&before, Command::Cancel);
        match &before.state {
            State::Queued { .. } | State::Running { .. } => {
                let (after, event) = outcome.unwrap();
                let was_running = matches!(before.state, State::Running { .. });
                assert_eq!(event, Event::Cancelled { was_running });
                assert_eq!(after, Trial { state: State::Cancelled { at: NOW }, ..before });
            }
            other => {
                assert!(other.is_terminal());
                assert_eq!(
                    outcome.unwrap_err(),
                    Rejected::Illegal { state: other.name(), command: "cancel" }
                );
            }
        }
    }
}
