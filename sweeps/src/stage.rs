//! Stages: how the best of one stage become the configurations of the next.
//!
//! The first stage runs the file's axes. A later one takes from an earlier stage ([`FromStage`]): it parts that stage's
//! configurations into groups, chooses the best of each group as soon as all of the group's trials have ended, and
//! runs what [`Opening`] makes of them. Everything an opening needs is in it, so that the coordinator stores it as
//! JSON and never reads the file again.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::recipe::{DEFAULT_BATCH_SIZE, Recipe, RecipeError, Source, hex};
use crate::spec::Goal;
use crate::value::{self, Settings, Value};

/// The name of the stage of a sweep file without `stages`.
pub const TUNE: &str = "tune";
/// What `per` calls a configuration's block; every other entry of it is a parameter.
pub const BLOCK: &str = "block";

const START_TAG: &str = "promptsweep start 1";

/// A stage of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    pub name: Arc<str>,
    /// Every configuration of the stage is run once with each of them.
    pub seeds: Vec<i64>,
    /// `None`: the configurations of the file's axes.
    pub from: Option<FromStage>,
    /// Whether `split.eval`, on which its trials are scored, has test images.
    pub is_scored_on_test: bool,
}

/// Where a stage's configurations come from.
#[derive(Debug, Clone, PartialEq)]
pub struct FromStage {
    /// Index of an earlier stage.
    pub stage: usize,
    pub opening: Opening,
    /// The groups of that stage's configurations, in the order of the file.
    pub groups: Vec<Group>,
}

/// Configurations among which a stage chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// [`Opening::key`] of its configurations.
    pub key: String,
    /// How many there are when all goes well.
    pub candidates: u64,
    /// How many the stage opens: the best of the candidates × the points of the stage's own axes.
    pub configurations: u64,
}

/// What a trial starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// From its seed, like any other.
    Fresh,
    /// From the tuned tensors and scores of the trial that was chosen.
    Artifact,
}

/// How a stage chooses, and what it makes of the chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    /// How many of each group.
    pub best: u32,
    /// What configurations of a group have in common.
    pub per: Vec<String>,
    /// Whether a configuration with a trial that was stopped early may be chosen.
    pub allow_stopped: bool,
    pub start: Start,
    /// `base` of the file, and `split` and `set` of the stages before.
    pub(crate) base: Settings,
    /// `split` and `set` of the stage itself.
    pub(crate) set: Settings,
    /// The stage's own axes and zips.
    pub(crate) dims: Vec<Rows>,
}

/// Keys that are walked together, a row at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rows {
    pub(crate) keys: Vec<String>,
    pub(crate) rows: Vec<Vec<Value>>,
    /// Whether the learning rate on it is multiplied by batch_size / 256.
    pub(crate) is_scaled: bool,
}

/// A configuration that may be chosen, with the ends of its trials.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its place in the order of the file.
    pub number: u64,
    pub lr: f64,
    /// One for each trial; `None`: it has no score, because it failed, diverged or was cancelled.
    pub scores: Vec<Option<f64>>,
    pub is_stopped: bool,
}

/// A chosen configuration.
#[derive(Debug, Clone, Copy)]
pub struct Parent<'a> {
    pub settings: &'a Settings,
    pub hash: &'a str,
    pub is_lr_scaled: bool,
}

/// A configuration of a stage that has opened.
#[derive(Debug, Clone, PartialEq)]
pub struct Child {
    pub settings: Settings,
    pub recipe: Recipe,
    pub hash: String,
    pub is_lr_scaled: bool,
}

impl Stage {
    /// How many configurations it has when all goes well; those of the first stage are `points`.
    pub(crate) fn configurations(&self, points: u64) -> u64 {
        let groups = |from: &FromStage| {
            from.groups.iter().map(|group| group.configurations).fold(0, u64::saturating_add)
        };
        self.from.as_ref().map_or(points, groups)
    }
}

impl Candidate {
    fn mean(&self) -> Option<f64> {
        let scores: Vec<f64> = self.scores.iter().copied().flatten().filter(|x| x.is_finite()).collect();
        #[expect(clippy::cast_precision_loss, reason = "there are few seeds")]
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        (!scores.is_empty()).then_some(mean)
    }

    fn is_complete(&self) -> bool {
        self.scores.iter().all(Option::is_some)
    }
}

impl Opening {
    /// The chosen among the candidates of a group, best first: those all of whose seeds have a score before those
    /// with a gap, then by the mean over seeds, then the smaller learning rate, then the order of the file.
    /// A configuration without any score is never chosen.
    #[must_use]
    pub fn choose(&self, candidates: &[Candidate], goal: Goal) -> Vec<usize> {
        let is_allowed = |candidate: &Candidate| self.allow_stopped || !candidate.is_stopped;
        let mut scored: Vec<(usize, f64)> = (0..)
            .zip(candidates)
            .filter(|(_, candidate)| is_allowed(candidate))
            .filter_map(|(index, candidate)| Some((index, candidate.mean()?)))
            .collect();
        scored.sort_by(|(i, x), (j, y)| {
            let (a, b) = (&candidates[*i], &candidates[*j]);
            let better = match goal {
                Goal::Maximize => y.total_cmp(x),
                Goal::Minimize => x.total_cmp(y),
            };
            // Means of equal scores may differ in their last bit, and -0 is 0.
            let by_score = if x == y { Ordering::Equal } else { better };
            let by_gaps = b.is_complete().cmp(&a.is_complete());
            by_gaps.then(by_score).then(a.lr.total_cmp(&b.lr)).then(a.number.cmp(&b.number))
        });
        scored.into_iter().take(self.best as usize).map(|(index, _)| index).collect()
    }

    /// What decides to which group a configuration belongs, as canonical JSON.
    #[must_use]
    pub fn key(&self, settings: &Settings, block: Option<&str>) -> String {
        let key = key(&self.per, settings, &self.base, block);
        value::canonical(&key).expect("the numbers of a sweep file are finite")
    }

    /// How many configurations are made of each chosen one.
    #[must_use]
    pub fn point_count(&self) -> u64 {
        self.dims.iter().map(|dim| dim.rows.len() as u64).product()
    }

    /// The points of the stage's own axes, the last varying fastest.
    pub fn points(&self) -> impl Iterator<Item = Settings> + '_ {
        (0..self.point_count()).map(|index| self.point(index))
    }

    fn point(&self, mut index: u64) -> Settings {
        let mut point = Settings::new();
        for dim in self.dims.iter().rev() {
            let length = dim.rows.len() as u64;
            let row = usize::try_from(index % length).expect("an index into a list in memory");
            point.extend(dim.keys.iter().cloned().zip(dim.rows[row].iter().cloned()));
            index /= length;
        }
        point
    }

    /// What the stage makes of a chosen configuration, in the order of its axes.
    ///
    /// # Errors
    /// The first point that is no recipe.
    pub fn children(&self, parent: Parent<'_>) -> Result<Vec<Child>, RecipeError> {
        self.points().map(|point| self.child(parent, point)).collect()
    }

    /// The child at one point.
    pub(crate) fn child(&self, parent: Parent<'_>, point: Settings) -> Result<Child, RecipeError> {
        let is_lr_scaled = match self.dims.iter().find(|dim| dim.keys.iter().any(|key| key == "lr")) {
            Some(dim) => dim.is_scaled,
            None if self.set.contains_key("lr") => false,
            None => parent.is_lr_scaled,
        };
        let settings = self.settings(parent.settings, point);
        let recipe = resolve(&[&self.base, &self.set, &settings], is_lr_scaled)?;
        let hash = match self.start {
            Start::Fresh => hex(&recipe.digest()),
            Start::Artifact => started(&hex(&recipe.digest()), parent.hash),
        };
        Ok(Child { settings, recipe, hash, is_lr_scaled })
    }

    /// The settings of a child: of a parameter that varied, what is run.
    #[must_use]
    pub fn settings(&self, parent: &Settings, point: Settings) -> Settings {
        let mut settings = parent.clone();
        for (key, value) in &mut settings {
            if let Some(set) = self.set.get(key) {
                value.clone_from(set);
            }
        }
        settings.extend(point);
        settings
    }

    /// What a stage after this one finds as its base.
    pub(crate) fn base_after(&self) -> Settings {
        let mut base = self.base.clone();
        base.extend(self.set.clone());
        base
    }
}

impl Opening {
    /// Why this opening would not only add to what `old` chooses and makes. `axes`: what configurations may set by now,
    /// which was in `base` before perhaps.
    #[must_use]
    pub fn differences(&self, old: &Opening, axes: &[String]) -> Vec<String> {
        let mut found = Vec::new();
        let mut note = |differs: bool, what: String| {
            if differs {
                found.push(what);
            }
        };
        note(self.best < old.best, format!("`best` is {}, and was {}", self.best, old.best));
        note(self.per != old.per, "`per` differs".to_owned());
        note(self.allow_stopped != old.allow_stopped, "`allow_stopped` differs".to_owned());
        note(self.start != old.start, "`start` differs".to_owned());
        let keys = |a: &Settings, b: &Settings| -> std::collections::BTreeSet<String> {
            let differs = |(key, value): (&String, &Value)| {
                (!b.get(key).is_some_and(|other| other.same(value))).then(|| key.clone())
            };
            a.iter().filter_map(differs).collect()
        };
        for key in keys(&old.set, &self.set).union(&keys(&self.set, &old.set)) {
            note(true, format!("`{key}` of the stage itself differs"));
        }
        for key in keys(&old.base, &self.base).iter().filter(|key| !axes.contains(key)) {
            note(true, format!("`{key}` differs in `base` or in a stage before"));
        }
        for point in old.points() {
            let is_there = self.points().any(|other| value::canonical(&other) == value::canonical(&point));
            note(
                !is_there,
                format!("its axes have no {} any more", value::canonical(&point).unwrap_or_default()),
            );
        }
        found
    }
}

/// The values that a configuration has of these keys.
pub(crate) fn key(keys: &[String], settings: &Settings, base: &Settings, block: Option<&str>) -> Settings {
    let value = |key: &str| match key {
        BLOCK => block.map_or(Value::Null, |block| Value::String(block.to_owned())),
        _ => settings.get(key).or_else(|| base.get(key)).cloned().unwrap_or(Value::Null),
    };
    keys.iter().map(|key| (key.clone(), value(key))).collect()
}

/// The hash of a configuration that starts from what another has tuned.
pub(crate) fn started(recipe: &str, parent: &str) -> String {
    hex(&Sha256::digest(format!("{START_TAG}\n{recipe}\n{parent}")))
}

/// A recipe from layers, the learning rate scaled by the batch size if it is so written.
pub(crate) fn resolve(layers: &[&Settings], is_lr_scaled: bool) -> Result<Recipe, RecipeError> {
    let source = Source { layers };
    let factor = if is_lr_scaled { batch_size(source) / 256.0 } else { 1.0 };
    Recipe::resolve(source, factor)
}

/// The batch size as far as it can be read here; a wrong one is reported by the recipe itself.
#[expect(clippy::cast_precision_loss, reason = "no batch size is beyond 2^53")]
fn batch_size(source: Source<'_>) -> f64 {
    match source.get("batch_size") {
        Some(Value::Int(i)) => *i as f64,
        Some(Value::Float(x)) => *x,
        _ => f64::from(DEFAULT_BATCH_SIZE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(best: u32) -> Opening {
        Opening {
            best,
            per: vec!["task".to_owned(), BLOCK.to_owned()],
            allow_stopped: false,
            start: Start::Fresh,
            base: Settings::from([("task".to_owned(), Value::String("t".to_owned()))]),
            set: Settings::new(),
            dims: Vec::new(),
        }
    }

    fn candidate(number: u64, lr: f64, scores: &[Option<f64>]) -> Candidate {
        Candidate { number, lr, scores: scores.to_vec(), is_stopped: false }
    }

    #[test]
    fn ties_go_to_the_smaller_rate_and_then_to_the_order_of_the_file() {
        let scored = |number, lr, score| candidate(number, lr, &[Some(score)]);
        let candidates =
            [scored(1, 5.0, 70.0), scored(2, 0.5, 70.0), scored(3, 0.5, 70.0), scored(4, 9.0, 60.0)];
        assert_eq!(opening(1).choose(&candidates, Goal::Maximize), [1]);
        assert_eq!(opening(9).choose(&candidates, Goal::Maximize), [1, 2, 0, 3]);
        assert_eq!(opening(2).choose(&candidates, Goal::Minimize), [3, 1]);
    }

    #[test]
    fn what_has_no_score_is_never_chosen_and_what_has_gaps_comes_last() {
        let candidates = [
            candidate(1, 1.0, &[None, None]),
            candidate(2, 1.0, &[Some(99.0), None]),
            candidate(3, 1.0, &[Some(50.0), Some(52.0)]),
            Candidate { is_stopped: true, ..candidate(4, 1.0, &[Some(98.0), Some(98.0)]) },
        ];
        assert_eq!(opening(9).choose(&candidates, Goal::Maximize), [2, 1]);
        let lenient = Opening { allow_stopped: true, ..opening(1) };
        assert_eq!(lenient.choose(&candidates, Goal::Maximize), [3]);
        assert!(opening(1).choose(&candidates[..1], Goal::Maximize).is_empty());
    }

    #[test]
    fn a_group_is_told_by_the_values_of_its_configurations() {
        let settings = |json: &str| serde_json::from_str::<Settings>(json).unwrap();
        let opening = opening(1);
        assert_eq!(opening.key(&settings(r#"{"lr": 1}"#), Some("deep")), r#"{"block":"deep","task":"t"}"#);
        assert_eq!(opening.key(&settings(r#"{"task": "u"}"#), None), r#"{"block":null,"task":"u"}"#);
        let per_lr = Opening { per: vec!["lr".to_owned()], ..opening };
        assert_eq!(
            per_lr.key(&settings(r#"{"lr": 1.0}"#), None),
            per_lr.key(&settings(r#"{"lr": 1}"#), None)
        );
    }

    #[test]
    fn children_are_told_apart_by_what_they_start_from() {
        let settings = serde_json::from_str(r#"{"backbone": "b", "method": "linear", "lr": 1}"#).unwrap();
        let parent = |hash| Parent { settings: &settings, hash, is_lr_scaled: true };
        let fresh = opening(1);
        let hash = |opening: &Opening, parent| opening.children(parent).unwrap()[0].hash.clone();
        assert_eq!(hash(&fresh, parent("x")), hash(&fresh, parent("y")));
        let continued = Opening { start: Start::Artifact, ..fresh };
        assert_ne!(hash(&continued, parent("x")), hash(&continued, parent("y")));
    }

    #[test]
    fn the_rate_is_scaled_by_the_batch_of_the_stage_unless_the_stage_sets_it() {
        let settings = serde_json::from_str(r#"{"backbone": "b", "method": "linear", "lr": 1}"#).unwrap();
        let parent = Parent { settings: &settings, hash: "", is_lr_scaled: true };
        let with = |json: &str| Opening { set: serde_json::from_str(json).unwrap(), ..opening(1) };
        let child = |opening: Opening| opening.children(parent).unwrap().remove(0);
        assert_eq!(child(with(r#"{"batch_size": 512}"#)).recipe.lr, 2.0);
        let set = child(with(r#"{"batch_size": 512, "lr": 3}"#));
        assert_eq!((set.recipe.lr, &set.settings["lr"]), (3.0, &Value::Int(3)));
    }
}
