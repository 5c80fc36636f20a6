//! Configurations that are chosen while results come in. [`Propose`] reads a snapshot and works out what is to be tried
//! next, without keeping anybody from writing; [`Suggest`] writes it, if nobody was faster. What is proposed follows from
//! the seed and from what the database holds, so any coordinator can do it, at any time.

use std::collections::{BTreeSet, HashSet};

use ::sweeps::spec::Scope;
use ::sweeps::stage::Child;
use ::sweeps::study::{Adaptive, Algorithm, Point, Study};

use super::changes::{Changes, sweep_event};
use super::claim::served;
use super::stages::{Loaded, advance, load};
use crate::offer::Need;
use crate::score::Goal;
use crate::search::cma_es::{self, Strategy};
use crate::search::sampler::{self, Observation, Outcome, Shape};
use crate::store::Op;
use crate::store::error::Error;
use crate::store::rows::{
    EventRow, StudyRow, SuggestionRow, SweepRow, SweepState, from_json, to_json, to_u32,
};
use crate::store::sql::needs;
use crate::store::sql::stages::{self, MemberInsert};
use crate::store::sql::studies::{self, SuggestionInsert};
use crate::store::sql::sweeps::{self, ConfigurationInsert};
use crate::store::sql::trials::{self, TrialInsert};
use crate::store::sql::workers;
use crate::store::tx::Tx;
use crate::trial::{Millis, WorkerId};

/// Suggestions that are asked for until one is new.
const ATTEMPTS: u32 = 8;
/// A space of no more points is searched for what is left.
const MOST_POINTS: usize = 1 << 16;
/// Hashes in one statement.
const BATCH: usize = 500;

/// Works out what a sweep's studies try next on a worker: about so many trials.
#[derive(Debug, Clone)]
pub struct Propose {
    pub sweep: i64,
    pub worker: WorkerId,
    pub trials: i64,
}

/// What a study is to try next.
#[derive(Debug, Clone)]
pub struct Proposal {
    study: StudyRow,
    drafts: Vec<Draft>,
    strategy_json: Option<String>,
    /// Results that were known.
    known: usize,
    /// There is nothing new left in its space.
    is_exhausted: bool,
}

#[derive(Debug, Clone)]
struct Draft {
    child: Child,
    block: Option<String>,
    point: Point,
    generation: Option<u32>,
}

/// Writes a proposal; whether it did, for another may have been faster.
#[derive(Debug, Clone)]
pub struct Suggest {
    pub proposal: Proposal,
}

impl Op for Propose {
    type Output = Option<Proposal>;

    async fn run<T: Tx>(&self, tx: &mut T, _now: Millis) -> Result<Option<Proposal>, Error> {
        let Some(sweep) = sweeps::peek(tx, &[self.sweep]).await?.pop() else { return Ok(None) };
        let worker = workers::get(tx, &self.worker).await?;
        let needs: Vec<i64> =
            served(&needs::all(tx).await?, &worker.offer()?, &[]).iter().map(|served| served.need).collect();
        let Some(study) = studies::next(tx, self.sweep, &needs, sweep.queued).await? else { return Ok(None) };
        let stages = load(tx, self.sweep).await?;
        let (first, adaptive) = first_of(&stages)?;
        let wanted = (self.trials.max(1) as u64).div_ceil(first.seeds.len().max(1) as u64) as i64;
        let wanted = wanted.min(study.size - study.made);
        let search = Searching::new(tx, &sweep, study, adaptive, &first.row.name).await?;
        Ok(Some(search.propose(tx, wanted).await?))
    }
}

/// The first stage, and how its configurations are chosen.
fn first_of(stages: &[Loaded]) -> Result<(&Loaded, Adaptive), Error> {
    let first = stages.first().ok_or(Error::Conflict("stage"))?;
    let json = first.row.sampler_json.as_deref().ok_or(Error::Conflict("stage"))?;
    Ok((first, from_json("stage", &first.row.name, json)?))
}

/// A study at the moment of a question.
struct Searching<'a> {
    row: StudyRow,
    study: Study,
    adaptive: Adaptive,
    stage: &'a str,
    strategy: Strategy,
    history: Vec<Observation>,
    drafts: Vec<Draft>,
}

impl<'a> Searching<'a> {
    async fn new<T: Tx>(
        tx: &mut T,
        sweep: &SweepRow,
        row: StudyRow,
        adaptive: Adaptive,
        stage: &'a str,
    ) -> Result<Self, Error> {
        let study: Study = from_json("study", row.number, &row.study_json)?;
        let strategy = row.strategy_json.as_deref().map(|json| from_json("study", row.number, json));
        let mut strategy: Strategy = strategy.transpose()?.unwrap_or_default();
        let sign = if sweep.objective()?.goal == Goal::Maximize { -1.0 } else { 1.0 };
        let rows = studies::history(tx, &row, strategy.generation).await?;
        let history: Vec<Observation> =
            rows.iter().map(|seen| observation(seen, sign)).collect::<Result<_, Error>>()?;
        if adaptive.algorithm == Algorithm::CmaEs {
            strategy = cma_es::advance(&strategy, &Shape::of(&adaptive, &study), &history);
        }
        Ok(Self { row, study, adaptive, stage, strategy, history, drafts: Vec::new() })
    }

    async fn propose<T: Tx>(mut self, tx: &mut T, wanted: i64) -> Result<Proposal, Error> {
        let known = self.history.iter().filter(|seen| seen.outcome.rank().is_some()).count();
        let mut is_exhausted = false;
        while (self.drafts.len() as i64) < wanted {
            let Some(draft) = self.next(tx).await? else {
                is_exhausted = true;
                break;
            };
            let (point, generation) = (draft.point.clone(), draft.generation);
            self.history.push(Observation { point, outcome: Outcome::Pending, generation, ended: 0 });
            self.drafts.push(draft);
        }
        let has_strategy = self.adaptive.algorithm == Algorithm::CmaEs;
        Ok(Proposal {
            study: self.row,
            drafts: self.drafts,
            strategy_json: has_strategy.then(|| to_json(&self.strategy)),
            known,
            is_exhausted,
        })
    }

    /// The next configuration that is new.
    async fn next<T: Tx>(&self, tx: &mut T) -> Result<Option<Draft>, Error> {
        let number = to_u32(self.row.made) + self.drafts.len() as u32;
        let Self { adaptive, study, history, strategy, .. } = self;
        for attempt in 0..ATTEMPTS {
            let suggestion = sampler::suggest(adaptive, study, history, strategy, number, attempt);
            let points =
                suggestion.points.into_iter().filter(|point| history.iter().all(|seen| seen.point != *point));
            let points: Vec<Point> = points.collect();
            // The first will do nearly always.
            let (first, others) = points.split_at(points.len().min(1));
            for points in [first, others] {
                if let Some(draft) = self.first_new(tx, points, suggestion.generation).await? {
                    return Ok(Some(draft));
                }
            }
        }
        let rest = sampler::rest(adaptive, study, history, MOST_POINTS).unwrap_or_default();
        for points in rest.chunks(BATCH) {
            if let Some(draft) = self.first_new(tx, points, None).await? {
                return Ok(Some(draft));
            }
        }
        Ok(None)
    }

    /// The first of the points that is a configuration, and one that the stage does not have.
    async fn first_new<T: Tx>(
        &self,
        tx: &mut T,
        points: &[Point],
        generation: Option<u32>,
    ) -> Result<Option<Draft>, Error> {
        let draft = |point: &Point| {
            let child = self.adaptive.child(&self.study, point)?;
            let block = self.study.arms.get(point.arm)?.block.clone();
            Some(Draft { child, block, point: point.clone(), generation })
        };
        let drafts: Vec<Draft> = points.iter().filter_map(draft).collect();
        if drafts.is_empty() {
            return Ok(None);
        }
        let hashes: Vec<&str> = drafts.iter().map(|draft| draft.child.hash.as_str()).collect();
        let known: HashSet<String> =
            stages::known_hashes(tx, self.row.sweep, self.stage, &hashes).await?.into_iter().collect();
        let is_new = |draft: &Draft| {
            let hash = &draft.child.hash;
            !known.contains(hash) && self.drafts.iter().all(|other| other.child.hash != *hash)
        };
        Ok(drafts.into_iter().find(is_new))
    }
}

fn observation(row: &SuggestionRow, sign: f64) -> Result<Observation, Error> {
    let outcome = match row.mean {
        _ if row.open > 0 => Outcome::Pending,
        Some(mean) if row.scored == row.trials && row.stopped == 0 => Outcome::Scored(sign * mean),
        Some(mean) => Outcome::Partial(sign * mean),
        None if row.bad + row.stopped > 0 => Outcome::Bad,
        None => Outcome::Void,
    };
    Ok(Observation {
        point: from_json("suggestion", "", &row.point_json)?,
        outcome,
        generation: row.generation.map(to_u32),
        ended: row.ended.filter(|_| row.open == 0).unwrap_or(0),
    })
}

impl Op for Suggest {
    type Output = bool;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<bool, Error> {
        let Proposal { study, drafts, strategy_json, .. } = &self.proposal;
        let Some(sweep) = sweeps::lock(tx, &[study.sweep]).await?.pop() else { return Ok(false) };
        let current = studies::get(tx, study.sweep, study.number).await?;
        let stages = load(tx, study.sweep).await?;
        let (first, adaptive) = first_of(&stages)?;
        let hashes: Vec<&str> = drafts.iter().map(|draft| draft.child.hash.as_str()).collect();
        let known = stages::known_hashes(tx, study.sweep, &first.row.name, &hashes).await?;
        if sweep.state()? != SweepState::Active || current != *study || !known.is_empty() {
            return Ok(false);
        }
        let rule = sweep.early_stop()?;
        let mut changes = Changes::new(vec![sweep], now)?;
        let from = stages::last_configuration(tx, study.sweep).await? + 1;
        let scope = |(number, draft): (i64, &Draft)| {
            let Child { settings, recipe, .. } = &draft.child;
            let (name, block) = (&first.row.name, draft.block.as_deref());
            rule.as_ref()?.scope(name, number as u64, settings, block, recipe.epochs)
        };
        let scopes: Vec<Option<Scope>> = (from..).zip(drafts).map(scope).collect();
        insert_configurations(tx, study.sweep, first, from, drafts, &scopes).await?;
        insert_trials(tx, study, first, from, drafts).await?;
        insert_members(tx, study.sweep, &stages, from, drafts).await?;
        let suggestion = |(place, draft): (i64, &Draft)| SuggestionInsert {
            study: study.number,
            config: from + place,
            number: Some(study.made + place),
            point_json: to_json(&draft.point),
            generation: draft.generation,
        };
        let suggestions: Vec<_> = (0..).zip(drafts).map(suggestion).collect();
        studies::insert_suggestions(tx, study.sweep, &suggestions).await?;
        let made = study.made + drafts.len() as i64;
        let size = if self.proposal.is_exhausted { made } else { study.size };
        studies::advance(tx, study, made, size, strategy_json.as_deref()).await?;
        let (seeds, given_up) = (study.seeds, study.size - size);
        let row = changes.sweep(study.sweep)?;
        row.waiting -= (drafts.len() as i64 + given_up) * seeds;
        row.queued += drafts.len() as i64 * seeds;
        row.trials -= given_up * seeds;
        row.configurations -= given_up;
        changes.event(EventRow {
            message: self.message(&adaptive, from, made),
            ..sweep_event(study.sweep, "suggested")
        });
        if given_up > 0 {
            give_up(tx, &stages, &adaptive, study, given_up * seeds).await?;
            advance(tx, &mut changes, study.sweep, &[]).await?;
        }
        changes.write(tx).await?;
        Ok(true)
    }

    fn wakes(has_made: &bool) -> bool {
        *has_made
    }
}

impl Suggest {
    fn message(&self, adaptive: &Adaptive, from: i64, made: i64) -> String {
        let Proposal { study, drafts, known, is_exhausted, .. } = &self.proposal;
        let key = if adaptive.per.is_empty() { String::new() } else { format!(" {}", study.key_json) };
        let name = adaptive.algorithm.name();
        let mut message = match drafts.len() {
            0 => format!("{name}{key}:"),
            count => {
                let to = from + count as i64 - 1;
                let numbers = if count == 1 { format!("#{from}") } else { format!("#{from} to #{to}") };
                format!("{name}{key}: {numbers} after {known} results, {made} of {}", study.size)
            }
        };
        if *is_exhausted {
            message.push_str(&format!(" there is nothing new after {made} of {} configurations", study.size));
        }
        message
    }
}

async fn insert_configurations<T: Tx>(
    tx: &mut T,
    sweep: i64,
    stage: &Loaded,
    from: i64,
    drafts: &[Draft],
    scopes: &[Option<Scope>],
) -> Result<(), Error> {
    let texts: Vec<(String, String)> = drafts
        .iter()
        .map(|draft| {
            let settings = ::sweeps::value::canonical(&draft.child.settings);
            (settings.expect("the numbers of a sweep file are finite"), draft.child.recipe.to_json())
        })
        .collect();
    let rows: Vec<_> = (from..)
        .zip(drafts.iter().zip(&texts).zip(scopes))
        .map(|(number, ((draft, (settings_json, recipe_json)), scope))| ConfigurationInsert {
            number,
            stage: &stage.row.name,
            block: draft.block.as_deref().unwrap_or_default(),
            hash: &draft.child.hash,
            settings_json,
            recipe_json,
            epochs: draft.child.recipe.epochs_in_all(),
            lr: draft.child.recipe.lr,
            is_lr_scaled: i64::from(draft.child.is_lr_scaled),
            parent: None,
            scope: scope.as_ref().map(|scope| scope.text.as_str()),
            bracket: scope.as_ref().map_or(0, |scope| scope.bracket),
            // What trials have in common is not known when the first of them is made.
            prefix: None,
            rewind: None,
            changed_from: None,
        })
        .collect();
    sweeps::insert_configurations(tx, sweep, &rows).await
}

async fn insert_trials<T: Tx>(
    tx: &mut T,
    study: &StudyRow,
    stage: &Loaded,
    from: i64,
    drafts: &[Draft],
) -> Result<(), Error> {
    let all = needs::all(tx).await?;
    let (_, like) = all.iter().find(|(id, _)| *id == study.need).ok_or(Error::Conflict("need"))?;
    let wanted: Vec<Need> = drafts.iter().map(|draft| like.with(&draft.child.recipe)).collect();
    let ids = needs::ids(tx, &wanted.iter().collect::<BTreeSet<_>>()).await?;
    let mut rows = Vec::new();
    for (config, need) in (from..).zip(&wanted) {
        let need = *ids.get(need).ok_or(Error::Conflict("need"))?;
        let trial = |seed: &i64| TrialInsert { config, seed: *seed, need, start_from: None, not_before: 0 };
        rows.extend(stage.seeds.iter().map(trial));
    }
    trials::insert(tx, study.sweep, &rows).await
}

async fn insert_members<T: Tx>(
    tx: &mut T,
    sweep: i64,
    stages: &[Loaded],
    from: i64,
    drafts: &[Draft],
) -> Result<(), Error> {
    let mut members = Vec::new();
    for next in stages.iter().filter(|next| next.row.parent == Some(0)) {
        let Some(opening) = &next.opening else { continue };
        for (config, draft) in (from..).zip(drafts) {
            let key = opening.key(&draft.child.settings, draft.block.as_deref());
            let choice = stages::find(tx, sweep, next.row.number, &key).await?;
            members.push(MemberInsert { config, stage: next.row.number, choice: choice.number });
        }
    }
    stages::insert_members(tx, sweep, &members).await
}

/// Tells the groups of later stages that so many trials are not to come.
async fn give_up<T: Tx>(
    tx: &mut T,
    stages: &[Loaded],
    adaptive: &Adaptive,
    study: &StudyRow,
    count: i64,
) -> Result<(), Error> {
    let space: Study = from_json("study", study.number, &study.study_json)?;
    for next in stages.iter().filter(|next| next.row.parent == Some(0)) {
        let Some(opening) = &next.opening else { continue };
        let choice = stages::find(tx, study.sweep, next.row.number, &adaptive.group(&space, opening)).await?;
        stages::add_pending(tx, &choice, -count).await?;
    }
    Ok(())
}
