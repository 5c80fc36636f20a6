//! `coordinator bench`: a coordinator of its own, real gRPC on loopback, and simulated workers in this process. Every
//! trial goes from submit to a durable result; what is measured is what workers wait for and what the coordinator costs.

mod child;
mod history;
mod report;
mod workers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use proto::v1;
use proto::v1::sweeps_client::SweepsClient;
use tokio::time::Instant;
use tonic::transport::Channel;

use child::Child;
use report::{Latency, Report};
use workers::{Load, Tally};

/// Replies are read whole: a page of trials is at most this long.
const MAX_REPLY: usize = 64 << 20;
/// Trials of a sweep that has ended before.
const HISTORY_SWEEP: u32 = 100_000;

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Database to fill: sqlite:PATH or postgres://… [default: a new SQLite file in a temporary folder]
    #[arg(long, env = "SWEEP_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// Trials of the sweep that is submitted
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    trials: u32,
    /// Of these, how many are run before the measurement ends; the rest stays queued [default: all]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    run: Option<u32>,
    /// Trials that have ended before
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10_000_000))]
    history: u32,
    /// Workers
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    workers: u32,
    /// Slots of each worker: it leases as many trials at once, and ends them in one call
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    slots: u32,
    /// How long each trial runs; 0ms: it is empty. Workers begin one by one within this time, as they do in life
    #[arg(long, default_value = "0ms", value_parser = crate::cli::any_duration, value_name = "TIME")]
    trial_time: Duration,
    /// Metrics that each running trial reports a second
    #[arg(long, default_value_t = 0.0)]
    metric_rate: f64,
    /// How long a lease holds; workers renew every third of it
    #[arg(long, default_value = "60s", value_parser = crate::cli::any_duration, value_name = "TIME")]
    lease_ttl: Duration,
    /// Kill the coordinator when every worker has a trial, and start it again
    #[arg(long)]
    restart: bool,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Bench) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("no temporary folder can be made")?;
    let own: PathBuf = folder.path().join("bench.db");
    let database = arguments.database_url.clone().unwrap_or_else(|| format!("sqlite:{}", own.display()));
    let mut coordinator = Child::start(&database, arguments.lease_ttl, folder.path()).await?;
    if arguments.history > 0 {
        let mut sweeps = SweepsClient::new(coordinator.channel().await?);
        let mut ended = Vec::new();
        for first in (0..arguments.history).step_by(HISTORY_SWEEP as usize) {
            ended.push(submit(&mut sweeps, (arguments.history - first).clamp(2, HISTORY_SWEEP)).await?);
        }
        coordinator.stop().await?;
        history::end_all(&database, &ended).await?;
        coordinator = Child::start(&database, arguments.lease_ttl, folder.path()).await?;
    }
    let channel = coordinator.channel().await?;
    let mut sweeps = SweepsClient::new(channel).max_decoding_message_size(MAX_REPLY);

    let submitting = Instant::now();
    let sweep = submit(&mut sweeps, arguments.trials).await?;
    let submit = submitting.elapsed();
    let after_submit = coordinator.usage()?;

    let to_run = arguments.run.unwrap_or(arguments.trials).min(arguments.trials);
    let load = Load {
        address: coordinator.address.clone(),
        slots: arguments.slots,
        trial_time: arguments.trial_time,
        metric_rate: arguments.metric_rate,
        ttl: arguments.lease_ttl,
        trials: u64::from(to_run),
    };
    let tally = Arc::new(Tally::default());
    let running = Instant::now();
    let cpu_before = coordinator.usage()?.cpu;
    let tasks = workers::start(load, arguments.workers, &tally).await?;
    let mut restart = None;
    if arguments.restart {
        tally.everybody_runs(arguments.workers).await;
        restart = Some(coordinator.restart().await?);
    }
    for task in tasks {
        task.await.context("a worker broke off")??;
    }
    let run = running.elapsed();
    let usage = coordinator.usage()?;

    let reads = read_all(&mut SweepsClient::new(coordinator.channel().await?), &sweep).await?;
    let commits = coordinator.stop().await?;
    let ended = tally.ended();
    let whole = ended >= u64::from(to_run) && reads.succeeded == ended;
    ensure!(whole, "{ended} of {to_run} trials ended, {} have a result", reads.succeeded);
    let report = Report {
        database: if database.starts_with("sqlite:") { "sqlite" } else { "postgres" },
        trials: arguments.trials,
        run: ended,
        history: arguments.history,
        trial_time_ms: arguments.trial_time.as_millis() as u64,
        workers: arguments.workers,
        slots: arguments.slots,
        submit_s: submit.as_secs_f64(),
        run_s: run.as_secs_f64(),
        trials_per_s: ended as f64 / (submit + run).as_secs_f64(),
        lease: Latency::of(tally.leases()),
        finish: Latency::of(tally.finishes()),
        renew: Latency::of(tally.renewals()),
        lost_leases: tally.lost(),
        commits,
        cpu_s: (usage.cpu - cpu_before).as_secs_f64(),
        cores: (usage.cpu - cpu_before).as_secs_f64() / run.as_secs_f64(),
        peak_mib_submit: after_submit.peak_mib,
        peak_mib: usage.peak_mib,
        restart_s: restart.map(|restart| restart.as_secs_f64()),
        read_trials_ms: reads.trials.as_secs_f64() * 1e3,
        read_results_ms: reads.results.as_secs_f64() * 1e3,
    };
    report.print(arguments.json)
}

async fn submit(sweeps: &mut SweepsClient<Channel>, trials: u32) -> anyhow::Result<String> {
    let file = format!(
        "version: 1\nname: bench\nbase: {{backbone: tiny, task: none, method: linear, epochs: 1}}\n\
         axes: {{lr: {{range: {{min: 1, max: {trials}, num: {trials}}}}}}}\nsearch: {{order: as_written}}\n"
    );
    let key = format!("bench {:032x}", rand::random::<u128>());
    let request = v1::SubmitRequest { file, key, ..Default::default() };
    let reply = sweeps.submit(request).await.context("the sweep was refused")?.into_inner();
    ensure!(reply.trials == u64::from(trials), "{} trials were queued", reply.trials);
    Ok(reply.sweep_id)
}

/// How long `sweep trials` and `sweep results` wait for the whole of a sweep.
struct Reads {
    trials: Duration,
    results: Duration,
    succeeded: u64,
}

async fn read_all(sweeps: &mut SweepsClient<Channel>, sweep: &str) -> anyhow::Result<Reads> {
    let started = Instant::now();
    let mut request = v1::TrialsRequest { sweep: sweep.to_owned(), limit: 10_000, ..Default::default() };
    loop {
        let page = sweeps.trials(request.clone()).await?.into_inner();
        if page.next_after == 0 {
            break;
        }
        request.after = page.next_after;
    }
    let trials = started.elapsed();
    let started = Instant::now();
    let mut request = v1::ResultsRequest { sweep: sweep.to_owned(), ..Default::default() };
    let mut succeeded = 0;
    loop {
        let page = sweeps.results(request.clone()).await?.into_inner();
        succeeded += page.configurations.iter().map(|row| u64::from(row.succeeded)).sum::<u64>();
        if page.next_after == 0 {
            break;
        }
        request.after = page.next_after;
    }
    Ok(Reads { trials, results: started.elapsed(), succeeded })
}
