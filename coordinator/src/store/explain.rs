//! Why a trial waits: everything that keeps it from being leased, as sentences.

use super::error::Error;
use super::ops::PATIENCE;
use super::rows::{SweepRow, SweepState, TrialRow, WorkerRow, to_u32};
use super::sql::prefixes::HELD;
use super::sql::{needs, studies, sweeps, trials, workers};
use super::{Op, Tx};
use crate::offer::Need;
use crate::trial::{Millis, TrialId};

/// Says why a trial is not running.
#[derive(Debug)]
pub struct Explain {
    pub trial: TrialId,
}

/// Says why a sweep does not choose and run the configurations that it has yet to choose.
#[derive(Debug, Clone)]
pub struct ExplainSweep {
    pub sweep: String,
}

/// The answer to [`Explain`] and to [`ExplainSweep`].
#[derive(Debug, PartialEq, Eq)]
pub struct Explanation {
    pub state: String,
    /// What holds for the trial wherever it would run. Empty: nothing but its turn.
    pub reasons: Vec<String>,
    /// Workers that are not lost, by name, each with what keeps it from taking the trial. Nothing: it could.
    pub workers: Vec<(String, Vec<String>)>,
}

impl Op for Explain {
    type Output = Explanation;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<Explanation, Error> {
        let missing = || Error::NoTrial(self.trial);
        let row = trials::peek(tx, &[self.trial]).await?.pop().ok_or_else(missing)?;
        let sweep = sweeps::peek(tx, &[row.sweep]).await?.pop().ok_or_else(missing)?;
        let state = row.state.clone();
        if state != "queued" {
            let reasons = vec![not_queued(&row)];
            return Ok(Explanation { state, reasons, workers: Vec::new() });
        }
        let mut reasons = of_sweep(&sweep)?;
        reasons.extend(of_backoff(&row, now));
        let needs = needs::all(tx).await?;
        let need = needs.iter().find(|(id, _)| *id == row.need).map(|(_, need)| need).ok_or_else(missing)?;
        let (workers, why_none) = of_workers(tx, Some(&row), need, now).await?;
        match why_none {
            Some(why) => reasons.push(why),
            None => reasons.extend(of_turn(tx, &sweep, &row, now).await?),
        }
        Ok(Explanation { state, reasons, workers })
    }
}

impl Op for ExplainSweep {
    type Output = Explanation;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<Explanation, Error> {
        let sweep = sweeps::resolve(tx, &self.sweep).await?;
        let Some(study) = studies::first_open(tx, sweep.number).await? else {
            let reason = match sweep.waiting {
                0 => format!("it has no configuration to choose any more; it is {}", sweep.state),
                waiting => format!(
                    "{waiting} trials wait for what they are made of: a stage opens when the trials that it chooses among \
                     have ended (`sweep show {}`)",
                    sweep.id
                ),
            };
            return Ok(Explanation {
                state: "waiting".to_owned(),
                reasons: vec![reason],
                workers: Vec::new(),
            });
        };
        let counts = studies::counts(tx, sweep.number).await?;
        let name = studies::sampler(tx, sweep.number).await?;
        let mut reasons = vec![format!(
            "{name} has chosen {} of {} configurations; it chooses the next when a slot is free for it, so as to know \
             what has ended by then",
            counts.made, counts.size
        )];
        reasons.extend(of_sweep(&sweep)?);
        let needs = needs::all(tx).await?;
        let need = needs.iter().find(|(id, _)| *id == study.need).ok_or(Error::Conflict("need"))?;
        let (workers, why_none) = of_workers(tx, None, &need.1, now).await?;
        reasons.extend(why_none);
        if sweep.queued > 0 {
            reasons.push(format!("{} trials of its sweep are before it", sweep.queued));
        }
        Ok(Explanation { state: "waiting".to_owned(), reasons, workers })
    }
}

/// What keeps each worker from taking a trial of that need, and why none can, if none can.
async fn of_workers<T: Tx>(
    tx: &mut T,
    trial: Option<&TrialRow>,
    need: &Need,
    now: Millis,
) -> Result<(Vec<(String, Vec<String>)>, Option<String>), Error> {
    let rows: Vec<WorkerRow> = workers::list(tx, now).await?;
    let leases = workers::leases(tx).await?;
    let listed: Vec<&WorkerRow> = rows.iter().filter(|row| row.state != "lost").collect();
    let mut verdicts = Vec::with_capacity(listed.len());
    for worker in &listed {
        let held = leases.iter().find(|row| row.worker == worker.id).map_or(0, |row| row.count);
        let reasons = of_worker(worker, held, trial, need, listed.len() > 1, now)?;
        verdicts.push((worker.name.clone(), reasons));
    }
    verdicts.sort();
    let why_none = if verdicts.is_empty() {
        Some("there is no live worker; start one with `worker start`")
    } else if verdicts.iter().all(|(_, reasons)| !reasons.is_empty()) {
        Some("no worker can take it now")
    } else {
        None
    };
    Ok((verdicts, why_none.map(str::to_owned)))
}

fn not_queued(row: &TrialRow) -> String {
    match row.state.as_str() {
        "running" => {
            let worker = row.worker.as_deref().unwrap_or_default();
            format!("it runs on {worker} as attempt {}", row.attempt)
        }
        "failed" => {
            let (class, message) = (row.class.as_deref(), row.message.as_deref());
            format!("it has failed: {}: {}", class.unwrap_or_default(), message.unwrap_or_default())
        }
        state => format!("it is {state}"),
    }
}

fn of_sweep(sweep: &SweepRow) -> Result<Vec<String>, Error> {
    let mut reasons = Vec::new();
    if sweep.state()? == SweepState::Paused {
        let why = if sweep.paused_because.is_empty() { "by hand" } else { &sweep.paused_because };
        reasons.push(format!("its sweep is paused: {why}; `sweep resume {}` goes on", sweep.id));
    }
    if let Some(limit) = sweep.max_running.filter(|limit| sweep.running >= *limit) {
        reasons.push(format!("its sweep runs {} trials (limits.max_running: {limit})", sweep.running));
    }
    Ok(reasons)
}

fn of_backoff(row: &TrialRow, now: Millis) -> Option<String> {
    let not_before = row.not_before.filter(|not_before| *not_before > now)?;
    if not_before == HELD {
        let what = "it waits for another trial of its sweep, which trains what they have in common before they prune";
        return Some(format!("{what} (share_prefix)"));
    }
    let after = match (row.failures, row.lost) {
        (0, lost) => format!("{lost} of its workers were lost"),
        (failures, _) => format!("{failures} of its attempts failed"),
    };
    Some(format!("{after}; it is tried again in {} s", seconds(not_before - now)))
}

/// What keeps a worker from taking the trial.
fn of_worker(
    worker: &WorkerRow,
    held: i64,
    trial: Option<&TrialRow>,
    need: &Need,
    has_others: bool,
    now: Millis,
) -> Result<Vec<String>, Error> {
    let mut reasons: Vec<String> =
        worker.offer()?.lacks(need).into_iter().map(|what| format!("lacks {what}")).collect();
    if worker.state == "draining" {
        reasons.push("is draining".to_owned());
    }
    if let Some(why) = &worker.quarantined {
        reasons.push(format!("is quarantined: {why}; `sweep workers release {}` lifts it", worker.name));
    }
    if worker.rests_until > now {
        let (strikes, rest) = (worker.strikes, seconds(worker.rests_until - now));
        reasons.push(format!("rests for {rest} s after {strikes} failures in a row"));
    }
    if held >= worker.slots {
        reasons.push(format!("has no free slot ({held} of {} taken)", worker.slots));
    }
    let failed_here = trial.filter(|trial| trial.failed_on.as_ref() == Some(&worker.id));
    let left_until = failed_here.map_or(0, |trial| trial.not_before.unwrap_or_default() + PATIENCE);
    if has_others && left_until > now {
        let rest = seconds(left_until - now);
        reasons.push(format!("leaves it to others for {rest} s, for it failed here"));
    }
    Ok(reasons)
}

/// What is served before it, though a worker could take it.
async fn of_turn<T: Tx>(
    tx: &mut T,
    sweep: &SweepRow,
    row: &TrialRow,
    now: Millis,
) -> Result<Vec<String>, Error> {
    let mut reasons = Vec::new();
    let due = trials::due_before(tx, row, now).await?;
    if due > 0 {
        reasons.push(format!("{due} trials of its sweep are before it"));
    }
    let active = sweeps::active(tx).await?;
    let higher = active.iter().filter(|other| other.queued > 0 && other.priority > sweep.priority).count();
    if higher > 0 {
        reasons.push(format!("{higher} sweeps of higher priority have trials waiting"));
    }
    let equal = active
        .iter()
        .filter(|other| other.queued > 0 && other.priority == sweep.priority && other.number != sweep.number);
    let equal = to_u32(equal.count() as i64);
    if equal > 0 {
        reasons.push(format!("{equal} sweeps of the same priority take turns with its own"));
    }
    Ok(reasons)
}

fn seconds(millis: Millis) -> Millis {
    (millis + 999) / 1_000
}
