//! What only Postgres does: it crashes under work and comes back, and it is asked for what a queue needs of it.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coordinator::store::ops::{Cancel, Finish, Lease};
use coordinator::store::{Error, Op};
use coordinator::trial::WorkerId;
use support::postgres::Cluster;
use support::{Env, Store, TTL, is_accepted, success, sweep, token};

const TRIALS: usize = 240;

/// Repeats a call as a worker does, until there is an answer.
async fn answered<O: Op + Clone>(store: &Store, op: &O) -> O::Output {
    loop {
        match store.write(op.clone()).await {
            Ok(output) => return output,
            Err(Error::Database(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Leases and finishes until there is nothing more, and gives back which trials it was told are done.
async fn work(store: Store, worker: WorkerId, done: Arc<AtomicUsize>) -> Vec<i64> {
    let mut ledger = Vec::new();
    for round in 0.. {
        let request = format!("r{round}");
        let lease =
            Lease { worker: worker.clone(), request, max: 3, ttl: TTL, warm: Vec::new(), may_ask: false };
        let tokens: Vec<_> = answered(&store, &lease).await.assignments.iter().map(token).collect();
        if tokens.is_empty() {
            break;
        }
        let ends = tokens.iter().map(|token| success(*token, 1.0)).collect();
        let verdicts = answered(&store, &Finish { worker: worker.clone(), ends }).await;
        assert!(verdicts.iter().all(is_accepted), "{verdicts:?}");
        ledger.extend(tokens.iter().map(|token| token.trial.0));
        done.fetch_add(tokens.len(), Ordering::SeqCst);
    }
    ledger
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_crashes_under_work_and_nothing_is_lost_or_done_twice() {
    let cluster = Arc::new(tokio::task::spawn_blocking(Cluster::new).await.unwrap());
    let env = Env::in_cluster(&cluster).await;
    env.submit(sweep("s", TRIALS, 1)).await;
    let done = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for number in 0..4 {
        let worker = env.worker(&format!("w{number}"), 3).await;
        tasks.push(tokio::spawn(work(env.store.clone(), worker, Arc::clone(&done))));
    }
    for crash in 1..=3 {
        while done.load(Ordering::SeqCst) < crash * TRIALS / 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let cluster = Arc::clone(&cluster);
        let crashing = move || {
            cluster.crash();
            cluster.start();
        };
        tokio::task::spawn_blocking(crashing).await.unwrap();
    }
    let mut ledger = BTreeSet::new();
    for task in tasks {
        for trial in task.await.unwrap() {
            assert!(ledger.insert(trial), "trial {trial} was done twice");
        }
    }
    assert_eq!(ledger.len(), TRIALS);
    let row = env.sweep("s").await;
    assert_eq!((row.state.as_str(), row.succeeded), ("ended", TRIALS as i64));
    env.check().await;
}

#[tokio::test]
async fn no_index_is_written_when_a_lease_is_renewed() {
    use sqlx::Connection;
    let env = Env::postgres().await;
    let mut connection = sqlx::PgConnection::connect(&env.url).await.unwrap();
    let indexes = sqlx::query_scalar("SELECT indexdef::text FROM pg_indexes WHERE tablename = 'lease'");
    let indexes: Vec<String> = indexes.fetch_all(&mut connection).await.unwrap();
    let costs = indexes.iter().any(|index| index.contains("until"));
    assert!(!indexes.is_empty() && !costs, "every renewal would lose its HOT update: {indexes:?}");
}

/// A call waits for a server that comes back soon; for one that does not, it is given up after ten seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stays_away_is_said_to_be_away_and_then_served_again() {
    let cluster = Arc::new(tokio::task::spawn_blocking(Cluster::new).await.unwrap());
    let env = Env::in_cluster(&cluster).await;
    let row = env.submit(sweep("s", 1, 1)).await;
    cluster.crash();
    let asked = std::time::Instant::now();
    let cancel = Cancel { sweep: "s".to_owned() };
    assert!(matches!(env.store.write(cancel).await, Err(Error::Database(_))));
    let waited = asked.elapsed();
    assert!((8..60).contains(&waited.as_secs()), "{waited:?}");
    let restarted = Arc::clone(&cluster);
    tokio::task::spawn_blocking(move || restarted.start()).await.unwrap();
    assert_eq!(env.sweep("s").await, row, "what was given up was not done");
    env.check().await;
}
