//! Adding to a sweep: configurations, seeds, and points of its stages. What there is stays as it is; groups that get new
//! candidates choose again among all, when these have ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ::sweeps::Settings;
use ::sweeps::stage::Start;

use super::changes::{Changes, sweep_event};
use super::control;
use super::prefixes::Leaders;
use super::stages::{self as openings, Loaded};
use super::submit::{NewConfiguration, NewSweep};
use crate::offer::Need;
use crate::store::Op;
use crate::store::error::Error;
use crate::store::rows::{EventRow, SweepRow, SweepState, WholeConfigurationRow, from_json};
use crate::store::sql::stages::{self, ChoiceInsert, MemberInsert, StageInsert, ToCome};
use crate::store::sql::trials::{self, TrialInsert};
use crate::store::sql::{configurations, needs, sweeps};
use crate::store::tx::Tx;
use crate::trial::Millis;

/// Rows in one statement.
const BATCH: usize = 1_000;

/// Adds what a file has more than a sweep.
#[derive(Debug, Clone)]
pub struct Extend {
    pub sweep: String,
    pub file: NewSweep,
}

/// What was added: trials that stages may open included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Added {
    pub configurations: u64,
    pub trials: u64,
}

impl Op for Extend {
    type Output = (SweepRow, Added);

    const IS_SMALL: bool = false;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<(SweepRow, Added), Error> {
        let row = control::lock(tx, &self.sweep).await?;
        if row.state()? == SweepState::Cancelled {
            return Err(Error::SweepOver { id: row.id, state: "cancelled", wanted: "extended" });
        }
        let new = &self.file.source;
        let last = sweeps::source(tx, row.number).await?;
        if last.is_some_and(|last| (&last.file, &last.overrides_json) == (&new.file, &new.overrides_json)) {
            return Ok((row, Added::default()));
        }
        let known = Known {
            stages: openings::load(tx, row.number).await?,
            configurations: configurations::all(tx, row.number).await?,
        };
        let problems = known.differences(&row, &self.file)?;
        if !problems.is_empty() {
            return Err(Error::NoExtension { id: row.id, problems });
        }
        let (number, before) = (row.number, (row.configurations, row.trials));
        let mut changes = Changes::new(vec![row], now)?;
        Extension { sweep: number, file: &self.file, known: &known }.write(tx, &mut changes).await?;
        let row = changes.sweep(number)?;
        let more = |after: i64, before: i64| u64::try_from(after - before).unwrap_or_default();
        let added =
            Added { configurations: more(row.configurations, before.0), trials: more(row.trials, before.1) };
        if row.state()? == SweepState::Ended && row.waiting + row.queued > 0 {
            row.state = SweepState::Active.name().to_owned();
        }
        let message = format!("{} configurations and {} trials more", added.configurations, added.trials);
        changes.event(EventRow { message, ..sweep_event(number, "extended") });
        sweeps::amend(tx, number, self.file.row("")).await?;
        sweeps::insert_source(tx, number, new).await?;
        openings::advance(tx, &mut changes, number, &[]).await?;
        changes.write(tx).await?;
        Ok((control::reload(tx, number).await?, added))
    }
}

/// What there is.
struct Known {
    stages: Vec<Loaded>,
    /// In their order.
    configurations: Vec<WholeConfigurationRow>,
}

impl Known {
    /// The file's own configurations of the first stage: neither made by a stage nor by a change of what had failed.
    fn of_file(&self) -> impl Iterator<Item = &WholeConfigurationRow> {
        self.configurations.iter().filter(|row| row.parent.is_none() && row.changed_from.is_none())
    }

    /// What a file takes away or changes.
    fn differences(&self, row: &SweepRow, file: &NewSweep) -> Result<Vec<String>, Error> {
        let mut problems = Vec::new();
        let new = file.row("");
        for (what, is_same) in [
            ("name", row.name == file.name),
            ("objective", row.objective_json == new.objective_json),
            ("early_stop", row.early_stop_json == new.early_stop_json),
            ("allow_test_selection", row.allow_test_selection == new.allow_test_selection),
        ] {
            if !is_same {
                problems.push(format!("`{what}` differs"));
            }
        }
        let learns =
            self.stages.iter().any(|stage| stage.row.sampler_json.is_some()) || file.studies.is_some();
        if learns {
            problems.push(
                "its sampler learns from results, and such a sweep cannot be extended: submit a new one"
                    .to_owned(),
            );
        }
        self.compare_stages(file, &mut problems);
        if problems.is_empty() {
            self.compare_configurations(file, &mut problems);
        }
        Ok(problems)
    }

    fn compare_stages(&self, file: &NewSweep, problems: &mut Vec<String>) {
        let names = |names: Vec<&str>| names.join(", ");
        let (old, new): (Vec<&str>, Vec<&str>) = (
            self.stages.iter().map(|stage| stage.row.name.as_str()).collect(),
            file.stages.iter().map(|stage| &*stage.name).collect(),
        );
        if old != new {
            problems.push(format!("its stages are {}, and were {}", names(new), names(old)));
            return;
        }
        for (old, new) in self.stages.iter().zip(&file.stages) {
            let gone: Vec<String> =
                old.seeds.iter().filter(|seed| !new.seeds.contains(seed)).map(i64::to_string).collect();
            if !gone.is_empty() {
                problems.push(format!("stage `{}` has no seeds {} any more", new.name, gone.join(", ")));
            }
            let from = new.from.as_ref();
            if old.row.parent != from.map(|from| from.stage as i64) {
                problems.push(format!("stage `{}` takes from another stage", new.name));
            } else if let (Some(old), Some(from)) = (&old.opening, from) {
                let found = from.opening.differences(old, &file.axes).into_iter();
                problems.extend(found.map(|what| format!("stage `{}`: {what}", new.name)));
            }
        }
    }

    fn compare_configurations(&self, file: &NewSweep, problems: &mut Vec<String>) {
        let by_hash: HashMap<&str, &NewConfiguration> =
            file.configurations.iter().map(|new| (new.hash.as_str(), new)).collect();
        let by_settings: HashMap<(&str, &str), &NewConfiguration> = file
            .configurations
            .iter()
            .map(|new| ((new.block.as_str(), new.settings_json.as_str()), new))
            .collect();
        for row in self.of_file() {
            let (number, settings) = (row.number, &row.settings_json);
            match by_hash.get(row.hash.as_str()) {
                Some(new) if new.block == row.block => {}
                Some(new) => {
                    let (old, new) = (&row.block, &new.block);
                    problems.push(format!(
                        "configuration #{number} {settings} was of block `{old}`, and is of `{new}`"
                    ));
                }
                None => problems.push(match by_settings.get(&(row.block.as_str(), settings.as_str())) {
                    Some(new) => {
                        let keys = differing(&row.recipe_json, &new.recipe_json).join("`, `");
                        format!("configuration #{number} {settings} would be run with another `{keys}`")
                    }
                    None => format!("configuration #{number} {settings} is not in the file"),
                }),
            }
        }
    }
}

/// The parameters in which two recipes differ.
fn differing(old: &str, new: &str) -> Vec<String> {
    let read =
        |text: &str| serde_json::from_str::<BTreeMap<String, serde_json::Value>>(text).unwrap_or_default();
    let (old, new) = (read(old), read(new));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    keys.into_iter().filter(|key| old.get(*key) != new.get(*key)).cloned().collect()
}

struct Extension<'a> {
    sweep: i64,
    file: &'a NewSweep,
    known: &'a Known,
}

impl Extension<'_> {
    async fn write<T: Tx>(&self, tx: &mut T, changes: &mut Changes) -> Result<(), Error> {
        let groups = self.add_groups(tx).await?;
        self.add_configurations(tx, changes, &groups).await?;
        self.tell_settings(tx).await?;
        let rows: Vec<StageInsert<'_>> = self.file.stages.iter().enumerate().map(StageInsert::new).collect();
        stages::amend_stages(tx, self.sweep, &rows).await?;
        let now = openings::load(tx, self.sweep).await?;
        for number in 1..self.file.stages.len() {
            self.add_seeds(tx, changes, &now[number], number).await?;
            self.plan_groups(tx, changes, &now, number).await?;
        }
        Ok(())
    }

    /// Groups that the sweep does not have yet, which wait for nothing so far; the numbers of all by stage and key.
    async fn add_groups<T: Tx>(&self, tx: &mut T) -> Result<HashMap<(i64, String), i64>, Error> {
        let mut numbers: HashMap<(i64, String), i64> = HashMap::new();
        for row in stages::choices(tx, self.sweep).await? {
            numbers.insert((row.stage, row.key_json), row.number);
        }
        let mut new = Vec::new();
        for (stage, from) in self.file.choosing() {
            let mut next = numbers.keys().filter(|(of, _)| *of == stage as i64).count();
            for group in &from.groups {
                let key = (stage as i64, group.key.clone());
                if let std::collections::hash_map::Entry::Vacant(entry) = numbers.entry(key) {
                    entry.insert(next as i64);
                    let (configurations, trials) = (0, 0);
                    let key_json = group.key.as_str();
                    new.push(ChoiceInsert {
                        stage,
                        number: next,
                        key_json,
                        pending: 0,
                        configurations,
                        trials,
                    });
                    next += 1;
                }
            }
        }
        for batch in new.chunks(BATCH) {
            stages::insert_choices(tx, self.sweep, batch).await?;
        }
        Ok(numbers)
    }

    /// Configurations and trials of the first stage.
    async fn add_configurations<T: Tx>(
        &self,
        tx: &mut T,
        changes: &mut Changes,
        groups: &HashMap<(i64, String), i64>,
    ) -> Result<(), Error> {
        let known: HashMap<&str, i64> =
            self.known.of_file().map(|row| (row.hash.as_str(), row.number)).collect();
        let mut last = stages::last_configuration(tx, self.sweep).await?;
        let (mut numbers, mut new) = (Vec::new(), Vec::new());
        for configuration in &self.file.configurations {
            let number = known.get(configuration.hash.as_str()).copied().unwrap_or_else(|| {
                last += 1;
                new.push((last, configuration));
                last
            });
            numbers.push(number);
        }
        for batch in new.chunks(BATCH) {
            let rows: Vec<_> = batch.iter().map(|(number, new)| new.row(*number)).collect();
            sweeps::insert_configurations(tx, self.sweep, &rows).await?;
        }
        let mut members = Vec::new();
        for (config, configuration) in &new {
            for &(stage, group) in &configuration.choices {
                let from = self.file.stages[stage].from.as_ref().ok_or(Error::Conflict("stage"))?;
                let key = (stage as i64, from.groups[group].key.clone());
                let choice = *groups.get(&key).ok_or(Error::Conflict("choice"))?;
                members.push(MemberInsert { config: *config, stage: stage as i64, choice });
            }
        }
        for batch in members.chunks(BATCH) {
            stages::insert_members(tx, self.sweep, batch).await?;
        }
        let is_new: BTreeSet<i64> = new.iter().map(|(number, _)| *number).collect();
        let seeds = &self.known.stages[0].seeds;
        let trials =
            self.file.trials.iter().filter(|trial| {
                is_new.contains(&numbers[trial.configuration]) || !seeds.contains(&trial.seed)
            });
        let wanted: BTreeSet<&Need> = self.file.configurations.iter().map(|new| &new.need).collect();
        let needs = needs::ids(tx, &wanted).await?;
        let mut leaders = Leaders::new(self.file.share_prefix);
        let mut rows = Vec::new();
        for trial in trials {
            let configuration = &self.file.configurations[trial.configuration];
            let prefix = configuration.prefix.as_ref().map(|prefix| prefix.hash.as_str());
            rows.push(TrialInsert {
                config: numbers[trial.configuration],
                seed: trial.seed,
                need: *needs.get(&configuration.need).ok_or(Error::Conflict("need"))?,
                start_from: None,
                not_before: leaders.not_before(prefix, trial.seed, None),
            });
        }
        changes.sweep(self.sweep)?.configurations += new.len() as i64;
        self.insert_trials(tx, changes, &rows).await
    }

    /// Trials, counted everywhere.
    async fn insert_trials<T: Tx>(
        &self,
        tx: &mut T,
        changes: &mut Changes,
        rows: &[TrialInsert],
    ) -> Result<(), Error> {
        let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
        for batch in rows.chunks(BATCH) {
            trials::insert(tx, self.sweep, batch).await?;
            batch.iter().for_each(|row| *counts.entry(row.config).or_default() += 1);
        }
        let to_come: Vec<ToCome> =
            counts.into_iter().map(|(config, to_come)| ToCome { config, to_come }).collect();
        if !to_come.is_empty() {
            stages::count_trials(tx, self.sweep, &to_come).await?;
        }
        let row = changes.sweep(self.sweep)?;
        row.trials += rows.len() as i64;
        row.queued += rows.len() as i64;
        Ok(())
    }

    /// What configurations set, in the words of the file by now: what was in `base` before may be an axis.
    async fn tell_settings<T: Tx>(&self, tx: &mut T) -> Result<(), Error> {
        let by_hash: HashMap<&str, &str> = self
            .file
            .configurations
            .iter()
            .map(|new| (new.hash.as_str(), new.settings_json.as_str()))
            .collect();
        let mut told: BTreeMap<i64, String> = BTreeMap::new();
        for row in &self.known.configurations {
            let now = match row.parent {
                None => by_hash.get(row.hash.as_str()).map(|settings| (*settings).to_owned()),
                Some(parent) => match told.get(&parent) {
                    Some(parent) => Some(self.settings_of(row, parent)?),
                    None => None,
                },
            };
            if let Some(now) = now.filter(|now| *now != row.settings_json) {
                configurations::tell_settings(tx, self.sweep, row.number, &now).await?;
                told.insert(row.number, now);
            }
        }
        Ok(())
    }

    /// The settings of a configuration that a stage has made, of a parent with others.
    fn settings_of(&self, row: &WholeConfigurationRow, parent: &str) -> Result<String, Error> {
        let stage = self.file.stages.iter().find(|stage| *stage.name == *row.stage);
        let opening = stage.and_then(|stage| stage.from.as_ref()).map(|from| &from.opening);
        let opening = opening.ok_or(Error::Conflict("stage"))?;
        let own: Settings = from_json("configuration", row.number, &row.settings_json)?;
        let parent: Settings = from_json("configuration", row.number, parent)?;
        let keys: BTreeSet<String> = opening.points().flat_map(Settings::into_keys).collect();
        let point = own.into_iter().filter(|(key, _)| keys.contains(key)).collect();
        let settings = ::sweeps::value::canonical(&opening.settings(&parent, point));
        Ok(settings.expect("the numbers of a sweep file are finite"))
    }

    /// New seeds of the configurations that a stage has opened.
    async fn add_seeds<T: Tx>(
        &self,
        tx: &mut T,
        changes: &mut Changes,
        now: &Loaded,
        number: usize,
    ) -> Result<(), Error> {
        let before = &self.known.stages[number].seeds;
        let seeds: Vec<i64> = now.seeds.iter().copied().filter(|seed| !before.contains(seed)).collect();
        if seeds.is_empty() {
            return Ok(());
        }
        let is_fresh = now.opening.as_ref().is_none_or(|opening| opening.start == Start::Fresh);
        let mut leaders = Leaders::new(self.file.share_prefix);
        let mut rows = Vec::new();
        for opened in configurations::opened(tx, self.sweep, &now.row.name).await? {
            let Some(parent) = opened.parent else { continue };
            for &seed in &seeds {
                let start_from = match is_fresh {
                    true => None,
                    false => configurations::start_of(tx, self.sweep, parent, seed).await?,
                };
                let not_before = leaders.not_before(opened.prefix.as_deref(), seed, start_from);
                rows.push(TrialInsert {
                    config: opened.number,
                    seed,
                    need: opened.need,
                    start_from,
                    not_before,
                });
            }
        }
        self.insert_trials(tx, changes, &rows).await
    }

    /// What the groups of a stage will open by now. Those that had opened wait again if they have new candidates, or if
    /// there is more to be made of the chosen.
    async fn plan_groups<T: Tx>(
        &self,
        tx: &mut T,
        changes: &mut Changes,
        now: &[Loaded],
        number: usize,
    ) -> Result<(), Error> {
        let Some(from) = &self.file.stages[number].from else { return Ok(()) };
        let planned: HashMap<&str, u64> =
            from.groups.iter().map(|group| (group.key.as_str(), group.configurations)).collect();
        let (old, new) = (&self.known.stages[number], &now[number]);
        let makes_more = old.row.opening_json != new.row.opening_json;
        let rows = stages::choices(tx, self.sweep).await?;
        for row in rows.into_iter().filter(|row| row.stage == number as i64) {
            let is_waiting = row.state == "waiting";
            if !is_waiting && row.pending == 0 && !makes_more {
                continue;
            }
            let configurations = planned.get(row.key_json.as_str()).copied().unwrap_or_default() as i64;
            let trials = configurations * new.seeds.len() as i64;
            let (mut before, mut after) = (row.clone(), row.clone());
            if is_waiting {
                openings::tell_next(tx, &self.known.stages, old, &row, -1, &[]).await?;
            } else {
                (before.configurations, before.trials) = (0, 0);
            }
            stages::move_choice(tx, &row, "waiting", configurations, trials).await?;
            (after.configurations, after.trials) = (configurations, trials);
            openings::tell_next(tx, now, new, &after, 1, &[]).await?;
            let sweep = changes.sweep(self.sweep)?;
            sweep.waiting += trials - before.trials;
            sweep.trials += trials - before.trials;
            sweep.configurations += configurations - before.configurations;
        }
        Ok(())
    }
}
