//! The space of a sweep: its configurations in the order of the file, its trials in the order to run them.
//!
//! A space keeps its configurations as points (a block and an index) and makes settings and recipes when they are
//! asked for: a million trials cost megabytes, not gigabytes.

mod dims;
mod expand;
mod opened;

use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;
use serde::{Serialize, Serializer};

pub(crate) use self::dims::{Block, Choices, Dim, Layer, Place, Points, Range};
pub(crate) use self::expand::expand;
pub use self::opened::Opened;
use crate::recipe::{Recipe, RecipeError, hex};
use crate::spec::{Order, Spec};
use crate::stage::{self, BLOCK};
use crate::study::Studies;
use crate::value::{self, Settings, Value};

/// One setting of the axes: a trial without its seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// Place in the order of the file, from 1.
    pub number: u64,
    pub stage: Arc<str>,
    /// `None` for configurations of the plain axes and of `include`.
    pub block: Option<Arc<str>>,
    /// What axes, block and `include` set, as written: `scaled_by` is not applied here.
    pub settings: Settings,
    pub recipe: Recipe,
    /// [`Recipe::config_hash`].
    pub hash: String,
    /// Whether the recipe's learning rate is the written one × batch_size / 256.
    pub is_lr_scaled: bool,
}

/// A trial: a configuration and a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrialRef {
    /// Index in the order of the file, from 0: the configuration's number less 1.
    pub configuration: usize,
    pub seed: i64,
}

/// What a sweep will run, counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub stages: Vec<StagePlan>,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StagePlan {
    pub name: String,
    pub configurations: u64,
    pub trials: u64,
    /// Configurations of each block, in the order of the file; those of plain axes and of `include` are in none.
    #[serde(serialize_with = "as_map")]
    pub blocks: Vec<(String, u64)>,
    /// Of a stage that chooses: the stage whose best it takes, and how many groups open one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<u64>,
    /// Of a stage whose configurations a sampler chooses while results come in: how many samplers there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub studies: Option<u64>,
    /// Of all trials. What a stage that chooses will run is counted as if the first configuration were chosen everywhere.
    pub epochs: u64,
    /// Of these, what is not trained because trials that prune share the training before it.
    #[serde(skip_serializing_if = "is_none")]
    pub shared_epochs: u64,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

fn as_map<S: Serializer>(blocks: &[(String, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(blocks.iter().map(|(name, count)| (name, count)))
}

/// Everything that spans the configurations, and, once expanded, which of them there are.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    pub(crate) base: Layer,
    /// `split` and `set` of the first stage.
    pub(crate) set: Layer,
    pub(crate) blocks: Vec<Block>,
    pub(crate) exclude: Vec<Layer>,
    pub(crate) include: Vec<Layer>,
    /// What tells studies apart, if the sampler chooses while results come in.
    pub(crate) per: Option<Vec<String>>,
    pub(crate) studies: Option<Studies>,
    /// The configurations in the order of the file: all resolve, and no two are the same. Those of studies are not among
    /// them.
    pub(crate) points: Vec<Point>,
    /// Some of those that studies may choose, for all checks that need examples.
    pub(crate) samples: Vec<Point>,
    pub(crate) facts: Facts,
}

/// What the configurations of a stage do with test images, and what they label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Some are scored on them each epoch.
    pub(crate) evals_on_test: bool,
    /// Some do not touch them.
    pub(crate) lacks_test: bool,
    /// Some prune in the middle.
    pub(crate) prunes: bool,
    /// Of all of them together.
    pub(crate) epochs: u64,
    /// Some label images.
    pub(crate) labels_images: bool,
    /// Some label pixels.
    pub(crate) labels_pixels: bool,
}

/// Whether a label file holds test images, by its name.
pub(crate) fn is_test_split(name: &str) -> bool {
    name.split(['_', '-', '.']).any(|part| part == "test")
}

#[derive(Debug, Clone)]
pub(crate) enum Point {
    Grid { block: u32, index: u64 },
    Drawn { block: u32, settings: Box<Settings> },
    Include { entry: u32 },
}

impl Configuration {
    /// [`Configuration::settings`] as canonical JSON.
    #[must_use]
    pub fn settings_json(&self) -> String {
        value::canonical(&self.settings).expect("the numbers of a sweep file are finite")
    }
}

impl Spec {
    /// The number of configurations of the first stage, those included that a sampler has yet to choose.
    #[must_use]
    pub fn configuration_count(&self) -> usize {
        let of_studies = |studies: &Studies| studies.list.len() * studies.adaptive.trials as usize;
        self.space.points.len() + self.studies.as_ref().map_or(0, of_studies)
    }

    /// The configurations of the first stage that are known from the start, in the order of the file, made one by one.
    pub fn configurations(&self) -> impl ExactSizeIterator<Item = Configuration> + '_ {
        let name = &self.stages[0].name;
        (0..self.space.points.len()).map(move |index| self.space.configuration(index, name))
    }

    /// Examples of the configurations that a sampler may choose while results come in.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = Configuration> + '_ {
        let name = &self.stages[0].name;
        let first = self.space.points.len();
        (first..first + self.space.samples.len()).map(move |index| self.space.configuration(index, name))
    }

    /// The number of trials of the first stage: configurations × seeds.
    #[must_use]
    pub fn trial_count(&self) -> usize {
        self.configuration_count() * self.seeds.len()
    }

    /// The trials of the first stage that are known from the start, in the order to run them. The same file gives the same order.
    #[must_use]
    pub fn trials(&self) -> Vec<TrialRef> {
        let seeds =
            |configuration| self.seeds.iter().map(move |seed| TrialRef { configuration, seed: *seed });
        let mut trials: Vec<TrialRef> = (0..self.space.points.len()).flat_map(seeds).collect();
        match self.search.order {
            Order::AsWritten => {}
            Order::Shuffled => trials.shuffle(&mut ChaCha12Rng::seed_from_u64(self.search.seed)),
        }
        trials
    }

    /// Counts without running anything. A stage that chooses counts what it opens when every trial ends well.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let stages = (0..self.stages.len()).map(|stage| self.plan_stage(stage)).collect();
        Plan { stages, warnings: self.warnings.clone() }
    }

    fn plan_stage(&self, index: usize) -> StagePlan {
        let stage = &self.stages[index];
        let mut counts = vec![0; self.space.blocks.len()];
        let mut count_key = |key: &str, configurations: u64| {
            let key: Settings = serde_json::from_str(key).unwrap_or_default();
            let Some(Value::String(name)) = key.get(BLOCK) else { return };
            let block = self.space.blocks.iter().position(|block| block.name.as_deref() == Some(name));
            if let Some(block) = block {
                counts[block] += configurations;
            }
        };
        let knows_blocks = match (&stage.from, &self.studies) {
            (Some(from), _) => {
                from.groups.iter().for_each(|group| count_key(&group.key, group.configurations));
                from.opening.per.iter().any(|key| key == BLOCK)
            }
            (None, Some(Studies { adaptive, list })) => {
                list.iter().for_each(|study| count_key(&study.key, adaptive.trials.into()));
                adaptive.per.iter().any(|key| key == BLOCK)
            }
            (None, None) => {
                for point in &self.space.points {
                    if let Point::Grid { block, .. } | Point::Drawn { block, .. } = point {
                        counts[*block as usize] += 1;
                    }
                }
                true
            }
        };
        let blocks = self.space.blocks.iter().zip(counts).filter(|_| knows_blocks);
        let configurations = stage.configurations(self.configuration_count() as u64);
        let epochs = self.epochs(index);
        StagePlan {
            name: stage.name.to_string(),
            configurations,
            trials: configurations * stage.seeds.len() as u64,
            blocks: blocks.filter_map(|(block, n)| Some((block.name.as_deref()?.to_owned(), n))).collect(),
            from: stage.from.as_ref().map(|from| self.stages[from.stage].name.to_string()),
            groups: stage.from.as_ref().map(|from| from.groups.len() as u64),
            epochs: epochs.all,
            shared_epochs: epochs.shared,
            studies: self
                .studies
                .as_ref()
                .filter(|_| stage.from.is_none())
                .map(|studies| studies.list.len() as u64),
        }
    }
}

impl Space {
    /// The number of configurations that are known from the start, and of examples of those that are not.
    pub(crate) fn example_count(&self) -> usize {
        self.points.len() + self.samples.len()
    }

    /// The block of a configuration or of an example, and what its axes set.
    fn point(&self, index: usize) -> (Option<&Block>, Settings) {
        let point = self.points.get(index).or_else(|| self.samples.get(index - self.points.len()));
        match point.expect("the index of a point or of a sample") {
            Point::Grid { block, index } => {
                let block = &self.blocks[*block as usize];
                (Some(block), block.point(*index))
            }
            Point::Drawn { block, settings } => (Some(&self.blocks[*block as usize]), (**settings).clone()),
            Point::Include { entry } => (None, self.include[*entry as usize].settings.clone()),
        }
    }

    /// The block of a configuration, and what axes, block and `include` set.
    pub(crate) fn settings(&self, index: usize) -> (Option<&Block>, Settings) {
        let (block, mut settings) = self.point(index);
        settings.extend(block.into_iter().flat_map(|block| block.set.settings.clone()));
        (block, settings)
    }

    fn configuration(&self, index: usize, stage: &Arc<str>) -> Configuration {
        let (block, point) = self.point(index);
        let recipe =
            self.resolve(block, &point).expect("every point was resolved when the space was expanded");
        let mut settings = point;
        settings.extend(block.into_iter().flat_map(|block| block.set.settings.clone()));
        Configuration {
            number: index as u64 + 1,
            stage: Arc::clone(stage),
            block: block.and_then(|block| block.name.clone()),
            settings,
            hash: hex(&recipe.digest()),
            recipe,
            is_lr_scaled: block.is_some_and(Block::is_lr_scaled),
        }
    }

    /// What `base`, the first stage and the block set, weakest first.
    pub(crate) fn layers<'a>(&'a self, block: Option<&'a Block>, point: &'a Settings) -> [&'a Settings; 4] {
        let set = block.map_or(&self.base.settings, |block| &block.set.settings);
        // A block's set and the first stage's never hold the same key as an axis.
        match block {
            Some(_) => [&self.base.settings, &self.set.settings, set, point],
            None => [&self.base.settings, &self.base.settings, &self.set.settings, point],
        }
    }

    fn resolve(&self, block: Option<&Block>, point: &Settings) -> Result<Recipe, RecipeError> {
        stage::resolve(&self.layers(block, point), block.is_some_and(Block::is_lr_scaled))
    }
}

#[cfg(test)]
mod tests;
