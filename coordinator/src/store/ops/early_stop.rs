//! Ending trials early, in the transaction of the report that tells how far they have come.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use ::sweeps::spec::EarlyStop;

use super::changes::{Changes, Details};
use crate::score::{At, Goal, Objective};
use crate::search::early_stop::{goes_on, is_rung, standing};
use crate::store::error::Error;
use crate::store::rows::{PointRow, ScopeRow, SweepRow, to_json, to_u32};
use crate::store::sql::history::{self, ResultInsert};
use crate::store::sql::leases::Token;
use crate::store::sql::rungs;
use crate::store::tx::Tx;
use crate::trial::{Command, TrialId};

/// Notes how trials stand at the rungs that these new points reach. With `may_stop`, those that are not worth going on
/// end here, with what they scored last as their result.
pub(super) async fn judge<T: Tx>(
    tx: &mut T,
    changes: &mut Changes,
    points: &[PointRow],
    may_stop: bool,
) -> Result<Vec<Token>, Error> {
    let mut stopped = Vec::new();
    let mut results = Vec::new();
    let mut judges: BTreeMap<i64, Option<Judge>> = BTreeMap::new();
    let mut reached: BTreeMap<(i64, i64), Vec<u32>> = BTreeMap::new();
    for point in points {
        let Some(sweep) = changes.sweep_of(TrialId(point.trial)) else { continue };
        let judge = match judges.entry(sweep.number) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Judge::of(sweep)?),
        };
        if judge.as_ref().is_some_and(|judge| judge.objective.metric == point.name) {
            reached.entry((point.trial, point.attempt)).or_default().push(to_u32(point.epoch));
        }
    }
    if reached.is_empty() {
        return Ok(stopped);
    }
    let ids: Vec<i64> = reached.keys().map(|(trial, _)| *trial).collect();
    for row in rungs::scopes(tx, &ids).await? {
        let Some(judge) = judges.get(&row.sweep).and_then(Option::as_ref) else { continue };
        for ((_, attempt), epochs) in reached.iter_mut().filter(|((trial, _), _)| *trial == row.trial) {
            let token = Token { trial: TrialId(row.trial), attempt: to_u32(*attempt) };
            epochs.sort_unstable();
            let goes_on = judge.climb(tx, token, &row, epochs).await?;
            if goes_on || !may_stop {
                continue;
            }
            let result = judge.result(tx, token).await?;
            let details = Details { metrics_json: Some(result.metrics_json.clone()), ..Details::default() };
            if changes.step(token.trial, Command::Stop, details).is_ok() {
                results.push(result);
                stopped.push(token);
            }
        }
    }
    history::insert_results(tx, &results).await?;
    Ok(stopped)
}

/// A sweep's rule.
struct Judge {
    rule: EarlyStop,
    objective: Objective,
}

impl Judge {
    fn of(sweep: &SweepRow) -> Result<Option<Self>, Error> {
        let Some(rule) = sweep.early_stop()? else { return Ok(None) };
        Ok(Some(Self { rule, objective: sweep.objective()? }))
    }

    /// Whether the trial goes on after these epochs; its standing at each rung among them is noted.
    async fn climb<T: Tx>(
        &self,
        tx: &mut T,
        token: Token,
        row: &ScopeRow,
        epochs: &[u32],
    ) -> Result<bool, Error> {
        let is_rung = |epoch: &u32| is_rung(&self.rule, to_u32(row.bracket), *epoch, to_u32(row.epochs));
        if !epochs.iter().any(is_rung) {
            return Ok(true);
        }
        let sign = if self.objective.goal == Goal::Maximize { 1.0 } else { -1.0 };
        let scores = history::values_by_epoch(tx, token, &self.objective.metric).await?;
        for epoch in epochs.iter().copied().filter(|epoch| is_rung(epoch)) {
            let so_far = scores.iter().filter(|(at, _)| *at <= i64::from(epoch));
            let so_far: Vec<f64> = so_far.map(|(_, value)| sign * value).collect();
            let Some((own, shown)) = standing(self.rule.rule, self.objective.at == At::Best, &so_far) else {
                continue;
            };
            let others = rungs::others(tx, row, epoch, token.trial).await?;
            rungs::insert(tx, row, epoch, token.trial, shown).await?;
            if !goes_on(&self.rule, own, &others) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What a stopped attempt is worth: its last metrics.
    async fn result<T: Tx>(&self, tx: &mut T, token: Token) -> Result<ResultInsert, Error> {
        let mut metrics: BTreeMap<String, f64> = BTreeMap::new();
        let mut scores = Vec::new();
        // In the order of epochs within each name: the last one stays.
        for point in history::points(tx, token).await? {
            let Some(value) = point.value else { continue };
            if point.name == self.objective.metric {
                scores.push(value);
            }
            metrics.insert(point.name, value);
        }
        Ok(ResultInsert {
            token,
            objective: self.objective.score(&metrics, &scores),
            metrics_json: to_json(&metrics),
            artifact: None,
            pruning_json: None,
            digest: String::new(),
            origin: None,
        })
    }
}
