//! Reports of running attempts, and their ends.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::changes::{Changes, Details};
use super::renew::Lost;
use super::{early_stop, prefixes, reuse};
use crate::health::Health;
use crate::score::At;
use crate::store::Op;
use crate::store::error::Error;
use crate::store::rows::{OriginRow, OrphanRow, PointRow, to_json};
use crate::store::sql;
use crate::store::sql::history::{self, CheckpointInsert, ResultInsert};
use crate::store::sql::leases::{self, Token};
use crate::store::sql::reuse::ReusableInsert;
use crate::store::sql::workers;
use crate::store::tx::Tx;
use crate::trial::{Cause, Command, Event, FailureClass, Holder, Millis, Rejected, TrialId, WorkerId};

/// Ends that are written in one, at most.
const TOGETHER: usize = 2_000;

/// A metric's value at the end of an epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub name: String,
    pub epoch: u32,
    pub value: f64,
}

/// What a running attempt has to report.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    pub token: Token,
    pub points: Vec<Point>,
    /// Where the attempt's latest checkpoint lies, if there is a new one.
    pub checkpoint: Option<String>,
    /// Where the end of its training before pruning lies, for others.
    pub prefix: Option<String>,
}

/// Metrics of running attempts. Points that exist already are left alone.
#[derive(Debug, Clone)]
pub struct Report {
    pub worker: WorkerId,
    pub progress: Vec<Progress>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Success {
        metrics: BTreeMap<String, f64>,
        artifact: Option<String>,
        pruning_json: Option<String>,
        ran: Ran,
    },
    Failure {
        class: FailureClass,
        message: String,
    },
    Interruption {
        cause: Cause,
        message: String,
    },
}

/// What a result depends on besides recipe and seed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ran {
    /// A digest of what was read; empty: not told.
    pub inputs: String,
    /// What computed it.
    pub code: String,
    /// The trial whose result it is; `None`: the attempt has trained.
    pub origin: Option<TrialId>,
}

/// An attempt's end, with the points that were not reported yet.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEnd {
    pub token: Token,
    pub points: Vec<Point>,
    pub checkpoint: Option<String>,
    pub prefix: Option<String>,
    pub outcome: Outcome,
}

/// Ends attempts. Repeating the same end of the same attempt changes nothing and is accepted again.
#[derive(Debug, Clone)]
pub struct Finish {
    pub worker: WorkerId,
    pub ends: Vec<NewEnd>,
}

/// Whether an end counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accepted { reason: String },
    Fenced { reason: String },
}

impl Op for Report {
    type Output = Vec<Lost>;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<Vec<Lost>, Error> {
        workers::touch(tx, &self.worker, now).await?;
        let ids: Vec<_> = self.progress.iter().map(|progress| progress.token.trial).collect();
        let mut changes = Changes::load(tx, &ids, now).await?;
        let mut lost: Vec<Lost> = Vec::new();
        let (mut points, mut checkpoints) = (Vec::new(), Vec::new());
        for Progress { token, points: new, checkpoint, prefix } in &self.progress {
            match report(&mut changes, &self.worker, *token, new) {
                Ok(rows) => {
                    points.extend(rows);
                    checkpoints.extend(checkpoint_of(*token, checkpoint));
                    prefixes::publish(tx, *token, prefix).await?;
                }
                Err(reason) if lost.iter().all(|lost| lost.token != *token) => {
                    lost.push(Lost { token: *token, reason });
                }
                Err(_) => {}
            }
        }
        let new = write_points(tx, &mut changes, points).await?;
        history::put_checkpoints(tx, checkpoints).await?;
        let stopped = early_stop::judge(tx, &mut changes, &new, true).await?;
        let reason = || Rejected::Stopped.to_string();
        lost.extend(stopped.into_iter().map(|token| Lost { token, reason: reason() }));
        changes.write(tx).await?;
        Ok(lost)
    }
}

impl Op for Finish {
    type Output = Vec<Verdict>;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<Vec<Verdict>, Error> {
        super::alone(self, tx, now).await
    }

    fn joins(&self, others: &[&Self]) -> bool {
        self.ends.len() + others.iter().map(|other| other.ends.len()).sum::<usize>() <= TOGETHER
    }

    async fn run_all<T: Tx>(
        calls: &[&Self],
        tx: &mut T,
        now: Millis,
    ) -> Result<Vec<Result<Vec<Verdict>, Error>>, Error> {
        let callers: BTreeSet<&WorkerId> = calls.iter().map(|call| &call.worker).collect();
        let callers: Vec<&WorkerId> = callers.into_iter().collect();
        let known = workers::touch_all(tx, &callers, now).await?;
        let healths = known.iter().map(|(id, row)| (id.clone(), row.health())).collect();
        let valid: Vec<&Self> =
            calls.iter().copied().filter(|call| known.contains_key(&call.worker)).collect();
        let ids: Vec<_> = valid.iter().flat_map(|call| &call.ends).map(|end| end.token.trial).collect();
        let mut changes = Changes::load(tx, &ids, now).await?;
        let (mut points, mut checkpoints) = (Vec::new(), Vec::new());
        for call in &valid {
            for end in &call.ends {
                // What a fenced attempt brings is dropped; its verdict below says why.
                if let Ok(rows) = report(&mut changes, &call.worker, end.token, &end.points) {
                    points.extend(rows);
                    checkpoints.extend(checkpoint_of(end.token, &end.checkpoint));
                    prefixes::publish(tx, end.token, &end.prefix).await?;
                }
            }
        }
        let mut new = write_points(tx, &mut changes, points).await?;
        let mut origins = BTreeMap::new();
        for call in valid {
            reuse::take_over(tx, &mut changes, call, &mut new, &mut origins).await?;
        }
        // Who comes to the end is not stopped any more, but others are compared with it.
        early_stop::judge(tx, &mut changes, &new, false).await?;
        history::put_checkpoints(tx, checkpoints).await?;
        let mut tally =
            Tally { results: Vec::new(), reusable: Vec::new(), orphans: Vec::new(), origins, healths, now };
        let mut outputs = Vec::with_capacity(calls.len());
        for call in calls {
            outputs.push(match known.contains_key(&call.worker) {
                true => Ok(call.finish(tx, &mut changes, &mut tally).await?),
                false => Err(Error::NoWorker(call.worker.0.clone())),
            });
        }
        history::insert_results(tx, &tally.results).await?;
        sql::reuse::insert(tx, &tally.reusable).await?;
        changes.write(tx).await?;
        history::insert_orphans(tx, &tally.orphans).await?;
        for (worker, health) in &tally.healths {
            if known.get(worker).is_some_and(|row| row.health() != *health) {
                workers::set_health(tx, worker, *health).await?;
            }
        }
        Ok(outputs)
    }
}

impl Finish {
    async fn finish<T: Tx>(
        &self,
        tx: &mut T,
        changes: &mut Changes,
        tally: &mut Tally,
    ) -> Result<Vec<Verdict>, Error> {
        let mut verdicts = Vec::with_capacity(self.ends.len());
        for end in &self.ends {
            verdicts.push(self.end(tx, changes, end, tally).await?);
        }
        Ok(verdicts)
    }

    async fn end<T: Tx>(
        &self,
        tx: &mut T,
        changes: &mut Changes,
        end: &NewEnd,
        tally: &mut Tally,
    ) -> Result<Verdict, Error> {
        let token = end.token;
        let digest = digest(end);
        let origin = tally.origins.get(&token);
        let result = match (&end.outcome, origin) {
            (Outcome::Success { .. }, Some(origin)) => Some(ResultInsert {
                token,
                objective: score(tx, changes, token, &reuse::metrics(origin)?).await?,
                metrics_json: origin.metrics_json.clone(),
                artifact: origin.artifact.clone(),
                pruning_json: origin.pruning_json.clone(),
                digest: digest.clone(),
                origin: Some(origin.trial),
            }),
            (Outcome::Success { metrics, artifact, pruning_json, .. }, None) => Some(ResultInsert {
                token,
                objective: score(tx, changes, token, metrics).await?,
                metrics_json: metrics_json(metrics),
                artifact: artifact.clone(),
                pruning_json: pruning_json.clone(),
                digest: digest.clone(),
                origin: None,
            }),
            _ => None,
        };
        let details = Details {
            metrics_json: result.as_ref().map(|result| result.metrics_json.clone()),
            digest: Some(digest.clone()),
            message: origin.map(reuse::message).unwrap_or_default(),
        };
        let metrics_json = details.metrics_json.clone();
        let reason = match changes.step(token.trial, self.command(end), details) {
            Ok(event) => {
                tally.results.extend(result);
                tally.reusable.extend(reuse::reusable(end));
                tally.note(&self.worker, &end.outcome);
                let reason = match event {
                    Event::Requeued { .. } => "queued again",
                    _ => "",
                };
                return Ok(Verdict::Accepted { reason: reason.to_owned() });
            }
            Err(refused) => refused.to_string(),
        };
        let attempts = leases::attempts(tx, &[token.trial]).await?;
        let before = attempts.iter().find(|row| {
            row.trial == token.trial.0
                && row.number == i64::from(token.attempt)
                && row.worker == self.worker.0
        });
        let known = changes.digest(token).or(before.and_then(|row| row.digest.as_deref()));
        Ok(if known == Some(digest.as_str()) {
            Verdict::Accepted { reason: "accepted before".to_owned() }
        } else {
            // Only of attempts that there have been: a result of none is a mistake, not work that was lost.
            let orphan = before.and(metrics_json).map(|metrics_json| OrphanRow {
                trial: token.trial.0,
                attempt: i64::from(token.attempt),
                digest,
                worker: self.worker.0.clone(),
                at: tally.now,
                reason: reason.clone(),
                metrics_json,
            });
            tally.orphans.extend(orphan);
            Verdict::Fenced { reason }
        })
    }

    fn command(&self, end: &NewEnd) -> Command {
        let by = Holder { worker: self.worker.clone(), attempt: end.token.attempt };
        match end.outcome.clone() {
            Outcome::Success { .. } => Command::Succeed { by },
            Outcome::Failure { class, message } => Command::Fail { by, class, message },
            Outcome::Interruption { cause, message } => Command::Interrupt { by, cause, message },
        }
    }
}

/// What ends add up to.
#[derive(Debug)]
struct Tally {
    results: Vec<ResultInsert>,
    reusable: Vec<ReusableInsert>,
    orphans: Vec<OrphanRow>,
    /// Results that are taken over, by the attempts that do.
    origins: BTreeMap<Token, OriginRow>,
    healths: BTreeMap<WorkerId, Health>,
    now: Millis,
}

impl Tally {
    /// What an accepted end says about its worker.
    fn note(&mut self, worker: &WorkerId, outcome: &Outcome) {
        let Some(health) = self.healths.get_mut(worker) else { return };
        *health = match outcome {
            // Nothing was computed that could say anything about the worker.
            Outcome::Success { ran: Ran { origin: Some(_), .. }, .. } => *health,
            Outcome::Success { .. } => health.after_success(),
            Outcome::Failure { class, .. } => health.after_failure(*class, self.now),
            Outcome::Interruption { .. } => *health,
        };
    }
}

/// Takes a report of the attempt that holds its trial; of another, says why not.
fn report(
    changes: &mut Changes,
    worker: &WorkerId,
    token: Token,
    points: &[Point],
) -> Result<Vec<PointRow>, String> {
    let by = Holder { worker: worker.clone(), attempt: token.attempt };
    let epoch = points.iter().map(|point| point.epoch).max().unwrap_or(0);
    let step = changes.step(token.trial, Command::Report { by, epoch }, Details::default());
    step.map_err(|refused| refused.to_string())?;
    let row = |point: &Point| PointRow {
        trial: token.trial.0,
        attempt: i64::from(token.attempt),
        name: point.name.clone(),
        epoch: i64::from(point.epoch),
        value: point.value.is_finite().then_some(point.value),
    };
    Ok(points.iter().map(row).collect())
}

fn checkpoint_of(token: Token, url: &Option<String>) -> Option<CheckpointInsert> {
    url.clone().map(|url| CheckpointInsert { token, url })
}

/// Writes points, and an event for each epoch that brought a new one. Those that are new.
async fn write_points<T: Tx>(
    tx: &mut T,
    changes: &mut Changes,
    points: Vec<PointRow>,
) -> Result<Vec<PointRow>, Error> {
    let mut epochs: BTreeMap<(i64, i64, i64), BTreeMap<String, Option<f64>>> = BTreeMap::new();
    let new = history::insert_points(tx, &points).await?;
    for row in new.iter().cloned() {
        epochs.entry((row.trial, row.attempt, row.epoch)).or_default().insert(row.name, row.value);
    }
    for ((trial, attempt, epoch), metrics) in epochs {
        let token = Token { trial: TrialId(trial), attempt: crate::store::rows::to_u32(attempt) };
        changes.reported(token, epoch, to_json(&metrics));
    }
    Ok(new)
}

async fn score<T: Tx>(
    tx: &mut T,
    changes: &Changes,
    token: Token,
    metrics: &BTreeMap<String, f64>,
) -> Result<Option<f64>, Error> {
    let Some(sweep) = changes.sweep_of(token.trial) else { return Ok(None) };
    let objective = sweep.objective()?;
    let values = match objective.at {
        At::Last => Vec::new(),
        At::Best => history::values(tx, token.trial, token.attempt, &objective.metric).await?,
    };
    Ok(objective.score(metrics, &values))
}

/// Metrics as stored: a value that is not finite is null.
fn metrics_json(metrics: &BTreeMap<String, f64>) -> String {
    let metrics: BTreeMap<_, _> =
        metrics.iter().map(|(name, value)| (name, value.is_finite().then_some(value))).collect();
    to_json(&metrics)
}

/// What makes two ends of an attempt the same: everything but the points, which may have been reported meanwhile.
fn digest(end: &NewEnd) -> String {
    let (kind, word, message) = match &end.outcome {
        Outcome::Success { ran: Ran { origin: Some(origin), .. }, .. } => ("reused", origin.to_string(), ""),
        Outcome::Success { metrics, artifact, .. } => {
            ("success", metrics_json(metrics), artifact.as_deref().unwrap_or_default())
        }
        Outcome::Failure { class, message } => ("failure", class.name().to_owned(), message.as_str()),
        Outcome::Interruption { cause, message } => {
            ("interruption", crate::trial::How::Interrupted(*cause).name().to_owned(), message.as_str())
        }
    };
    let text = to_json(&(end.token.trial, end.token.attempt, kind, word, message));
    hex(&Sha256::digest(text.as_bytes()))
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
