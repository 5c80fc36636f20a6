//! A new sweep, with all of its trials.

use std::collections::{BTreeMap, BTreeSet};

use ::sweeps::Stage;
use ::sweeps::recipe::Prefix;
use ::sweeps::spec::{EarlyStop, Reuse, Scope};
use ::sweeps::stage::FromStage;

use super::changes::{Changes, sweep_event};
use super::prefixes::Leaders;
use super::random_word;
use crate::offer::Need;
use crate::score::Objective;
use crate::store::Op;
use crate::store::error::Error;
use crate::store::rows::{Checkpoints, EventRow, SourceRow, SweepRow, to_json};
use crate::store::sql::needs;
use crate::store::sql::stages::{self, ChoiceInsert, MemberInsert, StageInsert};
use crate::store::sql::studies::{self, StudyInsert, SuggestionInsert};
use crate::store::sql::sweeps::{self, ConfigurationInsert, SweepInsert};
use crate::store::sql::trials::{self, TrialInsert};
use crate::store::tx::Tx;
use crate::trial::{Millis, Policy};

/// Rows in one statement.
const BATCH: usize = 1_000;

/// A sweep as it is submitted: valid, and expanded into its trials.
#[derive(Debug, Clone)]
pub struct NewSweep {
    /// Submitting the same key again gives the sweep that exists.
    pub key: String,
    pub name: String,
    pub project: String,
    pub labels: BTreeMap<String, String>,
    pub priority: i32,
    pub objective: Objective,
    pub report: Vec<String>,
    pub axes: Vec<String>,
    pub policy: Policy,
    pub checkpoints: Checkpoints,
    pub max_running: Option<u32>,
    pub timeout_ms: Option<u64>,
    pub pause_after_failures: Option<u32>,
    pub pause_after_code_errors: Option<u32>,
    pub source: SourceRow,
    /// In the order of the file.
    pub configurations: Vec<NewConfiguration>,
    /// In the order in which they are to run.
    pub trials: Vec<NewTrial>,
    /// The first runs the configurations above; of none there is no choosing.
    pub stages: Vec<Stage>,
    pub allow_test_selection: bool,
    pub early_stop: Option<EarlyStop>,
    pub reuse: Reuse,
    /// Whether trials that prune share the training before it.
    pub share_prefix: bool,
    /// What makes configurations of the first stage while results come in.
    pub studies: Option<NewStudies>,
}

/// Studies, and what they have in common.
#[derive(Debug, Clone)]
pub struct NewStudies {
    pub sampler_json: String,
    pub list: Vec<NewStudy>,
}

/// A space with a sampler of its own.
#[derive(Debug, Clone)]
pub struct NewStudy {
    pub key_json: String,
    pub study_json: String,
    /// Configurations that it makes.
    pub size: u32,
    /// Of one of its configurations, and whether others may need something else.
    pub need: Need,
    pub varies: bool,
    /// Configurations of the sweep (by their places in the list) that lie in its space, and where.
    pub given: Vec<(usize, String)>,
}

/// One setting of the axes.
#[derive(Debug, Clone)]
pub struct NewConfiguration {
    pub stage: String,
    pub block: String,
    pub hash: String,
    pub settings_json: String,
    pub recipe_json: String,
    pub epochs: u32,
    pub lr: f64,
    pub is_lr_scaled: bool,
    pub need: Need,
    /// The groups that it belongs to: indices of stages, and of their groups.
    pub choices: Vec<(usize, usize)>,
    /// With what early stopping compares it.
    pub scope: Option<Scope>,
    /// What it trains before it prunes, if it does.
    pub prefix: Option<Prefix>,
}

/// A configuration (by its place in the list) and a seed.
#[derive(Debug, Clone, Copy)]
pub struct NewTrial {
    pub configuration: usize,
    pub seed: i64,
}

/// Queues a sweep.
#[derive(Debug, Clone)]
pub struct Submit {
    pub sweep: NewSweep,
}

impl Op for Submit {
    /// The sweep, and whether it is new.
    type Output = (SweepRow, bool);

    const IS_SMALL: bool = false;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<(SweepRow, bool), Error> {
        let new = &self.sweep;
        if let Some(row) = sweeps::by_key(tx, &new.key).await? {
            return Ok((row, false));
        }
        let id = random_word(8);
        let row = sweeps::insert(tx, new.row(&id), now).await?;
        sweeps::insert_source(tx, row.number, &new.source).await?;
        self.insert_trials(tx, row.number).await?;
        self.insert_stages(tx, row.number).await?;
        self.insert_studies(tx, row.number).await?;
        let message = format!("{} configurations, {} trials", row.configurations, row.trials);
        let number = row.number;
        let mut changes = Changes::new(vec![row], now)?;
        changes.event(EventRow { message, ..sweep_event(number, "submitted") });
        changes.write(tx).await?;
        let row = sweeps::by_key(tx, &new.key).await?.ok_or(Error::Conflict("sweep"))?;
        Ok((row, true))
    }
}

impl Submit {
    async fn insert_trials<T: Tx>(&self, tx: &mut T, sweep: i64) -> Result<(), Error> {
        let new = &self.sweep;
        let numbered: Vec<_> = (1..).zip(&new.configurations).collect();
        for batch in numbered.chunks(BATCH) {
            let rows: Vec<_> = batch.iter().map(|(number, new)| new.row(*number)).collect();
            sweeps::insert_configurations(tx, sweep, &rows).await?;
        }
        let wanted: BTreeSet<&Need> = new.configurations.iter().map(|new| &new.need).collect();
        let needs = needs::ids(tx, &wanted).await?;
        let mut leaders = Leaders::new(new.share_prefix);
        for batch in new.trials.chunks(BATCH) {
            let rows = batch.iter().map(|trial| {
                let configuration = new.configurations.get(trial.configuration)?;
                let prefix = configuration.prefix.as_ref().map(|prefix| prefix.hash.as_str());
                Some(TrialInsert {
                    config: trial.configuration as i64 + 1,
                    seed: trial.seed,
                    need: *needs.get(&configuration.need)?,
                    start_from: None,
                    not_before: leaders.not_before(prefix, trial.seed, None),
                })
            });
            let rows: Option<Vec<_>> = rows.collect();
            trials::insert(tx, sweep, &rows.ok_or(Error::Conflict("need"))?).await?;
        }
        Ok(())
    }

    /// The stages, their groups, and which of the first stage's configurations belong to which.
    async fn insert_stages<T: Tx>(&self, tx: &mut T, sweep: i64) -> Result<(), Error> {
        let new = &self.sweep;
        let mut rows: Vec<_> = new.stages.iter().enumerate().map(StageInsert::new).collect();
        if let (Some(first), Some(studies)) = (rows.first_mut(), &new.studies) {
            first.sampler_json = Some(studies.sampler_json.clone());
        }
        stages::insert_stages(tx, sweep, &rows).await?;
        let mut choices = Vec::new();
        for (stage, from) in new.choosing() {
            let seeds_before = new.stages[from.stage].seeds.len() as u64;
            let seeds = new.stages[stage].seeds.len() as u64;
            choices.extend(from.groups.iter().enumerate().map(|(number, group)| ChoiceInsert {
                stage,
                number,
                key_json: &group.key,
                pending: group.candidates * seeds_before,
                configurations: group.configurations,
                trials: group.configurations * seeds,
            }));
        }
        for batch in choices.chunks(BATCH) {
            stages::insert_choices(tx, sweep, batch).await?;
        }
        let members: Vec<_> = (1..)
            .zip(&new.configurations)
            .flat_map(|(config, new)| {
                new.choices.iter().map(move |&(stage, choice)| MemberInsert {
                    config,
                    stage: stage as i64,
                    choice: choice as i64,
                })
            })
            .collect();
        for batch in members.chunks(BATCH) {
            stages::insert_members(tx, sweep, batch).await?;
        }
        Ok(())
    }
}

impl Submit {
    /// The studies, and what is known in them from the start.
    async fn insert_studies<T: Tx>(&self, tx: &mut T, sweep: i64) -> Result<(), Error> {
        let Some(studies) = &self.sweep.studies else { return Ok(()) };
        let wanted: BTreeSet<&Need> = studies.list.iter().map(|study| &study.need).collect();
        let needs = needs::ids(tx, &wanted).await?;
        let row = |(number, study): (usize, &'_ NewStudy)| {
            let need = *needs.get(&study.need).ok_or(Error::Conflict("need"))?;
            Ok((number, need, i64::from(study.varies)))
        };
        let rows: Vec<_> = studies.list.iter().enumerate().map(row).collect::<Result<_, Error>>()?;
        let seeds = self.sweep.stages.first().map_or(0, |stage| stage.seeds.len());
        let rows: Vec<StudyInsert<'_>> = rows
            .into_iter()
            .zip(&studies.list)
            .map(|((number, need, varies), study)| StudyInsert {
                number,
                key_json: &study.key_json,
                study_json: &study.study_json,
                size: study.size,
                seeds,
                need,
                varies,
            })
            .collect();
        for batch in rows.chunks(BATCH) {
            studies::insert(tx, sweep, batch).await?;
        }
        let given = (0..).zip(&studies.list).flat_map(|(number, study)| {
            study.given.iter().map(move |(place, point_json)| SuggestionInsert {
                study: number,
                config: *place as i64 + 1,
                number: None,
                point_json: point_json.clone(),
                generation: None,
            })
        });
        let given: Vec<_> = given.collect();
        for batch in given.chunks(BATCH) {
            studies::insert_suggestions(tx, sweep, batch).await?;
        }
        Ok(())
    }
}

impl NewSweep {
    pub(super) fn row<'a>(&'a self, id: &'a str) -> SweepInsert<'a> {
        let to_suggest: i64 =
            self.studies.iter().flat_map(|studies| &studies.list).map(|study| i64::from(study.size)).sum();
        let seeds = self.stages.first().map_or(0, |stage| stage.seeds.len() as i64);
        let waiting = self.to_open(|stage| stage.seeds.len()) + to_suggest * seeds;
        SweepInsert {
            id,
            key: &self.key,
            name: &self.name,
            project: &self.project,
            labels_json: to_json(&self.labels),
            priority: i64::from(self.priority),
            objective_json: to_json(&self.objective),
            report_json: to_json(&self.report),
            axes_json: to_json(&self.axes),
            retry_json: to_json(&self.policy),
            checkpoint_json: to_json(&self.checkpoints),
            max_running: self.max_running.map(i64::from),
            timeout_ms: self.timeout_ms.map(|timeout| i64::try_from(timeout).unwrap_or(i64::MAX)),
            pause_after_failures: self.pause_after_failures.map(i64::from),
            pause_after_code_errors: self.pause_after_code_errors.map(i64::from),
            allow_test_selection: i64::from(self.allow_test_selection),
            configurations: self.configurations.len() as i64 + self.to_open(|_| 1) + to_suggest,
            trials: self.trials.len() as i64 + waiting,
            waiting,
            early_stop_json: self.early_stop.as_ref().map(to_json),
            reuse: self.reuse.name(),
            share_prefix: i64::from(self.share_prefix),
        }
    }

    /// The stages that choose.
    pub(super) fn choosing(&self) -> impl Iterator<Item = (usize, &FromStage)> {
        self.stages.iter().enumerate().filter_map(|(number, stage)| Some((number, stage.from.as_ref()?)))
    }

    /// What stages will open when all goes well: configurations, each times a number of its stage.
    fn to_open(&self, times: impl Fn(&Stage) -> usize) -> i64 {
        let configurations =
            |from: &FromStage| from.groups.iter().map(|group| group.configurations).sum::<u64>();
        let count =
            |(stage, from): (usize, &FromStage)| configurations(from) * times(&self.stages[stage]) as u64;
        self.choosing().map(count).sum::<u64>() as i64
    }
}

impl NewConfiguration {
    pub(super) fn row(&self, number: i64) -> ConfigurationInsert<'_> {
        ConfigurationInsert {
            number,
            stage: &self.stage,
            block: &self.block,
            hash: &self.hash,
            settings_json: &self.settings_json,
            recipe_json: &self.recipe_json,
            epochs: self.epochs,
            lr: self.lr,
            is_lr_scaled: i64::from(self.is_lr_scaled),
            parent: None,
            scope: self.scope.as_ref().map(|scope| scope.text.as_str()),
            bracket: self.scope.as_ref().map_or(0, |scope| scope.bracket),
            prefix: self.prefix.as_ref().map(|prefix| prefix.hash.as_str()),
            rewind: self.prefix.as_ref().and_then(|prefix| prefix.rewind),
            changed_from: None,
        }
    }
}
