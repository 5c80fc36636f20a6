//! What the tests of the store share: a database of their own, a clock set by hand, sweeps and workers in a line.

#![allow(dead_code, unused_macros, unused_imports, reason = "each test binary uses its own part")]

pub(crate) mod dice;
pub(crate) mod faulty;
pub(crate) mod invariants;
pub(crate) mod postgres;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use coordinator::offer::{Backbone, Need, Offer, Task};
use coordinator::score::{At, Goal, Objective};
use coordinator::store::ops::{
    Finish, Lease, Leased, NewConfiguration, NewEnd, NewSweep, NewTrial, Outcome, Point, Ran, Reap, Register,
    Renew, Submit, Verdict,
};
use coordinator::store::reads::{Events, FindSweep, GetTrial, TrialDetails};
use coordinator::store::rows::{AssignmentRow, Checkpoints, EventRow, SourceRow, SweepRow};
use coordinator::store::{self, Clock, Error, Token};
use coordinator::sweep_file::{File, expand};
use coordinator::trial::{FailureClass, Millis, Policy, TrialId, WorkerId};

pub(crate) use faulty::{Faults, Store};

/// Each function is a test on both databases, after which every invariant must hold.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let env = crate::support::Env::sqlite().await;
                super::$name(&env).await;
                env.check().await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let env = crate::support::Env::postgres().await;
                super::$name(&env).await;
                env.check().await;
            })*
        }
    };
}
pub(crate) use on_both;

pub(crate) const TTL: Millis = 60_000;
pub(crate) const GRACE: Millis = 15_000;
pub(crate) const START: Millis = 1_700_000_000_000;

pub(crate) struct Env {
    pub(crate) store: Store,
    pub(crate) url: String,
    clock: Arc<AtomicI64>,
    _folder: tempfile::TempDir,
}

impl Env {
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("test.db").display());
        Self::open(url, folder).await
    }

    /// Where a commit waits for no disk, if the machine has such a place.
    pub(crate) async fn sqlite_in_memory() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let url = format!("sqlite:{}", folder.path().join("test.db").display());
        Self::open(url, folder).await
    }

    /// As after a restart of the coordinator.
    pub(crate) async fn reopen(&mut self) {
        self.store.close().await;
        self.store = self.another().await;
    }

    /// As a second coordinator would open it, or the next one.
    pub(crate) async fn another(&self) -> Store {
        self.store.before(store::Store::open(&self.url, self.clock()).await.unwrap())
    }

    pub(crate) async fn postgres() -> Self {
        Self::open(postgres::database().await, tempfile::tempdir().unwrap()).await
    }

    /// On a Postgres that the test may crash.
    pub(crate) async fn in_cluster(cluster: &postgres::Cluster) -> Self {
        Self::open(cluster.database().await, tempfile::tempdir().unwrap()).await
    }

    async fn open(url: String, folder: tempfile::TempDir) -> Self {
        let clock = Arc::new(AtomicI64::new(START));
        let store = store::Store::open(&url, Clock::Manual(Arc::clone(&clock))).await.unwrap();
        Self { store: Store::new(store, Faults::of_the_run()), url, clock, _folder: folder }
    }

    /// With these faults on the way to the store.
    pub(crate) fn behind(self, faults: Faults) -> Self {
        let Self { store, url, clock, _folder } = self;
        Self { store: Store::new(store.into_inner(), faults), url, clock, _folder }
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock::Manual(Arc::clone(&self.clock))
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite:")
    }

    pub(crate) fn advance(&self, millis: Millis) {
        self.clock.fetch_add(millis, Ordering::SeqCst);
    }

    pub(crate) async fn submit(&self, sweep: NewSweep) -> SweepRow {
        self.store.write(Submit { sweep }).await.unwrap().0
    }

    pub(crate) async fn worker(&self, name: &str, slots: u32) -> WorkerId {
        self.worker_with(name, slots, &["linear"]).await
    }

    pub(crate) async fn worker_with(&self, name: &str, slots: u32, methods: &[&str]) -> WorkerId {
        self.worker_offering(name, slots, offer(methods)).await
    }

    pub(crate) async fn worker_offering(&self, name: &str, slots: u32, offer: Offer) -> WorkerId {
        let register =
            Register { instance: format!("instance of {name}"), name: name.to_owned(), offer, slots };
        WorkerId(self.store.write(register).await.unwrap().id)
    }

    pub(crate) async fn lease(&self, worker: &WorkerId, request: &str, max: u32) -> Vec<AssignmentRow> {
        self.leased(worker, request, max).await.assignments
    }

    pub(crate) async fn leased(&self, worker: &WorkerId, request: &str, max: u32) -> Leased {
        let lease = Lease {
            worker: worker.clone(),
            request: request.to_owned(),
            max,
            ttl: TTL,
            warm: Vec::new(),
            may_ask: true,
        };
        self.store.lease(&lease).await.unwrap()
    }

    /// Leases one trial.
    pub(crate) async fn lease_one(&self, worker: &WorkerId, request: &str) -> Token {
        let assignments = self.lease(worker, request, 1).await;
        assert_eq!(assignments.len(), 1, "one trial to lease");
        token(&assignments[0])
    }

    /// Renews, and gives back what is held and why the rest is not.
    pub(crate) async fn renew(&self, worker: &WorkerId, tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
        let renew = Renew { worker: worker.clone(), tokens: tokens.to_vec(), ttl: TTL };
        let (held, lost) = self.store.write(renew).await.unwrap();
        (held, lost.into_iter().map(|lost| lost.reason).collect())
    }

    pub(crate) async fn finish(&self, worker: &WorkerId, end: NewEnd) -> Verdict {
        self.try_finish(worker, end).await.unwrap()
    }

    pub(crate) async fn try_finish(&self, worker: &WorkerId, end: NewEnd) -> Result<Verdict, Error> {
        let finish = Finish { worker: worker.clone(), ends: vec![end] };
        Ok(self.store.write(finish).await?.remove(0))
    }

    pub(crate) async fn reap(&self) -> u64 {
        self.store.reliable().write(Reap { ttl: TTL, grace: GRACE }).await.unwrap().attempts
    }

    pub(crate) async fn sweep(&self, id: &str) -> SweepRow {
        self.store.read(FindSweep { sweep: id.to_owned() }).await.unwrap()
    }

    pub(crate) async fn trial(&self, trial: TrialId) -> TrialDetails {
        self.store.read(GetTrial { trial }).await.unwrap()
    }

    pub(crate) async fn events(&self, sweep: &SweepRow) -> Vec<EventRow> {
        let events = Events { sweep: sweep.number, after: 0, limit: 100_000 };
        self.store.read(events).await.unwrap()
    }

    pub(crate) async fn kinds(&self, sweep: &SweepRow) -> Vec<String> {
        self.events(sweep).await.into_iter().map(|event| event.kind).collect()
    }

    pub(crate) async fn check(&self) {
        invariants::check(&self.url).await;
    }
}

pub(crate) fn token(row: &AssignmentRow) -> Token {
    Token { trial: TrialId(row.trial), attempt: u32::try_from(row.attempt).unwrap() }
}

pub(crate) fn offer(methods: &[&str]) -> Offer {
    Offer {
        backbones: vec![Backbone {
            name: "b".into(),
            sha256: "00".into(),
            depth: 12,
            dim: 384,
            family: "vit".into(),
        }],
        tasks: vec![Task { name: "t".into(), classes: 10, splits: vec!["train".into()] }],
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        ..Offer::default()
    }
}

/// The sweep of a file.
pub(crate) fn sweep_of(text: &str) -> NewSweep {
    let file = File {
        text: text.to_owned(),
        overrides: Vec::new(),
        given_key: String::new(),
        client_version: String::new(),
        git_commit: String::new(),
        git_dirty: false,
    };
    expand(file, &[]).unwrap().0
}

/// A sweep of `configurations` × `seeds` trials of the method `linear`.
pub(crate) fn sweep(name: &str, configurations: usize, seeds: i64) -> NewSweep {
    let configuration = |number: usize| NewConfiguration {
        stage: "tune".to_owned(),
        block: String::new(),
        hash: format!("{number:064x}"),
        settings_json: format!("{{\"lr\":{number}}}"),
        recipe_json: format!("{{\"lr\":{number},\"method\":\"linear\"}}"),
        epochs: 3,
        lr: number as f64,
        is_lr_scaled: false,
        choices: Vec::new(),
        scope: None,
        prefix: None,
        need: Need {
            backbone: "b".into(),
            task: "t".into(),
            splits: ["train".to_owned()].into(),
            method: "linear".into(),
            gpu_memory_mib: 0,
            labels: BTreeMap::new(),
        },
    };
    let trials =
        (0..configurations).flat_map(|c| (0..seeds).map(move |seed| NewTrial { configuration: c, seed }));
    NewSweep {
        key: format!("key of {name}"),
        name: name.to_owned(),
        project: String::new(),
        labels: BTreeMap::from([("paper".to_owned(), "main".to_owned())]),
        priority: 0,
        objective: Objective { metric: "val/top1".to_owned(), goal: Goal::Maximize, at: At::Last },
        report: vec!["test/top1".to_owned()],
        axes: vec!["lr".to_owned()],
        policy: Policy {
            max_attempts: 3,
            first_ms: 30_000,
            factor: 2.0,
            max_ms: 900_000,
            never: vec![FailureClass::InvalidConfig],
            poison_after: Some(5),
        },
        checkpoints: Checkpoints { every_ms: Some(600_000), on_drain: true },
        max_running: None,
        timeout_ms: Some(1_000),
        pause_after_failures: None,
        pause_after_code_errors: None,
        source: SourceRow {
            file: "version: 1\n".to_owned(),
            overrides_json: "[]".to_owned(),
            client_version: "0.1.0".to_owned(),
            git_commit: String::new(),
            git_dirty: 0,
        },
        configurations: (0..configurations).map(configuration).collect(),
        trials: trials.collect(),
        stages: Vec::new(),
        allow_test_selection: false,
        early_stop: None,
        reuse: sweeps::spec::Reuse::Never,
        share_prefix: false,
        studies: None,
    }
}

pub(crate) fn success(token: Token, value: f64) -> NewEnd {
    let metrics = BTreeMap::from([("val/top1".to_owned(), value), ("test/top1".to_owned(), value - 1.0)]);
    NewEnd {
        token,
        points: Vec::new(),
        checkpoint: None,
        prefix: None,
        outcome: Outcome::Success { metrics, artifact: None, pruning_json: None, ran: Ran::default() },
    }
}

pub(crate) fn failure(token: Token, class: FailureClass) -> NewEnd {
    let outcome = Outcome::Failure { class, message: format!("{} happened", class.name()) };
    NewEnd { token, points: Vec::new(), checkpoint: None, prefix: None, outcome }
}

pub(crate) fn point(epoch: u32, value: f64) -> Point {
    Point { name: "val/top1".to_owned(), epoch, value }
}

pub(crate) fn is_accepted(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Accepted { .. })
}

pub(crate) fn fenced(reason: &str) -> Verdict {
    Verdict::Fenced { reason: reason.to_owned() }
}

/// Runs a statement on a database, beside whoever has it open.
pub(crate) async fn execute(url: &str, sql: &'static str) {
    use sqlx::Connection;
    if let Some(path) = url.strip_prefix("sqlite:") {
        rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap();
    } else {
        let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    }
}
