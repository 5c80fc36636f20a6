//! Stages against the expanded space: their groups, their counts, whether what they open can run, and whether
//! anything chooses by test images.

use std::collections::HashMap;
use std::sync::Arc;

use super::fields::{Problems, Section};
use super::metrics::is_of_maps;
use super::stages::Written;
use super::{At, MAX_TRIALS, Objective};
use crate::recipe::{Fault, Recipe, RecipeError};
use crate::space::{Facts, Place, Space};
use crate::stage::{BLOCK, FromStage, Group, Opening, Parent, Stage};
use crate::study::Studies;
use crate::value::{Settings, Value};

/// Of so many configurations each is tried with the stages after; of more, the first of each block.
const MAX_TRIED: usize = 100_000;
/// The most configurations of a later stage that stand for all of them when the next stage is tried.
const MAX_EXAMPLES: usize = 1_000;

/// A configuration that stands for others when a stage is tried.
#[derive(Debug, Clone)]
struct Example {
    settings: Settings,
    hash: String,
    is_lr_scaled: bool,
}

/// Completes the stages, or notes why they cannot be run.
pub(super) fn complete(
    top: &Section<'_>,
    written: Vec<Written>,
    space: &Space,
    objective: &Objective,
    allow_test: bool,
    problems: &mut Problems<'_>,
) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    let mut examples: Vec<Vec<Example>> = vec![first_of_blocks(space)];
    let mut facts = vec![space.facts];
    for written in &written {
        let mut stage = written.stage.clone();
        if let Some(from) = &mut stage.from {
            from.groups = groups(from, &stages, space);
            let (made, fact) = attempt(written, from, space, &examples[from.stage], problems);
            examples.push(made);
            facts.push(fact);
        }
        stages.push(stage);
    }
    for (stage, facts) in stages.iter_mut().zip(&facts) {
        stage.is_scored_on_test = facts.evals_on_test;
    }
    check_counts(&stages, space, &written, problems);
    let is_chosen_from = |index: usize| {
        index == 0 || stages.iter().flat_map(|stage| &stage.from).any(|from| from.stage == index)
    };
    check_objective(top, &facts, objective, problems);
    for (index, (written, facts)) in written.iter().zip(&facts).enumerate() {
        let place = place_of_split(top, written, index, space);
        check_test(&place, written, is_chosen_from(index), *facts, objective, allow_test, problems);
    }
    stages
}

/// The groups of an earlier stage's configurations, in the order in which they come first.
fn groups(from: &FromStage, stages: &[Stage], space: &Space) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut add = |settings: &Settings, block: Option<&str>, count: u64| {
        let key = from.opening.key(settings, block);
        let place = *places.entry(key).or_insert_with_key(|key| {
            groups.push(Group { key: key.clone(), candidates: 0, configurations: 0 });
            groups.len() - 1
        });
        groups[place].candidates += count;
    };
    match &stages[from.stage].from {
        None => {
            if let Some(Studies { adaptive, list }) = &space.studies {
                for arm in list.iter().filter_map(|study| study.arms.first()) {
                    add(&arm.set, arm.block.as_deref(), adaptive.trials.into());
                }
            }
            for index in 0..space.points.len() {
                let (block, settings) = space.settings(index);
                add(&settings, block.and_then(|block| block.name.as_deref()), 1);
            }
        }
        Some(parent) => {
            for group in &parent.groups {
                let (settings, block) = known(&group.key);
                let chosen = group.candidates.min(parent.opening.best.into());
                for point in parent.opening.points() {
                    let settings = parent.opening.settings(&settings, point);
                    add(&settings, block.as_deref(), chosen);
                }
            }
        }
    }
    let points = from.opening.point_count();
    for group in &mut groups {
        group.configurations = group.candidates.min(from.opening.best.into()).saturating_mul(points);
    }
    groups
}

/// What the key of a group tells about its configurations.
fn known(key: &str) -> (Settings, Option<String>) {
    let mut settings: Settings = serde_json::from_str(key).expect("the key of a group is a map as JSON");
    let block = match settings.remove(BLOCK) {
        Some(Value::String(block)) => Some(block),
        _ => None,
    };
    (settings, block)
}

fn first_of_blocks(space: &Space) -> Vec<Example> {
    let mut seen: Vec<Option<Arc<str>>> = Vec::new();
    let mut examples = Vec::new();
    for index in 0..space.example_count() {
        let (block, settings) = space.settings(index);
        let name = block.and_then(|block| block.name.clone());
        if !seen.contains(&name) {
            seen.push(name);
            let is_lr_scaled = block.is_some_and(|block| block.is_lr_scaled());
            examples.push(Example { settings, hash: String::new(), is_lr_scaled });
        }
    }
    examples
}

/// Makes what the stage would make of examples, and notes what cannot run.
fn attempt(
    written: &Written,
    from: &FromStage,
    space: &Space,
    examples: &[Example],
    problems: &mut Problems<'_>,
) -> (Vec<Example>, Facts) {
    let mut attempt = Attempt { written, opening: &from.opening, facts: Facts::default(), problems };
    let mut made = Vec::new();
    for example in examples {
        for point in from.opening.points() {
            if let Some(child) = attempt.child(example, point)
                && made.len() < MAX_EXAMPLES
            {
                made.push(child);
            }
        }
    }
    // Beside all points of some configurations, the first point of all configurations.
    if from.stage == 0 && space.example_count() <= MAX_TRIED {
        for index in 0..space.example_count() {
            let (block, settings) = space.settings(index);
            let is_lr_scaled = block.is_some_and(|block| block.is_lr_scaled());
            let example = Example { settings, hash: String::new(), is_lr_scaled };
            if let Some(point) = from.opening.points().next() {
                attempt.child(&example, point);
            }
        }
    }
    (made, attempt.facts)
}

struct Attempt<'a, 'p> {
    written: &'a Written,
    opening: &'a Opening,
    facts: Facts,
    problems: &'a mut Problems<'p>,
}

impl Attempt<'_, '_> {
    fn child(&mut self, example: &Example, point: Settings) -> Option<Example> {
        if self.problems.is_full() {
            return None;
        }
        let parent =
            Parent { settings: &example.settings, hash: &example.hash, is_lr_scaled: example.is_lr_scaled };
        match self.opening.child(parent, point.clone()) {
            Ok(child) => {
                self.facts.note(&child.recipe);
                Some(Example { settings: child.settings, hash: child.hash, is_lr_scaled: child.is_lr_scaled })
            }
            Err(error) => {
                self.report(&point, &error);
                None
            }
        }
    }

    fn report(&mut self, point: &Settings, error: &RecipeError) {
        let (key, field) = (error.key.as_str(), error.field.as_deref());
        let wants_key = error.fault == Fault::Key;
        let dims = self.written.dims.iter().find_map(|dim| dim.find(key, point, wants_key));
        let set = || self.written.find(key, field, wants_key);
        let name = &self.written.stage.name;
        let message = format!("{} (in stage `{name}`)", error.message);
        match dims.or_else(set) {
            Some(place) => self.problems.error(place.at, &place.path, message),
            None => {
                let place = &self.written.place;
                self.problems.error(place.at, &place.path, format!("`{key}` {message}"));
            }
        }
    }
}

fn check_counts(stages: &[Stage], space: &Space, written: &[Written], problems: &mut Problems<'_>) {
    let mut trials = 0_u64;
    for (stage, written) in stages.iter().zip(written) {
        let of_studies = |studies: &Studies| studies.list.len() as u64 * u64::from(studies.adaptive.trials);
        let points = space.points.len() as u64 + space.studies.as_ref().map_or(0, of_studies);
        let configurations = stage.configurations(points);
        trials = trials.saturating_add(configurations.saturating_mul(stage.seeds.len() as u64));
        if trials > MAX_TRIALS {
            let message = format!(
                "the stages up to `{}` ask for {trials} trials, and {MAX_TRIALS} is the bound: choose fewer, or use \
                 fewer seeds",
                stage.name
            );
            problems.error(written.place.at, &written.place.path, message);
            return;
        }
    }
}

fn place_of_split(top: &Section<'_>, written: &Written, index: usize, space: &Space) -> Place {
    let base = || if index == 0 { space.base.find("split", None, true) } else { None };
    let objective = || top.get("objective").map(|field| Place { at: field.node.at, path: field.path });
    written
        .find("split", None, true)
        .or_else(base)
        .or_else(objective)
        .unwrap_or_else(|| written.place.clone())
}

/// What trials are compared by, all of them must have.
fn check_objective(top: &Section<'_>, facts: &[Facts], objective: &Objective, problems: &mut Problems<'_>) {
    let (metric, use_, head) = match is_of_maps(&objective.metric) {
        Some(true) if facts.iter().any(|facts| facts.labels_images) => ("label maps", "val/top1", "linear"),
        Some(false) if facts.iter().any(|facts| facts.labels_pixels) => {
            ("whole images", "val/miou", "setr_pup")
        }
        _ => return,
    };
    let message = format!(
        "`{}` is a score of {metric}, and trials with `head: {head}` have none: use `metric: {use_}`",
        objective.metric
    );
    let given = top.get("objective");
    let (at, path) = given.map_or((top.at, "objective".to_owned()), |field| (field.node.at, field.path));
    problems.error(at, &path, message);
}

/// Images that a result is stated for must not have chosen it.
fn check_test(
    place: &Place,
    written: &Written,
    is_chosen_from: bool,
    facts: Facts,
    objective: &Objective,
    allow_test: bool,
    problems: &mut Problems<'_>,
) {
    let name = &written.stage.name;
    let is_test_metric = objective.metric.starts_with("test/");
    if is_test_metric && is_chosen_from && facts.lacks_test {
        let metric = &objective.metric;
        let message =
            format!("no test images are named here, so stage `{name}` reports no `{metric}`: name `test`");
        problems.error(place.at, &place.path, message);
    }
    if allow_test || !facts.evals_on_test || is_test_metric {
        return;
    }
    let message = if is_chosen_from {
        format!(
            "stage `{name}` is scored on test images, and its best are chosen by that score: use a validation split \
             as `eval`, or say `allow_test_selection: true`"
        )
    } else if objective.at == At::Best {
        format!(
            "stage `{name}` is scored on test images, and `at: best` would choose its epoch by them: use `at: last`, \
             or say `allow_test_selection: true`"
        )
    } else {
        return;
    };
    problems.error(place.at, &place.path, message);
}

impl Facts {
    /// Notes what a recipe does with test images, and what it labels.
    pub(crate) fn note(&mut self, recipe: &Recipe) {
        let split = &recipe.split;
        self.evals_on_test |=
            crate::space::is_test_split(&split.eval) || split.test.as_ref() == Some(&split.eval);
        self.lacks_test |= split.test.is_none();
        self.prunes |= recipe.pruning.is_some();
        self.epochs += u64::from(recipe.epochs_in_all());
        self.labels_images |= recipe.setr.is_none();
        self.labels_pixels |= recipe.setr.is_some();
    }
}
