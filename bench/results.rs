//! How long the results of 100,000 trials take: 20,000 configurations with five seeds and 14 metrics each, read page by
//! page over gRPC from an SQLite database. `make bench-results` prints the times of all metrics and of two.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::time::{Duration, Instant};

use coordinator::server::{self, Options};
use coordinator::store::{Clock, Store};
use proto::v1::sweeps_client::SweepsClient;
use proto::v1::{ResultsRequest, SubmitRequest, TrialsRequest};
use rusqlite::Connection;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

const CONFIGURATIONS: u32 = 20_000;
const ROUNDS: usize = 5;

/// A sweep of random configurations.
fn file() -> String {
    format!(
        "version: 1\nname: many\nreport: [test/top1]\nsearch: {{sampler: random, trials: {CONFIGURATIONS}}}\n\
         base: {{backbone: vit_b16, task: vtab/dtd, method: gated, prompt_length: 5}}\n\
         axes:\n  lr: {{range: {{min: 0.001, max: 10, scale: log}}}}\n  wd: {{range: {{min: 0, max: 0.1}}}}\n\
         \x20 gate_init: {{range: {{min: 1, max: 20}}}}\nreplicates: {{seeds: [0, 1, 2, 3, 4]}}\n"
    )
}

/// Ends every trial, as if workers had run them.
fn finish(path: &str) -> Result<(), rusqlite::Error> {
    let names = [
        "val/top1",
        "val/top5",
        "val/per_class",
        "val/loss",
        "train/loss",
        "test/top1",
        "test/top5",
        "test/per_class",
        "test/loss",
        "seconds/cpu",
        "seconds/wall",
        "images_per_second",
        "params/trainable",
        "params/percent",
    ];
    let pairs = names.map(|name| format!("\"{name}\":' || (abs(random() % 1000000) / 10007.0) || '"));
    let metrics = format!("'{{{}}}'", pairs.join(","));
    let connection = Connection::open(path.trim_start_matches("sqlite:"))?;
    for sql in [
        format!(
            "INSERT INTO result (trial, attempt, objective, metrics_json, digest)
             SELECT id, 1, abs(random() % 1000000) / 10007.0, {metrics}, '' FROM trial"
        ),
        "UPDATE trial SET state = 'succeeded', attempt = 1, not_before = NULL, ended = 1".to_owned(),
        "UPDATE sweep SET state = 'ended', succeeded = trials, queued = 0".to_owned(),
        "PRAGMA optimize".to_owned(),
    ] {
        connection.execute_batch(&sql)?;
    }
    Ok(())
}

/// All pages of the results, and how many configurations they hold.
async fn read(client: &mut SweepsClient<Channel>, limit: u32, metrics: &[String]) -> usize {
    let (mut after, mut rows) = (0, 0);
    loop {
        let request = ResultsRequest { sweep: "last".to_owned(), after, limit, metrics: metrics.to_vec() };
        let page = client.results(request).await.expect("a page").into_inner();
        rows += page.configurations.len();
        after = page.next_after;
        if after == 0 {
            return rows;
        }
    }
}

/// All pages of the trials, and how many there are.
async fn read_trials(client: &mut SweepsClient<Channel>) -> usize {
    let (mut after, mut rows) = (0, 0);
    loop {
        let request = TrialsRequest { sweep: "last".to_owned(), states: Vec::new(), after, limit: 1_000 };
        let page = client.trials(request).await.expect("a page").into_inner();
        rows += page.trials.len();
        after = page.next_after;
        if after == 0 {
            return rows;
        }
    }
}

fn shown(times: &mut [Duration]) -> String {
    times.sort_unstable();
    format!("{:?} (best {:?}, worst {:?})", times[times.len() / 2], times[0], times[times.len() - 1])
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = format!("sqlite:{}", folder.path().join("bench.db").display());
    let store = Store::open(&path, Clock::System).await.expect("a database");
    let minute = Duration::from_secs(60);
    let options = Options {
        token: None,
        tls: None,
        faults: None,
        lease_ttl: minute,
        lease_grace: minute,
        report_every: minute,
    };
    let listener = server::bind("127.0.0.1:0".parse().expect("an address"), &options).await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(server::serve(listener, store, options, shutdown.clone()));
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address");
    let mut client = SweepsClient::new(channel.connect().await.expect("connected"));
    let request = SubmitRequest { file: file(), ..SubmitRequest::default() };
    let reply = client.submit(request).await.expect("submitted").into_inner();
    finish(&path).expect("finished");
    println!("{} configurations, {} trials", reply.configurations, reply.trials);
    let two = ["val/top1", "test/top1"].map(str::to_owned);
    for (what, limit, metrics) in [
        ("first page of 1,000, two metrics", 1_000, two.as_slice()),
        ("all pages of 4,000, two metrics", 4_000, two.as_slice()),
        ("all pages of 4,000, all metrics", 4_000, &[]),
    ] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            if what.starts_with("first") {
                let request =
                    ResultsRequest { sweep: "last".to_owned(), after: 0, limit, metrics: metrics.to_vec() };
                client.results(request).await.expect("a page");
            } else {
                assert_eq!(read(&mut client, limit, metrics).await, CONFIGURATIONS as usize);
            }
            times.push(start.elapsed());
        }
        println!("{what}: {}", shown(&mut times));
    }
    let start = Instant::now();
    let trials = read_trials(&mut client).await;
    println!("all pages of trials: {trials} in {:?}", start.elapsed());
    shutdown.cancel();
    serving.await.expect("served").expect("served");
}
