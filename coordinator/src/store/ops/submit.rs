//! A new sweep, with all of its trials.

use std::collections::{BTreeMap, BTreeSet};

use super::changes::{Changes, sweep_event};
use super::random_word;
use crate::offer::Need;
use crate::score::Objective;
use crate::store::Op;
use crate::store::error::Error;
use crate::store::rows::{Checkpoints, EventRow, SourceRow, SweepRow, to_json};
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
    pub need: Need,
}

/// A configuration (by its place in the list) and a seed.
#[derive(Debug, Clone, Copy)]
pub struct NewTrial {
    pub configuration: usize,
    pub seed: i64,
}

/// Queues a sweep.
#[derive(Debug)]
pub struct Submit {
    pub sweep: NewSweep,
}

impl Op for Submit {
    /// The sweep, and whether it is new.
    type Output = (SweepRow, bool);

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<(SweepRow, bool), Error> {
        let new = &self.sweep;
        if let Some(row) = sweeps::by_key(tx, &new.key).await? {
            return Ok((row, false));
        }
        let id = random_word(8);
        let row = sweeps::insert(tx, new.row(&id), now).await?;
        sweeps::insert_source(tx, row.number, &new.source).await?;
        self.insert_trials(tx, row.number).await?;
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
        trials::insert_needs(tx, &wanted).await?;
        let needs = trials::needs(tx).await?;
        let needs: BTreeMap<Need, i64> =
            needs.iter().map(|row| Ok((row.need()?, row.id))).collect::<Result<_, Error>>()?;
        for batch in new.trials.chunks(BATCH) {
            let rows = batch.iter().map(|trial| {
                let need = new.configurations.get(trial.configuration).and_then(|new| needs.get(&new.need));
                let config = trial.configuration as i64 + 1;
                need.map(|need| TrialInsert { config, seed: trial.seed, need: *need })
            });
            let rows: Option<Vec<_>> = rows.collect();
            trials::insert(tx, sweep, &rows.ok_or(Error::Conflict("need"))?).await?;
        }
        Ok(())
    }
}

impl NewSweep {
    fn row<'a>(&'a self, id: &'a str) -> SweepInsert<'a> {
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
            configurations: self.configurations.len() as i64,
            trials: self.trials.len() as i64,
        }
    }
}

impl NewConfiguration {
    fn row(&self, number: i64) -> ConfigurationInsert<'_> {
        ConfigurationInsert {
            number,
            stage: &self.stage,
            block: &self.block,
            hash: &self.hash,
            settings_json: &self.settings_json,
            recipe_json: &self.recipe_json,
            epochs: self.epochs,
        }
    }
}
