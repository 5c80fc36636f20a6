//! The agent against a scripted coordinator, with a shell script in the trainer's place.

mod coordinator;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::v1::end::How;
use proto::v1::{Assignment, Capabilities, End, FailureClass, Token};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use worker::agent::{self, AgentError, Config, TrainerCommand};

use coordinator::{Call, Script, Server};

/// Nothing here should take a second; this is for a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_millis(1500);

struct World {
    script: Arc<Script>,
    calls: UnboundedReceiver<Call>,
    server: Option<Server>,
    folder: tempfile::TempDir,
    leave: CancellationToken,
    agent: JoinHandle<Result<(), AgentError>>,
}

fn config(server: &str, trainer: TrainerCommand) -> Config {
    Config {
        ca: None,
        server: server.to_owned(),
        token: Some("secret".into()),
        name: "test".into(),
        trainers: vec![trainer],
        capabilities: Capabilities { methods: vec!["linear".into()], ..Default::default() },
        leave_within: PATIENCE,
        lifetime: None,
    }
}

fn stand_in(folder: &Path) -> TrainerCommand {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/agent/trainer.sh");
    TrainerCommand { program: "sh".into(), args: vec![script.into(), folder.into()] }
}

impl World {
    fn new(ttl: Duration) -> Self {
        let (mut script, calls) = Script::new(ttl);
        script.token = Some("secret".into());
        let script = Arc::new(script);
        let server = Server::start(script.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        let leave = CancellationToken::new();
        let config = config(&server.address.to_string(), stand_in(folder.path()));
        let agent = tokio::spawn(agent::run(config, leave.clone()));
        Self { script, calls, server: Some(server), folder, leave, agent }
    }

    /// The first of the calls to come that `wanted` wants.
    async fn call<T>(&mut self, wanted: impl Fn(Call) -> Option<T>) -> T {
        let search = async {
            loop {
                let call = self.calls.recv().await.expect("the script is alive");
                if let Some(found) = wanted(call) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.expect("the call should have come")
    }

    async fn leased(&mut self) {
        self.call(|call| matches!(call, Call::Lease).then_some(())).await;
    }

    async fn end(&mut self) -> End {
        self.call(|call| if let Call::Finish(finish) = call { finish.ends.into_iter().next() } else { None })
            .await
    }

    /// Waits until the trainer reports from within a run; gives its process id.
    async fn running(&mut self) -> Pid {
        let pid = |call| {
            let Call::Report(report) = call else { return None };
            let points = &report.progress[0].points;
            Some(Pid::from_raw(points[0].value as i32))
        };
        self.call(pid).await
    }

    async fn left(self) {
        self.leave.cancel();
        let left = tokio::time::timeout(PATIENCE, self.agent).await.expect("the agent should have left");
        left.unwrap().unwrap();
    }
}

fn trial(id: i64, act: &str) -> Assignment {
    let recipe_json = format!(r#"{{"act":"{act}"}}"#);
    Assignment { trial_id: id, attempt: 1, recipe_json, seed: 0, ..Default::default() }
}

fn token(trial_id: i64) -> Token {
    Token { trial_id, attempt: 1 }
}

fn failure(end: &End) -> (FailureClass, &str) {
    match &end.how {
        Some(How::Failure(failure)) => (failure.class(), &failure.message),
        other => panic!("not a failure: {other:?}"),
    }
}

fn cause(end: &End) -> &str {
    match &end.how {
        Some(How::Interruption(interruption)) => &interruption.cause,
        other => panic!("not an interruption: {other:?}"),
    }
}

fn is_gone(pid: Pid) -> bool {
    kill(pid, None) == Err(nix::errno::Errno::ESRCH)
}

#[tokio::test]
async fn a_trial_is_leased_run_and_finished() {
    let mut world = World::new(LONG);
    let register = world.call(|call| if let Call::Register(r) = call { Some(r) } else { None }).await;
    let capabilities = register.capabilities.unwrap();
    assert_eq!((register.slots, register.name.as_str()), (1, "test"));
    assert_eq!(capabilities.methods, ["linear"]);
    assert_eq!(capabilities.devices[0].kind, "cpu");

    world.script.submit(trial(1, "finish"));
    world.script.submit(trial(2, "fail"));
    let end = world.end().await;
    assert_eq!(end.token, Some(token(1)));
    assert!(matches!(&end.how, Some(How::Success(s)) if s.metrics["test/top1"] == 75.5), "{end:?}");
    assert_eq!((end.points[0].name.as_str(), end.points[0].epoch), ("pid", 1));

    let end = world.end().await;
    assert_eq!(end.token, Some(token(2)));
    assert_eq!(failure(&end), (FailureClass::BadData, "a.jpg is cut off"));
    world.left().await;
}

#[tokio::test]
async fn a_lost_lease_kills_the_run_and_sends_nothing() {
    let mut world = World::new(SHORT);
    world.script.submit(trial(1, "hang"));
    let pid = world.running().await;
    world.script.lost.lock().unwrap().push(token(1));
    // The next request for leases comes from a new trainer: the old one is dead.
    world.leased().await;
    assert!(is_gone(pid));
    world.script.submit(trial(2, "finish"));
    assert_eq!(world.end().await.token, Some(token(2)));
    let script = world.script.clone();
    world.left().await;
    assert_eq!(script.ends.lock().unwrap().len(), 1, "the lost attempt ended by itself");
}

#[tokio::test]
async fn a_renewed_lease_outlives_its_first_time() {
    let mut world = World::new(SHORT);
    world.script.submit(trial(1, "wait"));
    let pid = world.running().await;
    // Each is sent a third of the lease after the one before.
    for _ in 0..5 {
        world.call(|call| matches!(call, Call::Renew(r) if r.tokens == [token(1)]).then_some(())).await;
    }
    assert!(!is_gone(pid));
    std::fs::write(world.folder.path().join("go"), "").unwrap();
    assert!(matches!(world.end().await.how, Some(How::Success(_))));
    world.left().await;
}

#[tokio::test]
async fn a_run_whose_lease_cannot_be_renewed_is_killed_and_handed_back() {
    let mut world = World::new(SHORT);
    world.script.submit(trial(1, "hang"));
    let pid = world.running().await;
    let address = world.server.take().unwrap().address;
    let gone = async {
        while !is_gone(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the run should have been killed");
    world.server = Some(Server::start(world.script.clone(), Some(address)));
    assert_eq!(cause(&world.end().await), "preempted");
    world.left().await;
}

#[tokio::test]
async fn a_trainer_killed_from_outside_was_preempted() {
    let mut world = World::new(LONG);
    world.script.submit(trial(1, "hang"));
    kill(world.running().await, Signal::SIGKILL).unwrap();
    assert_eq!(cause(&world.end().await), "preempted");
    world.script.submit(trial(2, "finish"));
    assert_eq!(world.end().await.token, Some(token(2)));
    world.left().await;
}

#[tokio::test]
async fn a_trainer_that_crashes_or_babbles_fails_its_attempt() {
    let mut world = World::new(LONG);
    world.script.submit(trial(1, "crash"));
    let end = world.end().await;
    let (class, message) = failure(&end);
    assert_eq!(class, FailureClass::CodeError);
    assert!(message.contains("SIGSEGV") && message.ends_with("the last words"), "{message}");

    world.script.submit(trial(2, "garble"));
    let end = world.end().await;
    let (class, message) = failure(&end);
    assert_eq!(class, FailureClass::CodeError);
    assert!(message.contains("Epoch 1: loss 0.3"), "{message}");
    world.left().await;
}

#[tokio::test]
async fn an_outage_shorter_than_the_lease_loses_nothing() {
    let mut world = World::new(LONG);
    world.script.submit(trial(1, "wait"));
    let pid = world.running().await;
    let address = world.server.take().unwrap().address;
    // The trial ends while the coordinator is away.
    std::fs::write(world.folder.path().join("go"), "").unwrap();
    let done = world.folder.path().join("done");
    let finished = async {
        while !done.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, finished).await.expect("the trial should have ended");
    world.server = Some(Server::start(world.script.clone(), Some(address)));
    let end = world.end().await;
    assert!(matches!(end.how, Some(How::Success(_))), "{end:?}");
    assert!(!is_gone(pid), "the trainer stays warm");
    world.left().await;
}

#[tokio::test]
async fn a_forgotten_worker_registers_again() {
    let mut world = World::new(SHORT);
    world.call(|call| matches!(call, Call::Register(_)).then_some(())).await;
    *world.script.forgetful.lock().unwrap() = true;
    world.call(|call| matches!(call, Call::Register(_)).then_some(())).await;
    world.script.submit(trial(1, "finish"));
    assert_eq!(world.end().await.token, Some(token(1)));
    world.left().await;
}

#[tokio::test]
async fn a_run_beyond_its_timeout_is_killed() {
    let mut world = World::new(LONG);
    world.script.submit(Assignment { timeout_ms: 300, ..trial(1, "hang") });
    assert_eq!(failure(&world.end().await).0, FailureClass::Timeout);
    world.left().await;
}

#[tokio::test]
async fn leaving_hands_back_what_runs() {
    let mut world = World::new(LONG);
    world.script.submit(trial(1, "hang"));
    let pid = world.running().await;
    world.leave.cancel();
    world.call(|call| matches!(call, Call::Drain).then_some(())).await;
    let end = world.end().await;
    assert_eq!((end.token, cause(&end)), (Some(token(1)), "drained"));
    world.left().await;
    assert!(is_gone(pid));
}

#[tokio::test]
async fn an_agent_without_the_token_is_told_so() {
    let (mut script, _calls) = Script::new(LONG);
    script.token = Some("another".into());
    let server = Server::start(Arc::new(script), None);
    let folder = tempfile::tempdir().unwrap();
    let config = config(&server.address.to_string(), stand_in(folder.path()));
    let run = agent::run(config, CancellationToken::new());
    let error = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("SWEEP_TOKEN"), "{error}");
}

#[tokio::test]
async fn an_agent_whose_trainers_cannot_start_says_why() {
    let missing = TrainerCommand { program: "/nonexistent/worker".into(), args: vec![] };
    let run = agent::run(config("127.0.0.1:9", missing), CancellationToken::new());
    let error = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("/nonexistent/worker"), "{error}");
}
