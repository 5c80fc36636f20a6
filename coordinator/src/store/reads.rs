//! What can be asked without changing anything.

use std::collections::BTreeMap;

use super::error::Error;
use super::ops::{Ask, is_any, served};
use super::rows::{
    AttemptRow, ConfigurationRow, EventRow, FailedGroupRow, FailureRow, OrphanRow, OutcomesRow, PointRow,
    SourceRow, StageCountRow, StudyCountRow, SweepRow, TrialView, WorkerRow, to_u32,
};
use super::sql::leases::{self, Token};
use super::sql::{history, needs, stages, studies, sweeps, trials, workers};
use super::{Op, Tx};
use crate::offer::{Need, Offer};
use crate::trial::{Millis, TrialId, WorkerId};

/// The sweep that a user means.
#[derive(Debug)]
pub struct FindSweep {
    pub sweep: String,
}

impl Op for FindSweep {
    type Output = SweepRow;

    async fn run<T: Tx>(&self, tx: &mut T, _now: Millis) -> Result<SweepRow, Error> {
        sweeps::resolve(tx, &self.sweep).await
    }
}

/// The sweep that was submitted with a key, if there is one.
#[derive(Debug)]
pub struct FindKey {
    pub key: String,
}

impl Op for FindKey {
    type Output = Option<SweepRow>;

    async fn run<T: Tx>(&self, tx: &mut T, _now: Millis) -> Result<Option<SweepRow>, Error> {
        sweeps::find_key(tx, &self.key).await
    }
}

/// A sweep with all that belongs to it as a whole.
#[derive(Debug)]
pub struct GetSweep {
    pub sweep: String,
}

/// The answer to [`GetSweep`].
#[derive(Debug)]
pub struct SweepDetails {
    pub sweep: SweepRow,
    pub source: Option<SourceRow>,
    pub failures: Vec<FailureRow>,
    pub unserved: Vec<Unserved>,
    pub stages: Vec<StageCountRow>,
    /// Groups of which nothing could be chosen, the first of them.
    pub failed_groups: Vec<FailedGroupRow>,
    /// Of a sampler that chooses while results come in: its name, and how far it has come.
    pub studies: Option<(String, StudyCountRow)>,
}

/// Failed groups that are named.
const FAILED_GROUPS: i64 = 20;

/// Queued trials that no live worker can run.
#[derive(Debug, PartialEq, Eq)]
pub struct Unserved {
    pub trials: i64,
    pub need: Need,
    /// A sentence per live worker.
    pub reasons: Vec<String>,
}

impl Op for GetSweep {
    type Output = SweepDetails;

    async fn run<T: Tx>(&self, tx: &mut T, _now: Millis) -> Result<SweepDetails, Error> {
        let sweep = sweeps::resolve(tx, &self.sweep).await?;
        let source = sweeps::source(tx, sweep.number).await?;
        let failures = sweeps::failures(tx, sweep.number).await?;
        let unserved = if sweep.queued > 0 { unserved(tx, sweep.number).await? } else { Vec::new() };
        let stages = stages::counts(tx, sweep.number).await?;
        let failed_groups = stages::failed(tx, sweep.number, FAILED_GROUPS).await?;
        let studies = match studies::counts(tx, sweep.number).await? {
            counts if counts.studies == 0 => None,
            counts => Some((studies::sampler(tx, sweep.number).await?, counts)),
        };
        Ok(SweepDetails { sweep, source, failures, unserved, stages, failed_groups, studies })
    }
}

async fn unserved<T: Tx>(tx: &mut T, sweep: i64) -> Result<Vec<Unserved>, Error> {
    let needs: BTreeMap<i64, Need> = needs::all(tx).await?.into_iter().collect();
    let mut live: Vec<(String, Offer)> = Vec::new();
    for row in workers::live(tx).await? {
        live.push((row.name.clone(), row.offer()?));
    }
    let mut unserved = Vec::new();
    for row in needs::queued(tx, sweep).await? {
        let Some(need) = needs.get(&row.key) else { continue };
        if live.iter().any(|(_, offer)| offer.fits(need)) {
            continue;
        }
        let reason =
            |(name, offer): &(String, Offer)| format!("{name} lacks {}", offer.lacks(need).join(" and "));
        let reasons = live.iter().map(reason).collect();
        unserved.push(Unserved { trials: row.count, need: need.clone(), reasons });
    }
    Ok(unserved)
}

/// Sweeps, newest first.
#[derive(Debug)]
pub struct ListSweeps {
    pub limit: u32,
}

impl Op for ListSweeps {
    type Output = Vec<SweepRow>;

    async fn run<T: Tx>(&self, tx: &mut T, _now: Millis) -> Result<Vec<SweepRow>, Error> {
        sweeps::list(tx, i64::from(self.limit)).await
    }
}

/// Events of a sweep after a number, at most `limit`.
#[derive(Debug)]
pub struct Events {
    pub sweep: i64,
    pub after: i64,
    pub limit: u32,
}

impl Op for Events {
    type Output = Vec<EventRow>;

    async fn run<T: Tx>(&self, tx: &mut T, _now: Millis) -> Result<Vec<EventRow>, Error> {
        history::events(tx, self.sweep, self.after, i64::from(self.limit)).await
    }
}

/// Trials of a sweep by id, a page at a time.
#[derive(Debug)]
pub struct Trials {
    pub sweep: String,
    pub after: i64,
    /// Names of states; none: all.
    pub states: Vec<&'static str>,
    pub limit: u32,
}

impl Op for Trials {
    type Output = Vec<TrialView>;

    async fn run<T: Tx>(&self, tx: &mut T, _now: Millis) -> Result<Vec<TrialView>, Error> {
        let sweep = sweeps::resolve(tx, &self.sweep).await?;
        trials::views(tx, sweep.number, self.after, &self.states, i64::from(self.limit)).await
    }
}

/// One trial with its history.
#[derive(Debug)]
pub struct GetTrial {
    pub trial: TrialId,
}

/// The answer to [`GetTrial`].
#[derive(Debug)]
pub struct TrialDetails {
    pub trial: TrialView,
    pub attempts: Vec<AttemptRow>,
    /// Of the latest attempt.
    pub points: Vec<PointRow>,
    pub recipe_json: String,
    /// Where its tuned tensors lie.
    pub artifact: Option<String>,
    /// Scores of its pruned prompts, and which stay.
    pub pruning_json: Option<String>,
    /// Where its next attempt goes on.
    pub checkpoint: Option<String>,
    /// What it starts from.
    pub start: Option<String>,
    pub orphans: Vec<OrphanRow>,
}

impl Op for GetTrial {
    type Output = TrialDetails;

    async fn run<T: Tx>(&self, tx: &mut T, _now: Millis) -> Result<TrialDetails, Error> {
        let missing = Error::NoTrial(self.trial);
        let row = trials::peek(tx, &[self.trial]).await?.pop().ok_or_else(|| missing.clone())?;
        let view = trials::views(tx, row.sweep, self.trial.0 - 1, &[], 1).await?.pop();
        let attempts = leases::attempts(tx, &[self.trial]).await?;
        let token = Token { trial: self.trial, attempt: to_u32(row.attempt) };
        let points = history::points(tx, token).await?;
        let recipe = trials::assignments(tx, &[self.trial]).await?.pop();
        let orphans = history::orphans(tx, self.trial).await?;
        let kept = history::kept(tx, self.trial).await?;
        match (view, recipe) {
            (Some(trial), Some(recipe)) => Ok(TrialDetails {
                trial,
                attempts,
                points,
                recipe_json: recipe.recipe_json,
                artifact: kept.artifact,
                pruning_json: kept.pruning_json,
                checkpoint: recipe.checkpoint,
                start: recipe.start,
                orphans,
            }),
            _ => Err(missing),
        }
    }
}

/// Configurations of a sweep with the ends of their trials, a page at a time.
#[derive(Debug)]
pub struct Results {
    pub sweep: String,
    pub after: u64,
    pub limit: u32,
}

/// The answer to [`Results`].
#[derive(Debug)]
pub struct ResultsPage {
    pub sweep: SweepRow,
    pub configurations: Vec<ConfigurationRow>,
    /// In the order of the configurations.
    pub outcomes: Vec<OutcomesRow>,
    /// Of the sweep's first configuration.
    pub first_recipe_json: String,
    /// Stages whose trials are scored on test images.
    pub test_stages: Vec<String>,
}

impl Op for Results {
    type Output = ResultsPage;

    async fn run<T: Tx>(&self, tx: &mut T, _now: Millis) -> Result<ResultsPage, Error> {
        let sweep = sweeps::resolve(tx, &self.sweep).await?;
        let after = i64::try_from(self.after).unwrap_or(i64::MAX);
        let configurations = sweeps::configurations(tx, sweep.number, after, i64::from(self.limit)).await?;
        let outcomes = match (configurations.first(), configurations.last()) {
            (Some(first), Some(last)) => {
                trials::outcomes(tx, sweep.number, first.number, last.number).await?
            }
            _ => Vec::new(),
        };
        let first_recipe_json = sweeps::first_recipe(tx, sweep.number).await?;
        let stages = stages::stages(tx, sweep.number).await?.into_iter();
        let test_stages =
            stages.filter(|stage| stage.is_scored_on_test != 0).map(|stage| stage.name).collect();
        Ok(ResultsPage { sweep, configurations, outcomes, first_recipe_json, test_stages })
    }
}

/// Lost workers are listed this long.
const LOST_FOR_GOOD: Millis = 24 * 60 * 60 * 1_000;

/// Workers, live ones first, then the newest, and how many leases each has.
#[derive(Debug)]
pub struct ListWorkers;

impl Op for ListWorkers {
    type Output = Vec<(WorkerRow, i64)>;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<Self::Output, Error> {
        let leases: BTreeMap<_, _> =
            workers::leases(tx).await?.into_iter().map(|row| (row.worker, row.count)).collect();
        let rows = workers::list(tx, now - LOST_FOR_GOOD).await?;
        Ok(rows.into_iter().map(|row| (row.clone(), leases.get(&row.id).copied().unwrap_or(0))).collect())
    }
}

/// What live workers offer.
#[derive(Debug)]
pub struct LiveOffers;

impl Op for LiveOffers {
    type Output = Vec<(String, Offer)>;

    async fn run<T: Tx>(&self, tx: &mut T, _now: Millis) -> Result<Self::Output, Error> {
        let rows = workers::live(tx).await?;
        rows.into_iter().map(|row| Ok((row.name.clone(), row.offer()?))).collect()
    }
}

/// Whether any worker could be given anything, were it the right one. One answer does for all that wait.
#[derive(Debug)]
pub struct AnyQueued;

impl Op for AnyQueued {
    type Output = bool;

    async fn run<T: Tx>(&self, tx: &mut T, _now: Millis) -> Result<bool, Error> {
        sweeps::any_queued(tx).await
    }
}

/// Whether a worker could be given anything now. Cheap, so that a waiting worker can ask often.
#[derive(Debug)]
pub struct HasWork {
    pub worker: WorkerId,
}

impl Op for HasWork {
    type Output = bool;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<bool, Error> {
        let worker = workers::get(tx, &self.worker).await?;
        let is_lost = worker.state == "lost" && worker.quarantined.is_none();
        let held = leases::held(tx, &[&self.worker]).await?.pop().map_or(0, |row| row.count);
        if !is_lost && !worker.may_lease(now) || held >= worker.slots {
            return Ok(false);
        }
        let needs = served(&needs::all(tx).await?, &worker.offer()?, &[]);
        is_any(tx, &Ask { worker: &self.worker, max: 1, needs, may_ask: true }, now).await
    }
}
