//! From what a file says to the list of its points: counted before anything is expanded, every one resolved,
//! duplicates and exclusions taken out.

use std::collections::HashSet;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::{Block, Dim, Facts, Layer, Place, Point, Space};
use crate::recipe::{Fault, RecipeError, Source};
use crate::spec::{MAX_COMPARISONS, MAX_TRIALS, Problems, Sampler, Search};
use crate::value::Settings;

/// Draws per wanted configuration after which a random sampler gives up looking for new ones.
const MAX_DRAWS: u64 = 100;
/// Points that are tried of a space whose configurations are chosen later, in all and of one block.
const SAMPLES: usize = 10_000;
const MAX_SAMPLES_OF_BLOCK: usize = 100;
/// Of the sequence that is compiled in.
const SOBOL_DIMENSIONS: u32 = sobol_burley::NUM_DIMENSIONS;
const SOBOL_POINTS: u32 = 1 << 16;

/// Fills `space.points`, or notes why it cannot.
pub(crate) fn expand(space: &mut Space, search: Search, seeds: u64, problems: &mut Problems<'_>) {
    if !check_size(space, search, seeds, problems) {
        return;
    }
    let mut expansion = Expansion::new(space);
    let blocks = &expansion.space.blocks;
    match search.sampler {
        Sampler::Grid => expansion.grid(problems),
        Sampler::Random { configurations } => {
            let mut rng = ChaCha12Rng::seed_from_u64(search.seed);
            let count = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
            let draws = (0..u64::from(configurations) * MAX_DRAWS).map(move |_| {
                let number = rng.random_range(0..count);
                (number, blocks[number as usize].draw(&mut rng))
            });
            expansion.draw(configurations, draws, problems);
        }
        Sampler::Adaptive { .. } => expansion.sample(search.seed, problems),
        Sampler::Sobol { configurations } => match sobol(expansion.space, search.seed) {
            Some(draws) => expansion.draw(configurations, draws, problems),
            None => {
                let message = format!(
                    "a Sobol sequence has {SOBOL_DIMENSIONS} dimensions, and this space has more axes: use `random`"
                );
                problems.error(expansion.space.place().at, "search.sampler", message);
            }
        },
    }
    expansion.include(problems);
    expansion.remark(search.sampler == Sampler::Grid, problems);
    let (points, samples, facts) = (expansion.points, expansion.samples, expansion.facts);
    if points.is_empty() && samples.is_empty() && problems.is_empty() {
        problems.error(space.place().at, &space.place().path, "the space is empty: there is nothing to run");
    }
    space.points = points;
    space.samples = samples;
    space.facts = facts;
}

/// Whether the space is small enough to expand, by arithmetic alone.
fn check_size(space: &Space, search: Search, seeds: u64, problems: &mut Problems<'_>) -> bool {
    let configurations = match search.sampler {
        Sampler::Grid => space
            .blocks
            .iter()
            .try_fold(0_u64, |sum, block| sum.checked_add(block.len()?))
            .unwrap_or(u64::MAX),
        Sampler::Random { configurations } | Sampler::Sobol { configurations } => u64::from(configurations),
        Sampler::Adaptive { configurations, .. } => {
            let studies = space.studies.as_ref().map_or(0, |studies| studies.list.len() as u64);
            studies * u64::from(configurations)
        }
    };
    let trials = configurations.saturating_add(space.include.len() as u64).saturating_mul(seeds);
    let place = space.place();
    if trials > MAX_TRIALS {
        let count = if trials == u64::MAX { "far more".to_owned() } else { trials.to_string() };
        problems.error(
            place.at,
            &place.path,
            format!(
                "the sweep asks for {count} trials, and {MAX_TRIALS} is the bound: use fewer values or seeds"
            ),
        );
        return false;
    }
    if configurations.saturating_mul(space.exclude.len() as u64) > MAX_COMPARISONS {
        let (entries, first) = (space.exclude.len(), &space.exclude[0].place);
        problems.error(
            first.at,
            "exclude",
            format!(
                "{entries} entries against {configurations} configurations are too many: use blocks instead"
            ),
        );
        return false;
    }
    true
}

impl Space {
    /// Where to point when the whole space is at fault.
    fn place(&self) -> &Place {
        self.blocks.first().map_or(&self.base.place, |block| &block.place)
    }
}

/// Blocks and points by an Owen-scrambled Sobol sequence: its first dimension chooses the block, each further one is an
/// axis or a zip, which blocks that share it share too. `None`: there are more of them than the sequence has dimensions.
fn sobol(space: &Space, seed: u64) -> Option<impl Iterator<Item = (u32, Settings)> + '_> {
    let mut dims: Vec<*const Dim> = Vec::new();
    for dim in space.blocks.iter().flat_map(|block| &block.dims).map(Arc::as_ptr) {
        if !dims.contains(&dim) {
            dims.push(dim);
        }
        if dims.len() >= SOBOL_DIMENSIONS as usize {
            return None;
        }
    }
    // Both halves of the seed count.
    let seed = (seed ^ (seed >> 32)) as u32;
    let blocks = space.blocks.len();
    Some((0..SOBOL_POINTS).map(move |index| {
        let share = |dimension: u32| f64::from(sobol_burley::sample(index, dimension, seed));
        let number = (share(0) * blocks as f64) as usize;
        let dimension =
            |dim: &Arc<Dim>| dims.iter().position(|known| *known == Arc::as_ptr(dim)).unwrap_or(0) as u32;
        (number as u32, space.blocks[number].at(|dim| share(1 + dimension(dim))))
    }))
}

struct Expansion<'s> {
    space: &'s Space,
    points: Vec<Point>,
    samples: Vec<Point>,
    hashes: HashSet<[u8; 32]>,
    duplicates: u64,
    /// How many points each entry of `exclude` has matched.
    excluded: Vec<u64>,
    facts: Facts,
}

/// What became of a candidate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Excluded,
    Duplicate,
    Wrong,
}

impl<'s> Expansion<'s> {
    fn new(space: &'s Space) -> Expansion<'s> {
        let excluded = vec![0; space.exclude.len()];
        let facts = Facts::default();
        let (points, samples, hashes) = (Vec::new(), Vec::new(), HashSet::new());
        Expansion { space, points, samples, hashes, duplicates: 0, excluded, facts }
    }

    fn grid(&mut self, problems: &mut Problems<'_>) {
        for (number, block) in (0..).zip(&self.space.blocks) {
            let mut kept = 0;
            let mut excluded = 0;
            for index in 0..block.len().unwrap_or(0) {
                match self.consider(block, &block.point(index), problems) {
                    Fate::Kept => {
                        kept += 1;
                        self.points.push(Point::Grid { block: number, index });
                    }
                    Fate::Excluded => excluded += 1,
                    Fate::Duplicate => self.duplicates += 1,
                    Fate::Wrong if problems.is_full() => return,
                    Fate::Wrong => {}
                }
            }
            if kept == 0 && excluded > 0 {
                report_empty(block, problems);
            }
        }
    }

    /// Takes so many different configurations from what is drawn: numbers of blocks, and points of these.
    fn draw(
        &mut self,
        wanted: u32,
        draws: impl Iterator<Item = (u32, Settings)>,
        problems: &mut Problems<'_>,
    ) {
        if self.space.blocks.is_empty() {
            return;
        }
        for (number, point) in draws {
            if self.points.len() == wanted as usize || problems.is_full() {
                break;
            }
            let block = &self.space.blocks[number as usize];
            if self.consider(block, &point, problems) == Fate::Kept {
                self.points.push(Point::Drawn { block: number, settings: Box::new(point) });
            }
        }
        let found = self.points.len();
        if found < wanted as usize && problems.is_empty() {
            let message = format!(
                "asks for {wanted} configurations, and only {found} different ones were found: lower it to {found}, \
                 or use `sampler: grid`"
            );
            problems.error(self.space.place().at, "search.trials", message);
        }
        // The order of the file, as far as drawn configurations have one.
        self.points.sort_by_key(|point| match point {
            Point::Grid { block, .. } | Point::Drawn { block, .. } => *block,
            Point::Include { .. } => u32::MAX,
        });
    }

    /// Tries the corners of each block, each value of its lists, and some points between, for a sampler that chooses
    /// later: what is wrong with its space is said now.
    fn sample(&mut self, seed: u64, problems: &mut Problems<'_>) {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let draws = (SAMPLES / self.space.blocks.len().max(1)).clamp(2, MAX_SAMPLES_OF_BLOCK);
        for (number, block) in (0..).zip(&self.space.blocks) {
            // Samples are no configurations: others may be the same.
            self.hashes.clear();
            let mut tried = vec![block.at(|_| 0.0), block.at(|_| 1.0 - f64::EPSILON)];
            for dim in &block.dims {
                let values = dim.len().filter(|len| *len <= draws as u64).unwrap_or(0);
                tried.extend((0..values).map(|index| {
                    let mut point = block.draw(&mut rng);
                    dim.insert(index, &mut point);
                    point
                }));
            }
            tried.extend((0..draws).map(|_| block.draw(&mut rng)));
            let first = self.samples.len();
            for point in tried {
                match self.consider(block, &point, problems) {
                    Fate::Wrong if problems.is_full() => return,
                    Fate::Kept => {
                        self.samples.push(Point::Drawn { block: number, settings: Box::new(point) });
                    }
                    _ => {}
                }
            }
            if self.samples.len() == first && problems.is_empty() && self.excluded.iter().any(|n| *n > 0) {
                report_empty(block, problems);
            }
        }
        self.hashes.clear();
        self.duplicates = 0;
        self.facts.epochs = 0;
    }

    fn include(&mut self, problems: &mut Problems<'_>) {
        let scaled = self.space.blocks.iter().any(Block::is_lr_scaled);
        for (entry, layer) in (0..).zip(&self.space.include) {
            match self.space.resolve(None, &layer.settings) {
                Err(error) => report(self.space, None, Some(layer), &layer.settings, &error, problems),
                Ok(recipe) if self.hashes.insert(recipe.digest()) => {
                    self.facts.note(&recipe);
                    self.points.push(Point::Include { entry });
                    if scaled && layer.settings.contains_key("lr") {
                        let path = &layer.place.path;
                        problems.warnings.push(format!(
                            "{path}: its `lr` is used as written: `scaled_by` is for the axis that carries it"
                        ));
                    }
                }
                Ok(_) => self.duplicates += 1,
            }
        }
    }

    fn consider(&mut self, block: &Block, point: &Settings, problems: &mut Problems<'_>) -> Fate {
        let layers = self.space.layers(Some(block), point);
        let source = Source { layers: &layers };
        let mut is_excluded = false;
        for (entry, count) in self.space.exclude.iter().zip(&mut self.excluded) {
            let matches = |(key, value): (&String, _)| source.get(key).is_some_and(|found| found.same(value));
            if entry.settings.iter().all(matches) {
                *count += 1;
                is_excluded = true;
            }
        }
        if is_excluded {
            return Fate::Excluded;
        }
        match self.space.resolve(Some(block), point) {
            Ok(recipe) if self.hashes.insert(recipe.digest()) => {
                self.facts.note(&recipe);
                Fate::Kept
            }
            Ok(_) => Fate::Duplicate,
            Err(error) => {
                report(self.space, Some(block), None, point, &error, problems);
                Fate::Wrong
            }
        }
    }

    /// What is allowed but probably not meant.
    fn remark(&self, is_grid: bool, problems: &mut Problems<'_>) {
        self.remark_hidden(problems);
        for (entry, count) in self.space.exclude.iter().zip(&self.excluded) {
            if *count == 0 && is_grid {
                let place = &entry.place;
                problems
                    .warnings
                    .push(format!("{} (line {}): matches no configuration", place.path, place.at.line));
            }
        }
        match self.duplicates {
            0 => {}
            1 => problems.warnings.push("1 configuration is the same as another and is run once".to_owned()),
            n => {
                problems.warnings.push(format!("{n} configurations are the same as others and are run once"))
            }
        }
    }
}

impl Expansion<'_> {
    /// A value of `base` that no configuration has, because an axis or a zip sets the key everywhere.
    fn remark_hidden(&self, problems: &mut Problems<'_>) {
        let Space { base, blocks, include, .. } = self.space;
        for key in base.settings.keys() {
            let is_axis =
                |block: &Block| block.dims.iter().any(|dim| dim.keys.iter().any(|(own, _)| own == key));
            let is_hidden = !blocks.is_empty()
                && blocks.iter().all(is_axis)
                && include.iter().all(|layer| layer.settings.contains_key(key));
            if let Some(place) = base.find(key, None, true).filter(|_| is_hidden) {
                let (path, line) = (&place.path, place.at.line);
                problems
                    .warnings
                    .push(format!("{path} (line {line}): an axis sets `{key}`, so this value is never run"));
            }
        }
    }
}

fn report_empty(block: &Block, problems: &mut Problems<'_>) {
    let name = block.name.as_deref().map_or("the axes".to_owned(), |name| format!("block `{name}`"));
    let message = format!("`exclude` leaves nothing of {name}: take the block out, or exclude less");
    problems.error(block.place.at, &block.place.path, message);
}

/// Notes what is wrong with a recipe at the place that made it so.
fn report(
    space: &Space,
    block: Option<&Block>,
    include: Option<&Layer>,
    point: &Settings,
    error: &RecipeError,
    problems: &mut Problems<'_>,
) {
    let (key, field) = (error.key.as_str(), error.field.as_deref());
    let wants_key = error.fault == Fault::Key;
    let dims = || block?.dims.iter().find_map(|dim| dim.find(key, point, wants_key));
    let in_dims = dims().is_some();
    let set = || block?.set.find(key, field, wants_key);
    let place = include
        .and_then(|layer| layer.find(key, field, wants_key))
        .or_else(dims)
        .or_else(set)
        .or_else(|| space.set.find(key, field, wants_key))
        .or_else(|| space.base.find(key, field, wants_key));
    // An axis points at its whole value, so the message says which part of it is meant.
    let part = field.filter(|_| in_dims).map_or(String::new(), |field| format!("`{field}` "));
    let message = format!("{part}{}", error.message);
    let name = block.and_then(|block| block.name.as_deref());
    match place {
        Some(place) => problems.error_in(name, place.at, &place.path, message),
        None => {
            let place = block.map(|block| &block.place).or(include.map(|layer| &layer.place));
            let place = place.unwrap_or(&space.base.place);
            problems.error_in(name, place.at, &place.path, format!("`{key}` {message}"));
        }
    }
}
