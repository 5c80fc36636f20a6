//! Simulated workers: they call as the real agent does, and train nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use proto::v1;
use proto::v1::workers_client::WorkersClient;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// How long a lease with nothing to give is held open.
const WAIT_MS: u32 = 200;
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// What the workers do.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) address: String,
    pub(super) slots: u32,
    pub(super) trial_time: Duration,
    pub(super) metric_rate: f64,
    pub(super) ttl: Duration,
    /// When so many have ended, all workers stop.
    pub(super) trials: u64,
}

/// What they saw.
#[derive(Debug, Default)]
pub(super) struct Tally {
    ended: AtomicU64,
    lost: AtomicU64,
    running: AtomicU64,
    leases: Mutex<Vec<Duration>>,
    finishes: Mutex<Vec<Duration>>,
    renewals: Mutex<Vec<Duration>>,
}

fn taken(times: &Mutex<Vec<Duration>>) -> Vec<Duration> {
    times.lock().map(|mut times| std::mem::take(&mut *times)).unwrap_or_default()
}

fn note(times: &Mutex<Vec<Duration>>, since: Instant) {
    if let Ok(mut times) = times.lock() {
        times.push(since.elapsed());
    }
}

impl Tally {
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }

    pub(super) fn leases(&self) -> Vec<Duration> {
        taken(&self.leases)
    }

    pub(super) fn finishes(&self) -> Vec<Duration> {
        taken(&self.finishes)
    }

    pub(super) fn renewals(&self) -> Vec<Duration> {
        taken(&self.renewals)
    }

    /// Waits until as many workers have leased something.
    pub(super) async fn everybody_runs(&self, workers: u32) {
        while self.running.load(Ordering::SeqCst) < u64::from(workers) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Registers all workers, then lets them go at once.
pub(super) async fn start(
    load: Load,
    workers: u32,
    tally: &Arc<Tally>,
) -> anyhow::Result<Vec<JoinHandle<anyhow::Result<()>>>> {
    let mut ready = Vec::new();
    for number in 0..workers {
        let client = WorkersClient::new(super::child::connect(&load.address).await?);
        let id = register(&mut client.clone(), number, load.slots).await?;
        ready.push(Worker { client, id, load: load.clone(), tally: Arc::clone(tally), requests: 0 });
    }
    Ok(ready.into_iter().map(|worker| tokio::spawn(worker.run())).collect())
}

async fn register(client: &mut WorkersClient<Channel>, number: u32, slots: u32) -> anyhow::Result<String> {
    let splits = ["train800", "val200", "test"].map(str::to_owned).into();
    let capabilities = v1::Capabilities {
        backbones: vec![v1::Backbone { name: "tiny".into(), depth: 12, dim: 32, ..Default::default() }],
        tasks: vec![v1::Task { name: "none".into(), classes: 10, splits }],
        methods: vec!["linear".into()],
        ..Default::default()
    };
    let request = v1::RegisterRequest {
        instance: format!("{:032x}", rand::random::<u128>()),
        name: format!("bench-{number}"),
        capabilities: Some(capabilities),
        slots,
    };
    Ok(client.register(request).await.context("a worker was refused")?.into_inner().worker_id)
}

struct Worker {
    client: WorkersClient<Channel>,
    id: String,
    load: Load,
    tally: Arc<Tally>,
    requests: u64,
}

impl Worker {
    async fn run(mut self) -> anyhow::Result<()> {
        tokio::time::sleep(self.load.trial_time.mul_f64(rand::random())).await;
        let mut is_first = true;
        while self.tally.ended() < self.load.trials {
            let tokens = self.lease().await?;
            if tokens.is_empty() {
                continue;
            }
            if std::mem::take(&mut is_first) {
                self.tally.running.fetch_add(1, Ordering::SeqCst);
            }
            self.hold(&tokens).await?;
            self.finish(&tokens).await?;
        }
        Ok(())
    }

    async fn lease(&mut self) -> anyhow::Result<Vec<v1::Token>> {
        self.requests += 1;
        let request = v1::LeaseRequest {
            worker_id: self.id.clone(),
            request: self.requests.to_string(),
            max: self.load.slots,
            wait_ms: WAIT_MS,
            warm: Vec::new(),
        };
        let asked = Instant::now();
        let reply = self.repeat(|mut client| {
            let request = request.clone();
            async move { client.lease(request).await }
        });
        let assignments = reply.await?.assignments;
        if !assignments.is_empty() {
            note(&self.tally.leases, asked);
        }
        let token = |row: &v1::Assignment| v1::Token { trial_id: row.trial_id, attempt: row.attempt };
        Ok(assignments.iter().map(token).collect())
    }

    /// Runs the trials: renews their leases and reports their metrics until the time is over.
    async fn hold(&mut self, tokens: &[v1::Token]) -> anyhow::Result<()> {
        let start = Instant::now();
        let end = start + self.load.trial_time;
        let (mut renew_at, mut report_at) = (start + self.load.ttl / 3, start + REPORT_EVERY);
        let mut epoch = 0;
        while Instant::now() < end {
            tokio::time::sleep_until(end.min(renew_at).min(report_at)).await;
            let now = Instant::now();
            if now >= renew_at {
                renew_at = now + self.load.ttl / 3;
                self.renew(tokens).await?;
            }
            if now >= report_at {
                report_at = now + REPORT_EVERY;
                let points = (self.load.metric_rate * REPORT_EVERY.as_secs_f64()) as u32;
                self.report(tokens, epoch, points).await?;
                epoch += points;
            }
        }
        Ok(())
    }

    async fn renew(&mut self, tokens: &[v1::Token]) -> anyhow::Result<()> {
        let request = v1::RenewRequest { worker_id: self.id.clone(), tokens: tokens.to_vec() };
        let asked = Instant::now();
        let reply = self.repeat(|mut client| {
            let request = request.clone();
            async move { client.renew(request).await }
        });
        let lost = reply.await?.lost.len() as u64;
        note(&self.tally.renewals, asked);
        self.tally.lost.fetch_add(lost, Ordering::SeqCst);
        Ok(())
    }

    async fn report(&mut self, tokens: &[v1::Token], epoch: u32, points: u32) -> anyhow::Result<()> {
        if points == 0 {
            return Ok(());
        }
        let point = |n| v1::Point { name: "val/top1".to_owned(), epoch: epoch + n, value: f64::from(n) };
        let progress = tokens.iter().map(|token| v1::Progress {
            token: Some(*token),
            points: (1..=points).map(point).collect(),
            ..Default::default()
        });
        let request = v1::ReportRequest { worker_id: self.id.clone(), progress: progress.collect() };
        let reply = self.repeat(|mut client| {
            let request = request.clone();
            async move { client.report(request).await }
        });
        self.tally.lost.fetch_add(reply.await?.lost.len() as u64, Ordering::SeqCst);
        Ok(())
    }

    async fn finish(&mut self, tokens: &[v1::Token]) -> anyhow::Result<()> {
        let end = |token: &v1::Token| {
            let metrics = [("val/top1".to_owned(), token.trial_id as f64), ("test/top1".to_owned(), 1.0)];
            let success = v1::Success { metrics: metrics.into(), ..Default::default() };
            v1::End { token: Some(*token), how: Some(v1::end::How::Success(success)), ..Default::default() }
        };
        let request =
            v1::FinishRequest { worker_id: self.id.clone(), ends: tokens.iter().map(end).collect() };
        let asked = Instant::now();
        let reply = self.repeat(|mut client| {
            let request = request.clone();
            async move { client.finish(request).await }
        });
        let verdicts = reply.await?.verdicts;
        note(&self.tally.finishes, asked);
        let accepted =
            verdicts.iter().filter(|v| v.outcome() == v1::verdict::Outcome::Accepted).count() as u64;
        self.tally.ended.fetch_add(accepted, Ordering::SeqCst);
        self.tally.lost.fetch_add(verdicts.len() as u64 - accepted, Ordering::SeqCst);
        Ok(())
    }

    /// Makes a call again while the coordinator is away, as the agent does.
    async fn repeat<V, F>(&self, call: impl Fn(WorkersClient<Channel>) -> F) -> anyhow::Result<V>
    where
        F: Future<Output = Result<tonic::Response<V>, Status>>,
    {
        loop {
            match call(self.client.clone()).await {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(status)
                    if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(status) => return Err(status.into()),
            }
        }
    }
}
