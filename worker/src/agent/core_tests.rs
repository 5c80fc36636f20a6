//! The agent's decisions, fact by fact. Every test takes all orders it expects, so that one too many fails it.

use proto::v1::Progress;

use super::*;
use crate::agent::death::Status;

const DRAIN: Event = Event::Drain { within: Duration::from_secs(20) };
const TTL: Duration = Duration::from_secs(60);

fn at(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

fn token(trial_id: i64) -> Token {
    Token { trial_id, attempt: 1 }
}

fn ready() -> FromTrainer {
    FromTrainer::Ready { device: "cpu".into() }
}

fn assignment(trial_id: i64) -> Assignment {
    Assignment {
        trial_id,
        attempt: 1,
        recipe_json: r#"{"task":"dtd"}"#.into(),
        seed: 7,
        ..Default::default()
    }
}

fn epoch(trial: i64, epoch: u32) -> FromTrainer {
    FromTrainer::Epoch { trial, attempt: 1, epoch, metrics: [("val/top1".to_owned(), 0.5)].into() }
}

fn done(trial: i64) -> FromTrainer {
    FromTrainer::Done {
        trial,
        attempt: 1,
        metrics: [("test/top1".to_owned(), 0.75)].into(),
        artifact: None,
        pruning: None,
        inputs: String::new(),
        code: String::new(),
        reused: None,
    }
}

fn point(epoch: u32) -> Point {
    Point { name: "val/top1".into(), epoch, value: 0.5 }
}

fn death(status: Status) -> Death {
    Death { status, oom_killed: false, stderr: vec!["last words".into()] }
}

fn lost(trial_id: i64) -> Lost {
    Lost { token: Some(token(trial_id)), reason: "cancelled".into() }
}

fn leased(sent: Time, trials: &[i64]) -> Event {
    Event::Leased { sent, assignments: trials.iter().map(|&trial| assignment(trial)).collect() }
}

fn lease(max: u32) -> Order {
    Order::Lease { max, wait: Duration::from_secs(15), warm: Vec::new() }
}

fn send(slot: usize, trial: i64) -> Order {
    let recipe = serde_json::json!({"task": "dtd"});
    let message = ToTrainer::Run {
        sweep: String::new(),
        trial,
        attempt: 1,
        recipe,
        seed: 7,
        start: None,
        from: None,
        checkpoint_every_ms: 0,
        prefix: None,
        keep: None,
        reusable: Vec::new(),
    };
    Order::Send { slot, message }
}

fn terms() -> Event {
    Event::Registered(Terms { ttl: TTL, report_every: Duration::from_secs(2) })
}

/// A registered agent whose trainers are ready and whose request for leases is under way.
fn idle(slots: usize) -> Core {
    let mut core = Core::new(slots, None);
    let spawned: Vec<Order> = (0..slots).map(|slot| Order::Spawn { slot }).collect();
    assert_eq!(core.begin(), spawned);
    for slot in 0..slots {
        let orders = core.step(at(0), Event::Said { slot, message: ready() });
        let register = Order::Register { devices: vec!["cpu".into()] };
        assert_eq!(orders, if slot + 1 == slots { vec![register] } else { vec![] });
    }
    assert_eq!(core.step(at(0), terms()), [lease(slots as u32)]);
    core
}

/// An agent of one slot that runs trial 1, leased at second 0.
fn running() -> Core {
    let mut core = idle(1);
    assert_eq!(core.step(at(0), leased(at(0), &[1])), [send(0, 1)]);
    core
}

fn only_end(orders: &[Order]) -> &End {
    let ends: Vec<&End> = orders
        .iter()
        .flat_map(|order| match order {
            Order::Finish { ends } => ends.as_slice(),
            _ => &[],
        })
        .collect();
    assert_eq!(ends.len(), 1, "{orders:?}");
    ends[0]
}

fn class_of(end: &End) -> Class {
    match &end.how {
        Some(How::Failure(failure)) => failure.class(),
        other => panic!("not a failure: {other:?}"),
    }
}

fn kills(orders: &[Order]) -> Vec<usize> {
    let killed = |order: &Order| if let Order::Kill { slot, .. } = order { Some(*slot) } else { None };
    orders.iter().filter_map(killed).collect()
}

#[test]
fn a_trial_runs_from_lease_to_accepted_end() {
    let mut core = running();
    assert_eq!(core.step(at(1), Event::Said { slot: 0, message: epoch(1, 1) }), []);
    let orders = core.step(at(2), Event::Said { slot: 0, message: done(1) });
    let how =
        How::Success(Success { metrics: [("test/top1".to_owned(), 0.75)].into(), ..Default::default() });
    let end = End { token: Some(token(1)), points: vec![point(1)], how: Some(how), ..Default::default() };
    assert_eq!(orders, [Order::Finish { ends: vec![end] }, lease(1)]);
    assert_eq!(core.step(at(3), Event::Finished), []);
    // Nothing is held any more, so nothing is renewed.
    assert_eq!(core.step(at(20), Event::Tick), []);
    assert_eq!(core.wakes_at(), None);
}

#[test]
fn points_are_reported_together_and_again_after_a_lost_reply() {
    let mut core = running();
    core.step(at(1), Event::Said { slot: 0, message: epoch(1, 1) });
    assert_eq!(core.wakes_at(), Some(at(3)));
    assert_eq!(core.step(at(2), Event::Said { slot: 0, message: epoch(1, 2) }), []);
    let report = |epochs: &[u32]| Order::Report {
        progress: vec![Progress {
            token: Some(token(1)),
            points: epochs.iter().map(|&epoch| point(epoch)).collect(),
            ..Default::default()
        }],
    };
    assert_eq!(core.step(at(3), Event::Tick), [report(&[1, 2])]);
    assert_eq!(core.step(at(4), Event::Said { slot: 0, message: epoch(1, 3) }), []);
    assert_eq!(core.step(at(7), Event::Tick), [], "one report at a time");
    assert_eq!(core.step(at(8), Event::ReportFailed), []);
    assert_eq!(core.step(at(10), Event::Tick), [report(&[1, 2, 3])]);
    assert_eq!(core.step(at(10), Event::Reported { lost: vec![] }), []);
    let orders = core.step(at(11), Event::Said { slot: 0, message: done(1) });
    assert_eq!(only_end(&orders).points, []);
}

#[test]
fn an_end_carries_the_points_of_the_report_under_way() {
    let mut core = running();
    core.step(at(1), Event::Said { slot: 0, message: epoch(1, 1) });
    core.step(at(3), Event::Tick);
    core.step(at(4), Event::Said { slot: 0, message: epoch(1, 2) });
    let orders = core.step(at(5), Event::Said { slot: 0, message: done(1) });
    assert_eq!(only_end(&orders).points, [point(1), point(2)]);
}

#[test]
fn a_renewal_prolongs_and_its_absence_kills() {
    let mut core = running();
    assert_eq!(core.wakes_at(), Some(at(20)));
    assert_eq!(core.step(at(20), Event::Tick), [Order::Renew { tokens: vec![token(1)] }]);
    assert_eq!(core.wakes_at(), Some(at(45)), "one renewal at a time");
    let held = vec![token(1)];
    assert_eq!(
        core.step(at(22), Event::Renewed { sent: at(20), asked: held.clone(), held, lost: vec![] }),
        []
    );
    // The new time counts from before the call: until 80, with a margin of 15.
    assert_eq!(core.step(at(40), Event::Tick), [Order::Renew { tokens: vec![token(1)] }]);
    assert_eq!(core.step(at(62), Event::RenewFailed), []);
    assert_eq!(core.step(at(64), Event::Tick), [Order::Renew { tokens: vec![token(1)] }]);
    let orders = core.step(at(65), Event::Tick);
    assert_eq!(kills(&orders), [0]);
    assert!(matches!(&only_end(&orders).how, Some(How::Interruption(i)) if i.cause == "preempted"));
    // The late answer changes nothing: the run is dead.
    let renewed = Event::Renewed { sent: at(64), asked: vec![token(1)], held: vec![token(1)], lost: vec![] };
    assert_eq!(core.step(at(66), renewed), []);
    assert_eq!(
        core.step(at(66), Event::Died { slot: 0, death: death(Status::Signal(9)) }),
        [Order::Spawn { slot: 0 }]
    );
}

#[test]
fn a_lost_lease_kills_the_run_and_nothing_is_sent() {
    let in_renewal =
        Event::Renewed { sent: at(20), asked: vec![token(1)], held: vec![], lost: vec![lost(1)] };
    let unnamed = Event::Renewed { sent: at(20), asked: vec![token(1)], held: vec![], lost: vec![] };
    let in_report = Event::Reported { lost: vec![lost(1)] };
    for event in [in_renewal, unnamed, in_report] {
        let mut core = running();
        let orders = core.step(at(20), event);
        assert_eq!(kills(&orders), [0]);
        assert!(!orders.iter().any(|order| matches!(order, Order::Finish { .. })));
        // A result that was on its way is void.
        assert_eq!(core.step(at(21), Event::Said { slot: 0, message: done(1) }), []);
        let died = Event::Died { slot: 0, death: death(Status::Signal(9)) };
        assert_eq!(core.step(at(21), died), [Order::Spawn { slot: 0 }]);
        assert_eq!(core.step(at(22), Event::Said { slot: 0, message: ready() }), [lease(1)]);
    }
}

#[test]
fn what_was_leased_during_a_renewal_is_not_lost_by_it() {
    let mut core = idle(2);
    core.step(at(0), leased(at(0), &[1]));
    core.step(at(20), Event::Tick);
    assert_eq!(core.step(at(21), leased(at(10), &[2])), [send(1, 2)]);
    let renewed = Event::Renewed { sent: at(20), asked: vec![token(1)], held: vec![token(1)], lost: vec![] };
    assert_eq!(core.step(at(22), renewed), []);
}

#[test]
fn an_end_under_way_is_renewed_and_survives_an_outage() {
    let mut core = running();
    core.step(at(1), Event::Said { slot: 0, message: done(1) });
    core.step(at(2), leased(at(1), &[2]));
    assert_eq!(core.step(at(20), Event::Tick), [Order::Renew { tokens: vec![token(2), token(1)] }]);
    core.step(at(15), Event::RenewFailed);
    // The second end waits for the first to be answered, for as long as it takes.
    let orders = core.step(at(30), Event::Said { slot: 0, message: done(2) });
    assert_eq!(orders, [Order::Renew { tokens: vec![token(2), token(1)] }, lease(1)]);
    let orders = core.step(at(500), Event::Finished);
    assert_eq!(only_end(&orders).token, Some(token(2)));
}

#[test]
fn a_timeout_is_a_failure_of_its_own() {
    let mut core = idle(1);
    let assignments = vec![Assignment { timeout_ms: 5_000, ..assignment(1) }];
    core.step(at(1), Event::Leased { sent: at(0), assignments });
    assert_eq!(core.wakes_at(), Some(at(6)));
    let orders = core.step(at(6), Event::Tick);
    assert_eq!(kills(&orders), [0]);
    assert_eq!(class_of(only_end(&orders)), Class::Timeout);
    let died = Event::Died { slot: 0, death: death(Status::Signal(9)) };
    assert_eq!(core.step(at(6), died), [Order::Spawn { slot: 0 }]);
}

#[test]
fn a_trainer_that_dies_ends_its_attempt_and_is_replaced() {
    let mut core = running();
    let orders = core.step(at(1), Event::Died { slot: 0, death: death(Status::Exit(101)) });
    assert_eq!(orders[0], Order::Spawn { slot: 0 });
    assert_eq!(class_of(only_end(&orders)), Class::CodeError);
    assert_eq!(orders.len(), 2);
}

#[test]
fn a_broken_line_or_another_attempts_message_is_an_error_of_the_trainer() {
    let garbled = Event::Garbled { slot: 0, problem: "not JSON".into() };
    let foreign = Event::Said { slot: 0, message: done(2) };
    for event in [garbled, foreign] {
        let mut core = running();
        let orders = core.step(at(1), event);
        assert_eq!(kills(&orders), [0]);
        assert_eq!(class_of(only_end(&orders)), Class::CodeError);
        assert_eq!(orders.len(), 2);
    }
}

#[test]
fn trainers_that_never_start_are_restarted_ever_later_then_given_up() {
    let mut core = Core::new(1, None);
    core.begin();
    let died = || Event::Died { slot: 0, death: death(Status::Exit(1)) };
    assert_eq!(core.step(at(0), died()), []);
    assert_eq!(core.wakes_at(), Some(Duration::from_millis(500)));
    assert_eq!(core.step(at(1), Event::Tick), [Order::Spawn { slot: 0 }]);
    assert_eq!(core.step(at(1), died()), []);
    assert_eq!(core.wakes_at(), Some(at(2)));
    assert_eq!(core.step(at(2), Event::Tick), [Order::Spawn { slot: 0 }]);
    let orders = core.step(at(2), died());
    assert!(
        matches!(&orders[..], [Order::GiveUp { problem }] if problem.contains("last words")),
        "{orders:?}"
    );
}

#[test]
fn a_registered_agent_keeps_trying_to_start_trainers() {
    let mut core = running();
    let mut now = at(0);
    core.step(now, Event::Died { slot: 0, death: death(Status::Exit(1)) });
    for _ in 0..20 {
        let orders = core.step(now, Event::Died { slot: 0, death: death(Status::Exit(1)) });
        assert_eq!(orders.iter().filter(|order| matches!(order, Order::GiveUp { .. })).count(), 0);
        let next = core.wakes_at().unwrap();
        assert!(next - now <= Duration::from_secs(60));
        now = now.max(next) + Duration::from_secs(60);
        core.step(now, Event::Tick);
    }
}

#[test]
fn what_cannot_run_is_handed_back_at_once() {
    let mut core = idle(1);
    let orders = core.step(at(0), leased(at(0), &[1, 2]));
    assert_eq!(orders[0], send(0, 1));
    let end = only_end(&orders);
    assert_eq!(end.token, Some(token(2)));
    assert!(matches!(&end.how, Some(How::Interruption(i)) if i.cause == "preempted"));

    let mut core = idle(1);
    let orders = core.step(at(50), leased(at(0), &[1]));
    assert!(matches!(&only_end(&orders).how, Some(How::Interruption(i)) if i.cause == "preempted"));
    assert_eq!(orders[1..], [lease(1)]);

    let mut core = idle(1);
    let assignments = vec![Assignment { recipe_json: "{".into(), ..assignment(1) }];
    let orders = core.step(at(0), Event::Leased { sent: at(0), assignments });
    assert_eq!(class_of(only_end(&orders)), Class::InvalidConfig);
}

#[test]
fn draining_tells_first_then_hands_back_then_ends() {
    let mut core = idle(2);
    core.step(at(0), leased(at(0), &[1]));
    let orders = core.step(at(1), DRAIN);
    assert_eq!(orders[0], Order::Drain);
    assert_eq!(kills(&orders), [0, 1]);
    assert_eq!(orders.len(), 3, "nothing is handed back before the coordinator knows");
    assert_eq!(core.step(at(1), DRAIN), [], "once is enough");
    for slot in [0, 1] {
        assert_eq!(core.step(at(2), Event::Died { slot, death: death(Status::Signal(9)) }), []);
    }
    let orders = core.step(at(3), Event::Drained);
    assert!(matches!(&only_end(&orders).how, Some(How::Interruption(i)) if i.cause == "drained"));
    core.step(at(3), Event::Finished);
    assert!(!core.is_done(), "a request for leases is still under way");
    let orders = core.step(at(3), leased(at(0), &[2]));
    assert!(matches!(&only_end(&orders).how, Some(How::Interruption(i)) if i.cause == "drained"));
    assert!(!core.is_done());
    assert_eq!(core.step(at(4), Event::Finished), []);
    assert!(core.is_done());
}

#[test]
fn a_trainer_is_replaced_behind_a_crash_but_not_behind_bad_data() {
    let failed = |class| FromTrainer::Failed { trial: 1, attempt: 1, class, message: "it failed".into() };
    for (class, is_killed) in [
        (FailureClass::BadData, false),
        (FailureClass::InvalidConfig, false),
        (FailureClass::Diverged, false),
        (FailureClass::CodeError, true),
        (FailureClass::CudaOom, true),
        (FailureClass::HostOom, true),
        (FailureClass::BadNode, true),
    ] {
        let mut core = running();
        let orders = core.step(at(5), Event::Said { slot: 0, message: failed(class) });
        assert_eq!(class_of(only_end(&orders)), wire(class));
        assert_eq!(kills(&orders), if is_killed { vec![0] } else { vec![] }, "{class:?}");
    }
}

#[test]
fn no_report_carries_more_points_than_a_call_may() {
    let mut core = running();
    for number in 1..=6_000 {
        core.step(at(1), Event::Said { slot: 0, message: epoch(1, number) });
    }
    let reported = |orders: Vec<Order>| {
        orders.into_iter().find_map(|order| match order {
            Order::Report { progress } => Some(progress[0].points.len()),
            _ => None,
        })
    };
    assert_eq!(reported(core.step(at(4), Event::Tick)), Some(POINTS_AT_ONCE));
    core.step(at(5), Event::Reported { lost: vec![] });
    assert_eq!(reported(core.step(at(8), Event::Tick)), Some(1_000));
}

fn checkpointed(trial_id: i64) -> Assignment {
    Assignment { checkpoint_on_drain: true, checkpoint: "file:///a/0".into(), ..assignment(trial_id) }
}

fn kept(trial: i64, url: &str) -> FromTrainer {
    FromTrainer::Kept { trial, attempt: 1, url: url.into() }
}

#[test]
fn a_checkpoint_is_handed_to_the_trainer_and_a_new_one_to_the_coordinator() {
    let mut core = idle(1);
    let orders = core.step(at(0), Event::Leased { sent: at(0), assignments: vec![checkpointed(1)] });
    let [Order::Send { message: ToTrainer::Run { from, .. }, .. }] = &orders[..] else {
        panic!("{orders:?}")
    };
    assert_eq!(from.as_deref(), Some("file:///a/0"));
    for url in ["file:///a/1", "file:///a/2"] {
        assert_eq!(core.step(at(1), Event::Said { slot: 0, message: kept(1, url) }), []);
    }
    let report = |url: &str| Order::Report {
        progress: vec![Progress {
            token: Some(token(1)),
            points: vec![],
            checkpoint: url.into(),
            ..Default::default()
        }],
    };
    assert_eq!(core.step(at(3), Event::Tick), [report("file:///a/2")]);
    // A lost report is repeated, unless there is a newer checkpoint by then.
    assert_eq!(core.step(at(4), Event::ReportFailed), []);
    assert_eq!(core.step(at(6), Event::Tick), [report("file:///a/2")]);
    assert_eq!(core.step(at(7), Event::Said { slot: 0, message: kept(1, "file:///a/3") }), []);
    assert_eq!(core.step(at(8), Event::ReportFailed), []);
    assert_eq!(core.step(at(10), Event::Tick), [report("file:///a/3")]);
    assert_eq!(core.step(at(11), Event::Reported { lost: vec![] }), []);
    assert_eq!(core.step(at(15), Event::Tick), []);
}

#[test]
fn a_leaving_agent_waits_for_the_last_checkpoint() {
    let mut core = idle(1);
    core.step(at(0), Event::Leased { sent: at(0), assignments: vec![checkpointed(1)] });
    let leave = Order::Send { slot: 0, message: ToTrainer::Leave };
    assert_eq!(core.step(at(1), DRAIN), [Order::Drain, leave]);
    assert_eq!(core.step(at(1), Event::Drained), []);
    assert_eq!(core.step(at(2), Event::Said { slot: 0, message: kept(1, "file:///a/1") }), []);
    let left = FromTrainer::Left { trial: 1, attempt: 1 };
    let orders = core.step(at(2), Event::Said { slot: 0, message: left });
    assert_eq!(kills(&orders), [0]);
    let end = only_end(&orders);
    assert!(matches!(&end.how, Some(How::Interruption(i)) if i.cause == "drained"), "{end:?}");
    assert_eq!(end.checkpoint, "file:///a/1");
    core.step(at(3), Event::Finished);
    core.step(at(3), Event::Died { slot: 0, death: death(Status::Signal(9)) });
    assert!(core.is_done());
}

#[test]
fn a_run_that_ends_while_the_agent_leaves_still_counts() {
    let mut core = idle(1);
    core.step(at(0), Event::Leased { sent: at(0), assignments: vec![checkpointed(1)] });
    core.step(at(1), DRAIN);
    core.step(at(1), Event::Drained);
    let orders = core.step(at(2), Event::Said { slot: 0, message: done(1) });
    assert!(matches!(only_end(&orders).how, Some(How::Success(_))));
    assert_eq!(kills(&orders), [0]);
}

#[test]
fn a_run_that_writes_no_checkpoint_in_time_is_killed() {
    let mut core = idle(1);
    core.step(at(0), Event::Leased { sent: at(0), assignments: vec![checkpointed(1)] });
    core.step(at(1), DRAIN);
    core.step(at(1), Event::Drained);
    assert_eq!(core.wakes_at(), Some(at(13)), "three fifths of the 20 seconds are over");
    let orders = core.step(at(13), Event::Tick);
    assert_eq!(kills(&orders), [0]);
    assert!(matches!(&only_end(&orders).how, Some(How::Interruption(i)) if i.cause == "drained"));
}

#[test]
fn trials_that_can_neither_end_nor_pause_in_the_time_left_are_not_begun() {
    let mut core = idle(1);
    core.life = Life::new(Some(at(50)));
    core.step(at(0), leased(at(0), &[1]));
    assert_eq!(core.step(at(10), Event::Said { slot: 0, message: epoch(1, 1) }), []);
    core.step(at(11), Event::Said { slot: 0, message: done(1) });
    core.step(at(11), Event::Finished);
    // Ten seconds an epoch, as far as is known: three of them fit, four do not.
    let long = |trial_id, epochs: u32| Assignment {
        recipe_json: format!(r#"{{"epochs":{epochs}}}"#),
        ..assignment(trial_id)
    };
    let orders = core.step(at(15), Event::Leased { sent: at(15), assignments: vec![long(2, 3)] });
    assert!(matches!(&orders[..], [Order::Send { slot: 0, .. }]), "{orders:?}");
    core.step(at(16), Event::Said { slot: 0, message: done(2) });
    core.step(at(16), Event::Finished);
    let orders = core.step(at(16), Event::Leased { sent: at(16), assignments: vec![long(3, 4)] });
    assert!(matches!(&only_end(&orders).how, Some(How::Interruption(i)) if i.cause == "drained"));
    // Nothing runs and nothing more is begun: it leaves.
    assert!(orders.contains(&Order::Drain) && kills(&orders) == [0], "{orders:?}");
}

#[test]
fn an_agent_whose_time_is_nearly_over_asks_for_nothing_more() {
    let mut core = running();
    core.life = Life::new(Some(at(50)));
    core.step(at(20), Event::Said { slot: 0, message: epoch(1, 1) });
    core.step(at(22), Event::Tick);
    core.step(at(22), Event::Reported { lost: vec![] });
    core.step(
        at(22),
        Event::Renewed { sent: at(22), asked: vec![token(1)], held: vec![token(1)], lost: vec![] },
    );
    assert_eq!(core.wakes_at(), Some(at(30) + Duration::from_millis(1)));
    assert_eq!(core.step(at(31), Event::Tick), [], "what runs goes on");
    assert!(core.wakes_at() > Some(at(31)), "once is enough");
    let orders = core.step(at(40), Event::Said { slot: 0, message: done(1) });
    assert!(orders.contains(&Order::Drain), "{orders:?}");
    assert!(!orders.iter().any(|order| matches!(order, Order::Lease { .. })), "{orders:?}");
}

/// An assignment that says what it loads.
fn loading(trial_id: i64, task: &str) -> Assignment {
    let recipe_json = format!(r#"{{"backbone":"b","task":"{task}"}}"#);
    Assignment { recipe_json, ..assignment(trial_id) }
}

#[test]
fn a_trial_goes_to_the_slot_that_is_warm_for_it_and_leases_say_what_is_warm() {
    let mut core = idle(2);
    let slots = |orders: &[Order]| -> Vec<usize> {
        let slot = |order: &Order| match order {
            Order::Send { slot, .. } => Some(*slot),
            _ => None,
        };
        orders.iter().filter_map(slot).collect()
    };
    let both = vec![loading(1, "dtd"), loading(2, "pets")];
    assert_eq!(slots(&core.step(at(1), Event::Leased { sent: at(1), assignments: both })), [0, 1]);
    core.step(at(2), Event::Said { slot: 0, message: done(1) });
    let orders = core.step(at(3), Event::Said { slot: 1, message: done(2) });
    assert!(!orders.iter().any(|order| matches!(order, Order::Lease { .. })), "one request at a time");
    let orders = core.step(at(4), Event::Leased { sent: at(2), assignments: Vec::new() });
    let warm = |task: &str| Warm { backbone: "b".into(), task: task.into() };
    let lease = Order::Lease { max: 2, wait: Duration::from_secs(15), warm: vec![warm("dtd"), warm("pets")] };
    assert!(orders.contains(&lease), "{orders:?}");
    let turned = vec![loading(3, "pets"), loading(4, "dtd")];
    assert_eq!(slots(&core.step(at(5), Event::Leased { sent: at(4), assignments: turned })), [1, 0]);
}
