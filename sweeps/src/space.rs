//! The space of a sweep: its configurations in the order of the file, its trials in the order to run them.
//!
//! A space keeps its configurations as points (a block and an index) and makes settings and recipes when they are
//! asked for: a million trials cost megabytes, not gigabytes.

mod dims;
mod expand;

use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;
use serde::{Serialize, Serializer};

pub(crate) use self::dims::{Block, Choices, Dim, Layer, Place, Points, Range};
pub(crate) use self::expand::expand;
use crate::recipe::{Recipe, RecipeError, Source, hex};
use crate::spec::{Order, Spec};
use crate::value::{self, Settings, Value};

/// The name of the one stage of this version's sweeps.
pub const TUNE: &str = "tune";

/// One setting of the axes: a trial without its seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// Place in the order of the file, from 1.
    pub number: u64,
    pub stage: &'static str,
    /// `None` for configurations of the plain axes and of `include`.
    pub block: Option<Arc<str>>,
    /// What axes, block and `include` set, as written: `scaled_by` is not applied here.
    pub settings: Settings,
    pub recipe: Recipe,
    /// [`Recipe::config_hash`].
    pub hash: String,
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
}

fn as_map<S: Serializer>(blocks: &[(String, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(blocks.iter().map(|(name, count)| (name, count)))
}

/// Everything that spans the configurations, and, once expanded, which of them there are.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    pub(crate) base: Layer,
    pub(crate) blocks: Vec<Block>,
    pub(crate) exclude: Vec<Layer>,
    pub(crate) include: Vec<Layer>,
    /// The configurations in the order of the file: all resolve, and no two are the same.
    pub(crate) points: Vec<Point>,
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
    /// The number of configurations.
    #[must_use]
    pub fn configuration_count(&self) -> usize {
        self.space.points.len()
    }

    /// The configurations in the order of the file, made one by one.
    pub fn configurations(&self) -> impl ExactSizeIterator<Item = Configuration> + '_ {
        (0..self.space.points.len()).map(|index| self.space.configuration(index))
    }

    /// The number of trials: configurations × seeds.
    #[must_use]
    pub fn trial_count(&self) -> usize {
        self.space.points.len() * self.seeds.len()
    }

    /// The trials in the order to run them. The same file gives the same order.
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

    /// Counts without running anything.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut counts = vec![0; self.space.blocks.len()];
        for point in &self.space.points {
            if let Point::Grid { block, .. } | Point::Drawn { block, .. } = point {
                counts[*block as usize] += 1;
            }
        }
        let blocks = self.space.blocks.iter().zip(counts);
        let stage = StagePlan {
            name: TUNE.to_owned(),
            configurations: self.configuration_count() as u64,
            trials: self.trial_count() as u64,
            blocks: blocks.filter_map(|(block, n)| Some((block.name.as_deref()?.to_owned(), n))).collect(),
        };
        Plan { stages: vec![stage], warnings: self.warnings.clone() }
    }
}

impl Space {
    fn configuration(&self, index: usize) -> Configuration {
        let (block, point) = match &self.points[index] {
            Point::Grid { block, index } => {
                let block = &self.blocks[*block as usize];
                (Some(block), block.point(*index))
            }
            Point::Drawn { block, settings } => (Some(&self.blocks[*block as usize]), (**settings).clone()),
            Point::Include { entry } => (None, self.include[*entry as usize].settings.clone()),
        };
        let recipe =
            self.resolve(block, &point).expect("every point was resolved when the space was expanded");
        let mut settings = point;
        settings.extend(block.into_iter().flat_map(|block| block.set.settings.clone()));
        Configuration {
            number: index as u64 + 1,
            stage: TUNE,
            block: block.and_then(|block| block.name.clone()),
            settings,
            hash: hex(&recipe.digest()),
            recipe,
        }
    }

    fn resolve(&self, block: Option<&Block>, point: &Settings) -> Result<Recipe, RecipeError> {
        let set = block.map_or(&self.base.settings, |block| &block.set.settings);
        let layers = [&self.base.settings, set, point];
        let source = Source { layers: &layers };
        let factor = if block.is_some_and(Block::is_lr_scaled) { batch_size(source) / 256.0 } else { 1.0 };
        Recipe::resolve(source, factor)
    }
}

/// The batch size as far as it can be read here; a wrong one is reported by the recipe itself.
#[expect(clippy::cast_precision_loss, reason = "no batch size is beyond 2^53")]
fn batch_size(source: Source<'_>) -> f64 {
    match source.get("batch_size") {
        Some(Value::Int(i)) => *i as f64,
        Some(Value::Float(x)) => *x,
        _ => f64::from(crate::recipe::DEFAULT_BATCH_SIZE),
    }
}

#[cfg(test)]
mod tests;
