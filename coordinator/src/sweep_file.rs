//! From a sweep file to the rows that are stored. Pure.

use std::collections::{BTreeSet, HashMap};

use sha2::{Digest, Sha256};
use sweeps::recipe::RecipeError;
use sweeps::stage::Opening;
use sweeps::study::{Studies, Study};
use sweeps::{Configuration, Settings, Spec, SpecErrors, Stage};

use crate::offer::{Need, Offer};
use crate::score::{At, Goal, Objective};
use crate::store::ops::{NewConfiguration, NewStudies, NewStudy, NewSweep, NewTrial, hex};
use crate::store::rows::{Checkpoints, SourceRow};
use crate::trial::Policy;

/// What a message about the file calls it: its name is not sent.
const FILE_NAME: &str = "sweep file";

/// Configurations that a file states, from which its samplers learn.
const MAX_GIVEN: usize = 1_000;

/// What is wrong with a submitted file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{0}")]
    Spec(#[from] SpecErrors),
    #[error("configuration {number} ({settings}): {message}, as worker {worker} has it")]
    Unfit { number: u64, settings: String, message: String, worker: String },
}

/// A submitted file.
#[derive(Debug, Clone)]
pub struct File {
    pub text: String,
    pub overrides: Vec<String>,
    /// Empty: derived from the text and the overrides.
    pub given_key: String,
    pub client_version: String,
    pub git_commit: String,
    pub git_dirty: bool,
}

impl File {
    /// What makes a submission the same as another. The sweep's name is in the text or the overrides.
    pub fn key(&self) -> String {
        if self.given_key.is_empty() {
            derived_key(&self.text, &self.overrides)
        } else {
            format!("given:{}", self.given_key)
        }
    }
}

/// Reads and expands a file. `offers` are those of live workers by name: they know what a backbone is, and how many classes a
/// task has.
///
/// # Errors
/// Every mistake in the file, or the first configuration that does not fit its backbone or its task.
pub fn expand(file: File, offers: &[(String, Offer)]) -> Result<(NewSweep, Vec<String>), FileError> {
    let spec = Spec::parse(FILE_NAME, &file.text, &file.overrides)?;
    let groups = Groups::of(&spec.stages);
    let configurations = spec
        .configurations()
        .map(|configuration| {
            check_offered(&configuration, offers)?;
            Ok(new_configuration(&configuration, &spec, &groups))
        })
        .collect::<Result<_, FileError>>()?;
    spec.samples().try_for_each(|sample| check_offered(&sample, offers))?;
    let trials = spec.trials().into_iter();
    let trials =
        trials.map(|trial| NewTrial { configuration: trial.configuration, seed: trial.seed }).collect();
    let key = file.key();
    let overrides_json = serde_json::Value::from(file.overrides).to_string();
    let source = SourceRow {
        file: file.text,
        overrides_json,
        client_version: file.client_version,
        git_commit: file.git_commit,
        git_dirty: i64::from(file.git_dirty),
    };
    let warnings = spec.warnings.clone();
    Ok((new_sweep(spec, key, source, configurations, trials), warnings))
}

fn new_sweep(
    spec: Spec,
    key: String,
    source: SourceRow,
    configurations: Vec<NewConfiguration>,
    trials: Vec<NewTrial>,
) -> NewSweep {
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let is_sharing = spec.is_sharing();
    let studies = spec.studies.as_ref().map(|studies| new_studies(studies, &spec, &configurations));
    let objective = Objective {
        metric: spec.objective.metric,
        goal: match spec.objective.goal {
            sweeps::spec::Goal::Maximize => Goal::Maximize,
            sweeps::spec::Goal::Minimize => Goal::Minimize,
        },
        at: match spec.objective.at {
            sweeps::spec::At::Last => At::Last,
            sweeps::spec::At::Best => At::Best,
        },
    };
    let policy = Policy {
        max_attempts: spec.retry.max_attempts,
        first_ms: millis(spec.retry.backoff.first),
        factor: spec.retry.backoff.factor,
        max_ms: millis(spec.retry.backoff.max),
        never: spec.retry.never,
        poison_after: spec.retry.poison_after,
    };
    NewSweep {
        key,
        name: spec.name,
        project: spec.project.unwrap_or_default(),
        labels: spec.labels,
        priority: spec.priority,
        objective,
        report: spec.report,
        axes: spec.axes,
        policy,
        checkpoints: Checkpoints {
            every_ms: spec.checkpoint.every.map(millis),
            on_drain: spec.checkpoint.on_drain,
        },
        max_running: spec.limits.max_running,
        timeout_ms: spec.limits.trial_timeout.map(millis),
        pause_after_failures: spec.limits.pause_after_failures,
        pause_after_code_errors: spec.limits.pause_after_code_errors,
        source,
        configurations,
        trials,
        stages: spec.stages,
        allow_test_selection: spec.allow_test_selection,
        early_stop: spec.early_stop,
        reuse: spec.reuse,
        share_prefix: is_sharing,
        studies,
    }
}

/// The groups of the first stage's configurations by their keys, for each stage that chooses among them.
struct Groups<'s>(Vec<(usize, &'s Opening, HashMap<&'s str, usize>)>);

impl<'s> Groups<'s> {
    fn of(stages: &'s [Stage]) -> Self {
        let groups = |(number, stage): (usize, &'s Stage)| {
            let from = stage.from.as_ref().filter(|from| from.stage == 0)?;
            let keys = from.groups.iter().enumerate().map(|(place, group)| (group.key.as_str(), place));
            Some((number, &from.opening, keys.collect()))
        };
        Self(stages.iter().enumerate().filter_map(groups).collect())
    }

    fn with(&self, configuration: &Configuration) -> Vec<(usize, usize)> {
        let choice = |(stage, opening, groups): &(usize, &Opening, HashMap<&str, usize>)| {
            let key = opening.key(&configuration.settings, configuration.block.as_deref());
            Some((*stage, *groups.get(key.as_str())?))
        };
        self.0.iter().filter_map(choice).collect()
    }
}

fn new_configuration(configuration: &Configuration, spec: &Spec, groups: &Groups<'_>) -> NewConfiguration {
    let (settings, block) = (&configuration.settings, configuration.block.as_deref());
    let recipe = &configuration.recipe;
    NewConfiguration {
        stage: configuration.stage.to_string(),
        block: configuration.block.as_deref().unwrap_or_default().to_owned(),
        hash: configuration.hash.clone(),
        settings_json: configuration.settings_json(),
        recipe_json: recipe.to_json(),
        epochs: recipe.epochs_in_all(),
        lr: recipe.lr,
        is_lr_scaled: configuration.is_lr_scaled,
        need: Need::of(recipe, &spec.resources),
        scope: spec.early_stop.as_ref().and_then(|rule| {
            rule.scope(&configuration.stage, configuration.number, settings, block, recipe.epochs)
        }),
        choices: groups.with(configuration),
        prefix: recipe.prefix(),
    }
}

fn new_studies(studies: &Studies, spec: &Spec, configurations: &[NewConfiguration]) -> NewStudies {
    let Studies { adaptive, list } = studies;
    let settings = |new: &NewConfiguration| serde_json::from_str(&new.settings_json).unwrap_or_default();
    let given: Vec<Settings> = configurations.iter().take(MAX_GIVEN).map(settings).collect();
    let study = |study: &Study| {
        let examples = adaptive.examples(study);
        let needs: BTreeSet<Need> =
            examples.iter().map(|child| Need::of(&child.recipe, &spec.resources)).collect();
        let point = |(place, settings): (usize, &Settings)| {
            let point = adaptive.find(study, settings)?;
            Some((place, serde_json::to_string(&point).expect("finite numbers")))
        };
        Some(NewStudy {
            key_json: study.key.clone(),
            study_json: serde_json::to_string(study).expect("finite numbers"),
            size: adaptive.trials,
            varies: needs.len() > 1,
            need: needs.into_iter().next()?,
            given: given.iter().enumerate().filter_map(point).collect(),
        })
    };
    NewStudies {
        sampler_json: serde_json::to_string(adaptive).expect("finite numbers"),
        list: list.iter().filter_map(study).collect(),
    }
}

/// Refuses a configuration that does not fit its backbone or its task, whichever live worker it would run on.
fn check_offered(configuration: &Configuration, offers: &[(String, Offer)]) -> Result<(), FileError> {
    let recipe = &configuration.recipe;
    for (worker, offer) in offers {
        let unfit = |error: RecipeError| FileError::Unfit {
            number: configuration.number,
            settings: configuration.settings_json(),
            message: error.to_string(),
            worker: worker.clone(),
        };
        for backbone in offer.backbones.iter().filter(|backbone| backbone.name == recipe.backbone) {
            recipe.check_offered(&backbone.family, backbone.depth, backbone.dim).map_err(unfit)?;
        }
        for task in offer.tasks.iter().filter(|task| task.name == recipe.task) {
            recipe.check_classes(task.classes).map_err(unfit)?;
        }
    }
    Ok(())
}

/// Parts are joined with their lengths, so that no two different submissions read alike.
fn derived_key(text: &str, overrides: &[String]) -> String {
    let mut hash = Sha256::new();
    for part in [text].into_iter().chain(overrides.iter().map(String::as_str)) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    format!("sha256:{}", hex(&hash.finalize()))
}
