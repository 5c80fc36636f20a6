//! Opening stages, group by group, in the transaction that ends a group's last trial.
//!
//! A group counts the trials it still waits for, those included that earlier stages have yet to open; the counts are
//! exact because whoever changes a trial holds its sweep. A group that has opened, failed or was cancelled never opens
//! again: its row moves under a guard, and no stage has a configuration twice.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ::sweeps::recipe::Prefix;
use ::sweeps::spec::{EarlyStop, Scope};
use ::sweeps::stage::{BLOCK, Candidate, Child, Opening, Parent, Start};
use ::sweeps::{Settings, Value};

use super::changes::{Changes, sweep_event};
use super::prefixes::Leaders;
use crate::offer::Need;
use crate::score::Objective;
use crate::store::error::Error;
use crate::store::rows::{ChoiceRow, EventRow, MemberRow, StageRow, from_json};
use crate::store::sql::needs;
use crate::store::sql::stages::{self, MemberInsert, ToCome};
use crate::store::sql::sweeps::{self, ConfigurationInsert};
use crate::store::sql::trials::{self, TrialInsert};
use crate::store::tx::Tx;

/// Counts trials that have ended (or are to come again), and opens every group that waits for nothing any more.
pub(super) async fn advance<T: Tx>(
    tx: &mut T,
    changes: &mut Changes,
    sweep: i64,
    to_come: &[ToCome],
) -> Result<(), Error> {
    if !to_come.is_empty() {
        stages::count_trials(tx, sweep, to_come).await?;
    }
    if changes.sweep(sweep)?.waiting == 0 {
        return Ok(());
    }
    let mut all = Vec::new();
    while let Some(choice) = stages::due(tx, sweep).await? {
        if all.is_empty() {
            all = load(tx, sweep).await?;
        }
        open(tx, changes, &all, &choice).await?;
    }
    Ok(())
}

/// A stage as stored, decoded.
pub(super) struct Loaded {
    pub(super) row: StageRow,
    pub(super) opening: Option<Opening>,
    pub(super) seeds: Vec<i64>,
}

pub(super) async fn load<T: Tx>(tx: &mut T, sweep: i64) -> Result<Vec<Loaded>, Error> {
    let decode = |row: StageRow| {
        let opening = row.opening_json.as_deref().map(|json| from_json("stage", &row.name, json));
        Ok(Loaded {
            opening: opening.transpose()?,
            seeds: from_json("stage", &row.name, &row.seeds_json)?,
            row,
        })
    };
    stages::stages(tx, sweep).await?.into_iter().map(decode).collect()
}

/// A configuration that was chosen.
pub(super) struct Chosen<'a> {
    row: &'a MemberRow,
    /// All of its trials.
    trials: &'a [MemberRow],
}

/// A configuration that is to be written, and what it was made of.
pub(super) type Made<'c, 'a> = (&'c Chosen<'a>, Child);

async fn open<T: Tx>(
    tx: &mut T,
    changes: &mut Changes,
    all: &[Loaded],
    choice: &ChoiceRow,
) -> Result<(), Error> {
    let stage = all.iter().find(|stage| stage.row.number == choice.stage).ok_or(Error::Conflict("stage"))?;
    let opening = stage.opening.as_ref().ok_or(Error::Conflict("stage"))?;
    let rows = stages::candidates(tx, choice).await?;
    let objective = changes.sweep(choice.sweep)?.objective()?;
    let chosen = choose(opening, &rows, &objective);
    let (made, problem) = make(opening, &chosen)?;
    let hashes: Vec<&str> = made.iter().map(|(_, child)| child.hash.as_str()).collect();
    stages::supersede(tx, choice, &stage.row.name, &hashes).await?;
    let is_again = stages::is_parent(tx, choice).await?;
    let made = new(tx, choice.sweep, &stage.row.name, made).await?;
    let trials = (made.len() * stage.seeds.len()) as i64;
    let rule = changes.sweep(choice.sweep)?.early_stop()?;
    let is_sharing = changes.sweep(choice.sweep)?.share_prefix != 0;
    insert(tx, choice.sweep, all, stage, rule.as_ref(), is_sharing, &made).await?;
    // A group that chooses again may choose what it has opened before.
    let is_failed = made.is_empty() && (chosen.is_empty() || !is_again);
    let state = if is_failed { "failed" } else { "opened" };
    let (kept, kept_trials) = match made.len() as i64 {
        // What it would open is remembered: its trials may be tried again.
        0 => (choice.configurations, choice.trials),
        made => (made, trials),
    };
    stages::move_choice(tx, choice, state, kept, kept_trials).await?;
    tell_next(tx, all, stage, choice, -1, &made).await?;
    let row = changes.sweep(choice.sweep)?;
    row.waiting -= choice.trials;
    row.trials += trials - choice.trials;
    row.queued += trials;
    row.configurations += made.len() as i64 - choice.configurations;
    let of = rows.chunk_by(|a, b| a.number == b.number).count();
    let (kind, mut message) = if is_failed {
        let why = if chosen.is_empty() { "has a score" } else { "makes a new configuration" };
        (
            "group_failed",
            format!("stage {} {}: none of {of} configurations {why}", stage.row.name, choice.key_json),
        )
    } else {
        let numbers: Vec<String> = chosen.iter().map(|chosen| format!("#{}", chosen.row.number)).collect();
        let numbers = numbers.join(", ");
        (
            "stage_opened",
            format!(
                "stage {} {}: {numbers} of {of} configurations chosen, {trials} trials",
                stage.row.name, choice.key_json
            ),
        )
    };
    if let Some(problem) = problem {
        message.push_str(&format!("; {problem}"));
    }
    changes.event(EventRow { message, ..sweep_event(choice.sweep, kind) });
    Ok(())
}

/// The best of a group, best first.
fn choose<'a>(opening: &Opening, rows: &'a [MemberRow], objective: &Objective) -> Vec<Chosen<'a>> {
    let groups: Vec<&[MemberRow]> = rows.chunk_by(|a, b| a.number == b.number).collect();
    let candidates: Vec<Candidate> = groups
        .iter()
        .map(|trials| Candidate {
            number: trials[0].number as u64,
            lr: trials[0].lr,
            scores: trials.iter().map(|trial| trial.objective).collect(),
            is_stopped: trials.iter().any(|trial| trial.state == "stopped"),
        })
        .collect();
    let chosen = opening.choose(&candidates, objective.goal.into());
    chosen.into_iter().map(|index| Chosen { row: &groups[index][0], trials: groups[index] }).collect()
}

/// What the chosen become, each with what it was made of; and the first that cannot be made, which is left out.
fn make<'c, 'a>(
    opening: &Opening,
    chosen: &'c [Chosen<'a>],
) -> Result<(Vec<Made<'c, 'a>>, Option<String>), Error> {
    let mut made = Vec::new();
    let mut problem = None;
    for chosen in chosen {
        let settings: Settings = from_json("configuration", chosen.row.number, &chosen.row.settings_json)?;
        let parent = Parent {
            settings: &settings,
            hash: &chosen.row.hash,
            is_lr_scaled: chosen.row.is_lr_scaled != 0,
        };
        match opening.children(parent) {
            Ok(children) => made.extend(children.into_iter().map(|child| (chosen, child))),
            Err(error) => problem = problem.or(Some(format!("#{} cannot go on: {error}", chosen.row.number))),
        }
    }
    Ok((made, problem))
}

/// Those that the stage does not have yet.
async fn new<'c, 'a, T: Tx>(
    tx: &mut T,
    sweep: i64,
    stage: &str,
    mut made: Vec<Made<'c, 'a>>,
) -> Result<Vec<Made<'c, 'a>>, Error> {
    let hashes: Vec<&str> = made.iter().map(|(_, child)| child.hash.as_str()).collect();
    let mut known: HashSet<String> =
        stages::known_hashes(tx, sweep, stage, &hashes).await?.into_iter().collect();
    made.retain(|(_, child)| known.insert(child.hash.clone()));
    Ok(made)
}

async fn insert<T: Tx>(
    tx: &mut T,
    sweep: i64,
    all: &[Loaded],
    stage: &Loaded,
    rule: Option<&EarlyStop>,
    is_sharing: bool,
    made: &[Made<'_, '_>],
) -> Result<(), Error> {
    let first = stages::last_configuration(tx, sweep).await? + 1;
    let texts: Vec<(String, String)> = made
        .iter()
        .map(|(_, child)| {
            let settings = ::sweeps::value::canonical(&child.settings);
            (settings.expect("the numbers of a sweep file are finite"), child.recipe.to_json())
        })
        .collect();
    let scopes: Vec<Option<Scope>> = (first..)
        .zip(made)
        .map(|(number, (chosen, child))| {
            rule?.scope(&stage.row.name, number as u64, &child.settings, chosen.block(), child.recipe.epochs)
        })
        .collect();
    let prefixes: Vec<Option<Prefix>> = made.iter().map(|(_, child)| child.recipe.prefix()).collect();
    let configurations: Vec<_> = (first..)
        .zip(made.iter().zip(&texts).zip(scopes.iter().zip(&prefixes)))
        .map(|(number, (((chosen, child), (settings_json, recipe_json)), (scope, prefix)))| {
            ConfigurationInsert {
                prefix: prefix.as_ref().map(|prefix| prefix.hash.as_str()),
                rewind: prefix.as_ref().and_then(|prefix| prefix.rewind),
                changed_from: None,
                scope: scope.as_ref().map(|scope| scope.text.as_str()),
                bracket: scope.as_ref().map_or(0, |scope| scope.bracket),
                number,
                stage: &stage.row.name,
                block: &chosen.row.block,
                hash: &child.hash,
                settings_json,
                recipe_json,
                epochs: child.recipe.epochs_in_all(),
                lr: child.recipe.lr,
                is_lr_scaled: i64::from(child.is_lr_scaled),
                parent: Some(chosen.row.number),
            }
        })
        .collect();
    sweeps::insert_configurations(tx, sweep, &configurations).await?;
    let before: BTreeMap<i64, Need> = needs::all(tx).await?.into_iter().collect();
    let need =
        |(chosen, child): &Made<'_, '_>| before.get(&chosen.row.need).map(|need| need.with(&child.recipe));
    let needs: Option<Vec<Need>> = made.iter().map(need).collect();
    let needs = needs.ok_or(Error::Conflict("need"))?;
    let ids = needs::ids(tx, &needs.iter().collect::<BTreeSet<_>>()).await?;
    let start = stage.opening.as_ref().map_or(Start::Fresh, |opening| opening.start);
    let mut rows = Vec::new();
    let mut leaders = Leaders::new(is_sharing);
    for ((config, (chosen, _)), (need, prefix)) in (first..).zip(made).zip(needs.iter().zip(&prefixes)) {
        let need = *ids.get(need).ok_or(Error::Conflict("need"))?;
        let prefix = prefix.as_ref().map(|prefix| prefix.hash.as_str());
        rows.extend(stage.seeds.iter().map(|&seed| {
            let start_from = (start == Start::Artifact).then(|| chosen.start(seed)).flatten();
            let not_before = leaders.not_before(prefix, seed, start_from);
            TrialInsert { config, seed, need, start_from, not_before }
        }));
    }
    trials::insert(tx, sweep, &rows).await?;
    let mut members = Vec::new();
    for next in all.iter().filter(|next| next.row.parent == Some(stage.row.number)) {
        let Some(opening) = &next.opening else { continue };
        for (config, (chosen, child)) in (first..).zip(made) {
            let key = opening.key(&child.settings, chosen.block());
            let choice = stages::find(tx, sweep, next.row.number, &key).await?;
            members.push(MemberInsert { config, stage: next.row.number, choice: choice.number });
        }
    }
    stages::insert_members(tx, sweep, &members).await
}

impl Chosen<'_> {
    fn block(&self) -> Option<&str> {
        Some(self.row.block.as_str()).filter(|block| !block.is_empty())
    }

    /// The trial that a trial with this seed starts from: that of the same seed, or else the one that came first
    /// of those with a result.
    fn start(&self, seed: i64) -> Option<i64> {
        let mut usable = self.trials.iter().filter(|trial| trial.objective.is_some());
        let same = usable.clone().find(|trial| trial.seed == seed);
        same.or_else(|| usable.next()).map(|trial| trial.trial)
    }
}

/// Gives groups that could choose nothing another chance: failed trials of these configurations are tried again. They
/// wait once more, and so do the groups after them that had nothing left to wait for.
pub(super) async fn revive<T: Tx>(
    tx: &mut T,
    changes: &mut Changes,
    sweep: i64,
    configurations: &[i64],
) -> Result<(), Error> {
    let mut failed = stages::failed_of(tx, sweep, configurations).await?;
    if failed.is_empty() {
        return Ok(());
    }
    let all = load(tx, sweep).await?;
    while let Some(choice) = failed.pop() {
        let stage =
            all.iter().find(|stage| stage.row.number == choice.stage).ok_or(Error::Conflict("stage"))?;
        stages::move_choice(tx, &choice, "waiting", choice.configurations, choice.trials).await?;
        let row = changes.sweep(sweep)?;
        row.waiting += choice.trials;
        row.trials += choice.trials;
        row.configurations += choice.configurations;
        let told = tell_next(tx, &all, stage, &choice, 1, &[]).await?;
        for next in told.into_iter().filter(|next| next.state == "failed") {
            if failed.iter().all(|known| (known.stage, known.number) != (next.stage, next.number)) {
                failed.push(next);
            }
        }
    }
    Ok(())
}

/// Tells the groups of later stages that the trials which were planned are to come no more (`sign` −1) or again (1),
/// and which have come in their place. The groups that were told something.
pub(super) async fn tell_next<T: Tx>(
    tx: &mut T,
    all: &[Loaded],
    stage: &Loaded,
    choice: &ChoiceRow,
    sign: i64,
    made: &[Made<'_, '_>],
) -> Result<Vec<ChoiceRow>, Error> {
    let mut told = Vec::new();
    let Some(opening) = &stage.opening else { return Ok(told) };
    let seeds = stage.seeds.len() as i64;
    let planned = choice.configurations / (opening.point_count().max(1) as i64);
    let (settings, block) = known(choice)?;
    for next in all.iter().filter(|next| next.row.parent == Some(stage.row.number)) {
        let Some(next_opening) = &next.opening else { continue };
        let mut change: BTreeMap<String, i64> = BTreeMap::new();
        for point in opening.points() {
            let key = next_opening.key(&opening.settings(&settings, point), block.as_deref());
            *change.entry(key).or_default() += sign * planned * seeds;
        }
        for (chosen, child) in made {
            *change.entry(next_opening.key(&child.settings, chosen.block())).or_default() += seeds;
        }
        for (key, more) in change.into_iter().filter(|(_, more)| *more != 0) {
            let group = stages::find(tx, choice.sweep, next.row.number, &key).await?;
            stages::add_pending(tx, &group, more).await?;
            told.push(group);
        }
    }
    Ok(told)
}

/// What the key of a group tells about its configurations.
fn known(choice: &ChoiceRow) -> Result<(Settings, Option<String>), Error> {
    let mut settings: Settings = from_json("choice", choice.number, &choice.key_json)?;
    let block = match settings.remove(BLOCK) {
        Some(Value::String(block)) => Some(block),
        _ => None,
    };
    Ok((settings, block))
}
