//! The program itself, on loopback: every test starts the binary and speaks gRPC with it.

#[path = "support/program.rs"]
mod program;
#[path = "support/proxy.rs"]
mod proxy;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use program::{Authorized, Bearer, Coordinator, Persistent, bearer, coordinator, database};
use proto::v1;
use proto::v1::sweeps_client::SweepsClient;
use proto::v1::workers_client::WorkersClient;
use proxy::{Held, Proxy};
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const FILE: &str = "\
version: 1
kind: sweep
name: small
objective: {metric: val/top1, goal: maximize}
report: [test/top1]
base:
  backbone: tiny
  task: digits
  method: vpt_deep
  prompt_length: 5
  epochs: 3
axes:
  lr: {values: [0.1, 0.5]}
  insertion_depth: {values: [0, 2]}
replicates: {seeds: [0, 1]}
";

fn submit(file: &str) -> v1::SubmitRequest {
    v1::SubmitRequest { file: file.to_owned(), ..Default::default() }
}

fn register(depth: u32) -> v1::RegisterRequest {
    let splits = ["train800", "val200", "test"].map(str::to_owned).into();
    let capabilities = v1::Capabilities {
        backbones: vec![v1::Backbone {
            name: "tiny".into(),
            sha256: "00".into(),
            depth,
            dim: 32,
            family: "vit".into(),
        }],
        tasks: vec![v1::Task { name: "digits".into(), classes: 10, splits }],
        methods: vec!["vpt_deep".into()],
        ..Default::default()
    };
    v1::RegisterRequest {
        instance: "one process".into(),
        name: "gpu-01".into(),
        capabilities: Some(capabilities),
        slots: 4,
    }
}

fn lease(worker_id: &str, request: &str, max: u32, wait_ms: u32) -> v1::LeaseRequest {
    v1::LeaseRequest {
        worker_id: worker_id.into(),
        request: request.into(),
        max,
        wait_ms,
        ..Default::default()
    }
}

fn token(assignment: &v1::Assignment) -> v1::Token {
    v1::Token { trial_id: assignment.trial_id, attempt: assignment.attempt }
}

fn success(assignment: &v1::Assignment, value: f64) -> v1::End {
    let metrics = [("val/top1".to_owned(), value), ("test/top1".to_owned(), value / 2.0)].into();
    v1::End {
        token: Some(token(assignment)),
        points: vec![v1::Point { name: "val/top1".into(), epoch: 3, value }],
        how: Some(v1::end::How::Success(v1::Success { metrics, ..Default::default() })),
        ..Default::default()
    }
}

async fn watch(
    client: &mut SweepsClient<Authorized>,
    sweep: &str,
    after_seq: u64,
    enough: usize,
) -> Vec<v1::Event> {
    let request = v1::WatchRequest { sweep: sweep.to_owned(), after_seq };
    let mut stream = client.watch(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    while events.len() < enough
        && let Some(batch) = stream.message().await.unwrap()
    {
        events.extend(batch.events);
    }
    events
}

#[tokio::test]
async fn a_sweep_from_submit_to_results() {
    let folder = tempfile::tempdir().unwrap();
    let server = Coordinator::start(folder.path()).await;
    let (mut sweeps, mut workers) = (server.sweeps().await, server.workers().await);
    let submitted = sweeps.submit(submit(FILE)).await.unwrap().into_inner();
    assert_eq!((submitted.created, submitted.configurations, submitted.trials), (true, 4, 8));
    let again = sweeps.submit(submit(FILE)).await.unwrap().into_inner();
    assert_eq!((again.created, &again.sweep_id), (false, &submitted.sweep_id));

    let registered = workers.register(register(12)).await.unwrap().into_inner();
    assert_eq!(registered.lease_ttl_ms, 60_000);
    let worker = registered.worker_id;
    let mut ended = 0;
    for round in 0..2 {
        let request = lease(&worker, &format!("r{round}"), 4, 0);
        let assignments = workers.lease(request).await.unwrap().into_inner().assignments;
        assert_eq!(assignments.len(), 4);
        assert!(assignments[0].recipe_json.contains(r#""backbone":"tiny""#));
        let renew =
            v1::RenewRequest { worker_id: worker.clone(), tokens: assignments.iter().map(token).collect() };
        assert_eq!(workers.renew(renew).await.unwrap().into_inner().held.len(), 4);
        let ends = assignments.iter().map(|assignment| success(assignment, 80.0)).collect();
        let finish = v1::FinishRequest { worker_id: worker.clone(), ends };
        for _ in 0..2 {
            let verdicts = workers.finish(finish.clone()).await.unwrap().into_inner().verdicts;
            assert!(verdicts.iter().all(|v| v.outcome() == v1::verdict::Outcome::Accepted));
        }
        ended += assignments.len();
    }
    assert_eq!(ended, 8);

    let events = watch(&mut sweeps, "last", 0, usize::MAX).await;
    let seqs: Vec<_> = events.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (1..=events.len() as u64).collect::<Vec<_>>());
    assert_eq!(events[0].kind(), v1::EventKind::Submitted);
    assert_eq!(events.last().unwrap().kind(), v1::EventKind::Ended);
    let last = events.last().unwrap().seq;
    let resumed = watch(&mut sweeps, "small", last - 2, usize::MAX).await;
    assert_eq!(resumed, events[events.len() - 2..]);
    assert!(watch(&mut sweeps, "small", last, usize::MAX).await.is_empty());
    let beyond = v1::WatchRequest { sweep: "small".into(), after_seq: last + 1 };
    let refused = sweeps.watch(beyond).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&format!("only {last} events")), "{}", refused.message());
    // Submitted again, it is found by its key, though no live worker could run it by now.
    workers.register(register(1)).await.unwrap();
    let again = sweeps.submit(submit(FILE)).await.unwrap().into_inner();
    assert!(!again.created && again.trials == 8);
    // Asked again, a request whose attempts have ended is answered at once.
    let asked = std::time::Instant::now();
    let leased = workers.lease(lease(&worker, "r0", 4, 20_000)).await.unwrap().into_inner();
    assert!(leased.assignments.is_empty() && asked.elapsed() < Duration::from_secs(10));

    let request = v1::ResultsRequest { sweep: "small".into(), ..Default::default() };
    let results = sweeps.results(request).await.unwrap().into_inner();
    assert_eq!(results.configurations.len(), 4);
    let first = &results.configurations[0];
    assert_eq!((first.number, first.trials, first.succeeded), (1, 2, 2));
    assert_eq!(first.objective, Some(v1::Statistic { mean: 80.0, std: 0.0, n: 2 }));
    assert_eq!(first.metrics["test/top1"].mean, 40.0);
    assert_eq!(results.axes, ["lr", "insertion_depth"]);

    let request = v1::TrialsRequest { sweep: "small".into(), limit: 5, ..Default::default() };
    let page = sweeps.trials(request.clone()).await.unwrap().into_inner();
    assert_eq!(page.trials.len(), 5);
    let next = v1::TrialsRequest { after: page.next_after, ..request };
    let page = sweeps.trials(next).await.unwrap().into_inner();
    assert_eq!((page.trials.len(), page.next_after), (3, 0));
    let request = v1::GetTrialRequest { trial_id: page.trials[0].id };
    let trial = sweeps.get_trial(request).await.unwrap().into_inner();
    assert_eq!(trial.attempts[0].end, "succeeded");
    assert_eq!(trial.points.len(), 1);

    let request = v1::GetRequest { sweep: "small".into() };
    let got = sweeps.get(request).await.unwrap().into_inner();
    assert_eq!(got.file, FILE);
    assert_eq!(got.sweep.unwrap().state(), v1::SweepState::Ended);
    assert_eq!(server.stop().await, 0);
}

#[tokio::test]
async fn waiting_calls_are_woken() {
    let folder = tempfile::tempdir().unwrap();
    let server = Coordinator::start(folder.path()).await;
    let (mut sweeps, mut workers) = (server.sweeps().await, server.workers().await);
    let worker = workers.register(register(12)).await.unwrap().into_inner().worker_id;
    let mut waiting = workers.clone();
    let request = lease(&worker, "r", 2, 30_000);
    let waiting = tokio::spawn(async move { waiting.lease(request).await.unwrap().into_inner() });
    sweeps.submit(submit(FILE)).await.unwrap();
    let assignments = waiting.await.unwrap().assignments;
    assert_eq!(assignments.len(), 2, "long before the 30 seconds are over");

    let mut watcher = server.sweeps().await;
    let watching = tokio::spawn(async move { watch(&mut watcher, "last", 3, 1).await });
    let points = vec![v1::Point { name: "val/top1".into(), epoch: 1, value: 0.5 }];
    let progress = vec![v1::Progress { token: Some(token(&assignments[0])), points, ..Default::default() }];
    let report = v1::ReportRequest { worker_id: worker, progress };
    assert!(workers.report(report).await.unwrap().into_inner().lost.is_empty());
    let events = watching.await.unwrap();
    assert_eq!(events[0].kind(), v1::EventKind::Reported);
    assert_eq!((events[0].seq, events[0].epoch, events[0].metrics["val/top1"]), (4, 1, 0.5));

    let mut watcher = server.sweeps().await;
    let request = v1::WatchRequest { sweep: "last".into(), after_seq: 4 };
    let mut stream = watcher.watch(request).await.unwrap().into_inner();
    assert_eq!(server.stop().await, 0, "an open watch does not keep it");
    assert!(stream.message().await.is_err(), "and the watcher learns to come again");
}

#[tokio::test]
async fn a_restart_keeps_leases() {
    let folder = tempfile::tempdir().unwrap();
    let server = Coordinator::start(folder.path()).await;
    server.sweeps().await.submit(submit(FILE)).await.unwrap();
    let mut workers = server.workers().await;
    let worker = workers.register(register(12)).await.unwrap().into_inner().worker_id;
    let request = lease(&worker, "r", 1, 0);
    let assignments = workers.lease(request).await.unwrap().into_inner().assignments;
    // Not even asked to stop.
    drop(server);

    let server = Coordinator::start(folder.path()).await;
    let mut workers = server.workers().await;
    let again = workers.register(register(12)).await.unwrap().into_inner();
    assert_eq!(again.worker_id, worker);
    let tokens = vec![token(&assignments[0])];
    let renew = v1::RenewRequest { worker_id: worker.clone(), tokens };
    assert_eq!(workers.renew(renew).await.unwrap().into_inner().held.len(), 1);
    let finish = v1::FinishRequest { worker_id: worker, ends: vec![success(&assignments[0], 1.0)] };
    let verdicts = workers.finish(finish).await.unwrap().into_inner().verdicts;
    assert_eq!(verdicts[0].outcome(), v1::verdict::Outcome::Accepted);
}

#[tokio::test]
async fn a_lost_worker_is_noticed_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--lease-ttl", "300ms", "--lease-grace", "200ms"];
    let server = Coordinator::start_with(folder.path(), &arguments).await;
    let (mut sweeps, mut workers) = (server.sweeps().await, server.workers().await);
    sweeps.submit(submit(FILE)).await.unwrap();
    let worker = workers.register(register(12)).await.unwrap().into_inner().worker_id;
    workers.lease(lease(&worker, "r", 1, 0)).await.unwrap();
    let events = watch(&mut sweeps, "last", 2, 1).await;
    assert_eq!(events[0].kind(), v1::EventKind::Requeued);
    assert!(events[0].message.contains("worker_lost"), "{}", events[0].message);
}

#[tokio::test]
async fn wrong_requests_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Coordinator::start(folder.path()).await;
    let (mut sweeps, mut workers) = (server.sweeps().await, server.workers().await);

    let wrong = sweeps.submit(submit(&FILE.replace("axes:", "axis:"))).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(wrong.message().contains("axis") && wrong.message().contains("axes"), "{}", wrong.message());
    let huge = sweeps.submit(submit(&"#".repeat((1 << 20) + 1))).await.unwrap_err();
    assert_eq!(huge.code(), Code::ResourceExhausted);

    workers.register(register(2)).await.unwrap();
    let deep = sweeps.submit(submit(FILE)).await.unwrap_err();
    assert_eq!(deep.code(), Code::InvalidArgument);
    assert!(
        deep.message().contains("insertion_depth") && deep.message().contains("gpu-01"),
        "{}",
        deep.message()
    );

    let mut resnet = register(16);
    for backbone in resnet.capabilities.iter_mut().flat_map(|capabilities| &mut capabilities.backbones) {
        backbone.family = "resnet".into();
    }
    workers.register(resnet).await.unwrap();
    let foreign = sweeps.submit(submit(FILE)).await.unwrap_err();
    assert_eq!(foreign.code(), Code::InvalidArgument);
    assert!(foreign.message().contains("`tiny`, a resnet backbone"), "{}", foreign.message());

    let missing = sweeps.get(v1::GetRequest { sweep: "nothing".into() }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let missing = workers.lease(lease("nobody", "r", 1, 0)).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let missing = sweeps.get_trial(v1::GetTrialRequest { trial_id: 7 }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let much = sweeps.list(v1::ListRequest { limit: 1_001 }).await.unwrap_err();
    assert_eq!(much.code(), Code::ResourceExhausted);
    let nameless = v1::RegisterRequest { name: "a b".into(), ..register(2) };
    assert_eq!(workers.register(nameless).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn only_the_token_opens() {
    let folder = tempfile::tempdir().unwrap();
    let server = Coordinator::start(folder.path()).await;
    let channel = server.channel().await;
    let refused = SweepsClient::new(channel.clone()).list(v1::ListRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = WorkersClient::new(channel.clone()).register(register(2)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(server.sweeps().await.list(v1::ListRequest::default()).await.is_ok());

    let check = HealthCheckRequest { service: "sweep.v1.Sweeps".into() };
    let health = HealthClient::new(channel.clone()).check(check).await.unwrap().into_inner();
    assert_eq!(health.status(), tonic_health::ServingStatus::Serving.into());

    let list = || {
        let message_request = Some(MessageRequest::ListServices(String::new()));
        tokio_stream::once(ServerReflectionRequest { host: String::new(), message_request })
    };
    let mut stranger = ServerReflectionClient::new(channel.clone());
    assert_eq!(stranger.server_reflection_info(list()).await.unwrap_err().code(), Code::Unauthenticated);
    let mut client = ServerReflectionClient::with_interceptor(channel, bearer as Bearer);
    let mut replies = client.server_reflection_info(list()).await.unwrap().into_inner();
    let reply = replies.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = reply else { panic!("{reply:?}") };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"sweep.v1.Sweeps") && names.contains(&"sweep.v1.Workers"), "{names:?}");
}

/// Runs to its end, and gives its exit code and what it said.
fn ended(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn it_says_why_it_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let other: PathBuf = folder.path().join("other.db");
    let other = format!("sqlite:{}", other.display());
    let (code, said) = ended(coordinator().args(["--listen", "0.0.0.0:0", "--database-url", &other]));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("SWEEP_TOKEN") && said.contains("--token-file"), "{said}");
    let (code, said) = ended(coordinator().args(["--database-url", &other]).env("SWEEP_TOKEN", " "));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("SWEEP_TOKEN is empty"), "{said}");

    let server = Coordinator::start(folder.path()).await;
    let (code, said) = ended(coordinator().args(["--listen", &server.address, "--database-url", &other]));
    assert_eq!(code, 3, "{said}");
    assert!(said.contains(&server.address), "{said}");
    let same = database(folder.path());
    let (code, said) = ended(coordinator().args(["--listen", "127.0.0.1:0", "--database-url", &same]));
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("another coordinator is using"), "{said}");
    let (code, said) = ended(coordinator().args(["--listen", "127.0.0.1:0", "--database-url", "x"]));
    assert_eq!((code, said.lines().count()), (2, 1), "{said}");
}

#[tokio::test]
async fn a_database_is_checked_while_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let server = Coordinator::start(folder.path()).await;
    server.sweeps().await.submit(submit(FILE)).await.unwrap();
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        let output = command.args(["check", "--database-url", &database(folder.path())]).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = check();
    assert!(code == 0 && said.contains("invariants hold"), "{code} {said}");
    assert_eq!(server.stop().await, 0);
    let path = database(folder.path());
    let broken = rusqlite::Connection::open(path.trim_start_matches("sqlite:")).unwrap();
    let sql = "UPDATE trial SET state = 'succeeded', not_before = NULL, ended = 1 WHERE id = 1";
    broken.execute_batch(sql).unwrap();
    broken.close().unwrap();
    let (code, said) = check();
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("I1: a trial has a result exactly when it succeeded"), "{said}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
    let (code, said) = ended(command.args(["check", "--database-url", "sqlite:/nowhere/at-all.db"]));
    assert_eq!(code, 4, "{said}");
}

#[tokio::test]
async fn a_finish_that_is_held_up_longer_than_its_lease_counts_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--lease-ttl", "300ms", "--lease-grace", "200ms"];
    let server = Coordinator::start_with(folder.path(), &arguments).await;
    let proxy = Proxy::start(server.address.clone()).await;
    let channel = Channel::from_shared(format!("http://{}", proxy.address)).unwrap().connect().await.unwrap();
    let (mut sweeps, mut workers) = (server.sweeps().await, server.workers().await);
    sweeps.submit(submit(FILE)).await.unwrap();
    let mut slow = WorkersClient::with_interceptor(Persistent(channel), bearer as Bearer);
    let slow_id = slow.register(register(12)).await.unwrap().into_inner().worker_id;
    let leased = slow.lease(lease(&slow_id, "r", 1, 0)).await.unwrap().into_inner().assignments.remove(0);

    // It stands still in the middle of its call.
    proxy.hold(Held::Calls);
    let finish = v1::FinishRequest { worker_id: slow_id, ends: vec![success(&leased, 1.0)] };
    let finishing = tokio::spawn(async move { slow.finish(finish).await.unwrap().into_inner() });
    let events = watch(&mut sweeps, "last", 2, 1).await;
    assert_eq!((events[0].kind(), events[0].trial_id), (v1::EventKind::Requeued, leased.trial_id));

    let quick = v1::RegisterRequest { instance: "another".into(), name: "gpu-02".into(), ..register(12) };
    let quick_id = workers.register(quick).await.unwrap().into_inner().worker_id;
    let mut again = workers.lease(lease(&quick_id, "r", 1, 0)).await.unwrap().into_inner().assignments;
    let again = again.remove(0);
    assert_eq!((again.trial_id, again.attempt), (leased.trial_id, 2));
    let finish = v1::FinishRequest { worker_id: quick_id.clone(), ends: vec![success(&again, 2.0)] };
    let verdicts = workers.finish(finish).await.unwrap().into_inner().verdicts;
    assert_eq!(verdicts[0].outcome(), v1::verdict::Outcome::Accepted);

    proxy.hold(Held::Nothing);
    let verdict = finishing.await.unwrap().verdicts.remove(0);
    assert_eq!((verdict.outcome(), verdict.reason.as_str()), (v1::verdict::Outcome::Fenced, "ended"));
    let request = v1::GetTrialRequest { trial_id: leased.trial_id };
    let told = sweeps.get_trial(request).await.unwrap().into_inner();
    let trial = told.trial.unwrap();
    assert_eq!((trial.objective, trial.worker), (Some(2.0), quick_id), "one result, of one attempt");
    assert_eq!(
        (told.orphans.len(), told.orphans[0].metrics["val/top1"]),
        (1, 1.0),
        "the other is kept aside"
    );
}
