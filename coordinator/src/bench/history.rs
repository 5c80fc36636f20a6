//! Trials that ended before the measurement begins, as workers would have left them, but written straight into the
//! database: a million by way of workers would take minutes.

use anyhow::Context;
use coordinator::offer::Offer;
use coordinator::store::ops::Register;
use coordinator::store::reads::{FindSweep, Trials};
use coordinator::store::{Arg, Clock, Error, Op, Sql, Store, Tx};
use coordinator::trial::Millis;

/// Trials in one transaction.
const BATCH: i64 = 20_000;

/// `$1` to `$3`: the sweep, its first and its last trial. `$4`: the worker. `$5`: the time. `$6`: the number of the
/// first trial's first event.
const STEPS: [Sql; 5] = [
    Sql::both(
        "INSERT INTO attempt (trial, number, worker, request, started, ended, how, digest)
         SELECT id, 1, $4, 'history', $5, $5, 'succeeded', 'history' FROM trial
          WHERE sweep = $1 AND id BETWEEN $2 AND $3",
    ),
    Sql::both(
        "INSERT INTO result (trial, attempt, objective, metrics_json, digest)
         SELECT id, 1, 50.0, '{\"test/top1\":49.0,\"val/top1\":50.0}', 'history' FROM trial
          WHERE sweep = $1 AND id BETWEEN $2 AND $3",
    ),
    Sql::both(
        "INSERT INTO event (sweep, seq, at, kind, trial, attempt, worker, epoch, message)
         SELECT sweep, $6 + 2 * (id - $2), $5, 'leased', id, 1, $4, 0, '' FROM trial
          WHERE sweep = $1 AND id BETWEEN $2 AND $3",
    ),
    Sql::both(
        "INSERT INTO event (sweep, seq, at, kind, trial, attempt, worker, epoch, metrics_json, message)
         SELECT sweep, $6 + 2 * (id - $2) + 1, $5, 'succeeded', id, 1, $4, 0,
                '{\"test/top1\":49.0,\"val/top1\":50.0}', '' FROM trial
          WHERE sweep = $1 AND id BETWEEN $2 AND $3",
    ),
    Sql::both(
        "UPDATE trial SET state = 'succeeded', attempt = 1, not_before = NULL, ended = $5
          WHERE sweep = $1 AND id BETWEEN $2 AND $3",
    ),
];
const EVENT: Sql = Sql::both(
    "INSERT INTO event (sweep, seq, at, kind, trial, attempt, worker, epoch, message)
     SELECT number, last_seq + 2 * trials + 1, $2, 'ended', 0, 0, '', 0, '' FROM sweep WHERE number = $1",
);
const SWEEP: Sql = Sql::both(
    "UPDATE sweep SET state = 'ended', queued = 0, succeeded = trials, last_seq = last_seq + 2 * trials + 1
      WHERE number = $1",
);
/// As its own housekeeping would have done by then.
const ANALYZE: Sql = Sql { sqlite: "SELECT 1", postgres: "ANALYZE" };

/// Ends all trials of sweeps that nobody has leased from.
pub(super) async fn end_all(url: &str, sweeps: &[String]) -> anyhow::Result<()> {
    let store = Store::open(url, Clock::System).await?;
    let name = "history".to_owned();
    let register = Register { instance: name.clone(), name, offer: Offer::default(), slots: 1 };
    let worker = store.write(register).await?.id;
    for sweep in sweeps {
        let row = store.read(FindSweep { sweep: sweep.clone() }).await?;
        let trials = Trials { sweep: sweep.clone(), after: 0, states: Vec::new(), limit: 1 };
        let first = store.read(trials).await?.first().context("the sweep has no trials")?.id;
        let last = first + row.trials - 1;
        let mut from = first;
        while from <= last {
            let to = last.min(from + BATCH - 1);
            let seq = row.last_seq + 1 + 2 * (from - first);
            store.write(End { sweep: row.number, from, to, worker: worker.clone(), seq }).await?;
            from = to + 1;
        }
        store.write(EndSweep(row.number)).await?;
    }
    store.close().await;
    Ok(())
}

/// Ends trials.
struct End {
    sweep: i64,
    from: i64,
    to: i64,
    worker: String,
    seq: i64,
}

impl Op for End {
    type Output = ();

    const IS_SMALL: bool = false;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<(), Error> {
        for sql in STEPS {
            let all = [self.sweep.into(), self.from.into(), self.to.into(), self.worker.as_str().into()];
            let rest: [Arg; 2] = [now.into(), self.seq.into()];
            tx.execute(sql, all.into_iter().chain(rest).take(parameters(sql)).collect()).await?;
        }
        Ok(())
    }
}

/// Postgres wants no more than a statement names.
fn parameters(sql: Sql) -> usize {
    (1..=6).filter(|number| sql.postgres.contains(&format!("${number}"))).max().unwrap_or(0)
}

struct EndSweep(i64);

impl Op for EndSweep {
    type Output = ();

    const IS_SMALL: bool = false;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<(), Error> {
        tx.execute(EVENT, vec![self.0.into(), now.into()]).await?;
        tx.execute(SWEEP, vec![self.0.into()]).await?;
        tx.execute(ANALYZE, Vec::new()).await?;
        Ok(())
    }
}
