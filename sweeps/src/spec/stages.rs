//! `stages` as written: each checked by itself. What depends on the expanded space is in `plan_stages`.

use std::sync::Arc;

use super::axes;
use super::fields::{Problems, Section, join};
use super::sections;
use crate::recipe;
use crate::space::{Choices, Dim, Layer, Place, Space, is_test_split};
use crate::stage::{BLOCK, FromStage, Opening, Rows, Stage, Start, TUNE};
use crate::value::Value;
use crate::yaml::{Entry, Kind, Node};

const STAGE: &[&str] = &["name", "from", "start", "split", "set", "axes", "zip", "replicates"];
const FROM: &[&str] = &["stage", "best", "per", "allow_stopped"];
/// The most points of a later stage's own axes.
pub(super) const MAX_POINTS: u64 = 100_000;

/// A stage and where its parts were written. Its groups are not known yet.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) stage: Stage,
    pub(super) place: Place,
    pub(super) set: Layer,
    pub(super) dims: Vec<Arc<Dim>>,
}

/// Reads the stages; `split` and `set` of the first go into the space, which it runs.
pub(super) fn read(
    top: &Section<'_>,
    space: &mut Space,
    seeds: &[i64],
    problems: &mut Problems<'_>,
) -> Vec<Written> {
    let nowhere = Place { at: top.at, path: String::new() };
    let Some(items) = top.get("stages").and_then(|field| field.list("a list of stages", problems)) else {
        let stage = Stage { name: TUNE.into(), seeds: seeds.to_vec(), from: None, is_scored_on_test: false };
        return vec![Written {
            stage,
            set: Layer::new(nowhere.clone(), &[]),
            place: nowhere,
            dims: Vec::new(),
        }];
    };
    let mut written: Vec<Written> = Vec::new();
    for (index, field) in items.into_iter().enumerate() {
        let Some(section) = field.section(STAGE, problems) else { continue };
        let Some(name) = section.require("name", problems).and_then(|field| field.name(problems)) else {
            continue;
        };
        if written.iter().any(|other| *other.stage.name == name) {
            let message = format!("another stage is called `{name}`: rename one");
            problems.error(section.at, &join(&section.path, "name"), message);
        }
        let place = Place { at: section.at, path: section.path.clone() };
        let set = set(&section, problems);
        let seeds = sections::seeds(&section, seeds, problems);
        let mut stage = Stage { name: name.into(), seeds, from: None, is_scored_on_test: false };
        let mut dims = Vec::new();
        if index == 0 {
            first(&section, &set, space, problems);
        } else {
            dims = axes::dims(&section, true, problems);
            axes::check_unique(&set, &dims, "keep one of them", problems);
            stage.from = from(&section, &set, &dims, space, &written, problems);
        }
        written.push(Written { stage, place, set, dims });
    }
    written
}

/// The first stage runs the file's axes: it may only change what they have in common.
fn first(section: &Section<'_>, set: &Layer, space: &mut Space, problems: &mut Problems<'_>) {
    for key in ["from", "start", "axes", "zip"] {
        if let Some(field) = section.get(key) {
            let message =
                format!("the first stage runs the axes of the file: `{key}` is for the stages after it");
            field.error(problems, message);
        }
    }
    for block in &space.blocks {
        axes::check_unique(set, &block.dims, "leave it out here", problems);
    }
    space.set = set.clone();
}

impl Written {
    /// Where `split` or `set` holds a key.
    pub(super) fn find(&self, key: &str, field: Option<&str>, wants_key: bool) -> Option<Place> {
        let place = self.set.find(key, field, wants_key)?;
        let path = if key == "split" { join(&self.place.path, key) } else { place.path };
        Some(Place { path, ..place })
    }
}

/// `split` and `set` of a stage, as one layer.
fn set(section: &Section<'_>, problems: &mut Problems<'_>) -> Layer {
    let place = Place { at: section.at, path: join(&section.path, "set") };
    let mut entries: Vec<Entry> = Vec::new();
    if let Some(entry) = section.entries.iter().find(|entry| entry.key == "split") {
        entries.push(Entry { value: split(&entry.value), ..entry.clone() });
    }
    if let Some(field) = section.get("set")
        && let Some(layer) = axes::layer(&field, problems)
    {
        if let Some(place) = layer.find("split", None, true) {
            problems.error(place.at, &place.path, "is a key of the stage itself: write it beside `set`");
        }
        entries.extend(layer.entries);
    }
    Layer::new(place, &entries)
}

/// A stage's split tests on nothing but what it names. Who is scored on test images each epoch tests on them too.
fn split(node: &Node) -> Node {
    let Kind::Map(entries) = &node.kind else { return node.clone() };
    let eval = entries.iter().find(|entry| entry.key == "eval").map(|entry| &entry.value.kind);
    let test = match eval {
        Some(Kind::Scalar(Value::String(eval))) if is_test_split(eval) => Value::String(eval.clone()),
        _ => Value::Null,
    };
    let mut entries = entries.clone();
    if entries.iter().all(|entry| entry.key != "test") {
        let value = Node { at: node.at, kind: Kind::Scalar(test) };
        entries.push(Entry { key: "test".to_owned(), at: node.at, value });
    }
    Node { at: node.at, kind: Kind::Map(entries) }
}

fn from(
    section: &Section<'_>,
    set: &Layer,
    dims: &[Arc<Dim>],
    space: &Space,
    earlier: &[Written],
    problems: &mut Problems<'_>,
) -> Option<FromStage> {
    let from = section.require("from", problems)?.section(FROM, problems)?;
    let stage = parent(&from, earlier, problems);
    let best = from.get("best").and_then(|field| field.u32(1..=1_000_000, problems)).unwrap_or(1);
    let starts = [("fresh", Start::Fresh), ("artifact", Start::Artifact)];
    let start =
        section.get("start").and_then(|field| field.choice(&starts, problems)).unwrap_or(Start::Fresh);
    let allow_stopped = from.get("allow_stopped").and_then(|field| field.bool(problems)).unwrap_or(false);
    let stage = stage?;
    let per = per(&from, space, &earlier[stage], problems);
    let base = match &earlier[stage].stage.from {
        Some(from) => from.opening.base_after(),
        None => space
            .base
            .settings
            .iter()
            .chain(&space.set.settings)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
    };
    let points = dims.iter().try_fold(1_u64, |product, dim| product.checked_mul(dim.len()?));
    if points.is_none_or(|points| points > MAX_POINTS) {
        let message = format!("its axes have more than {MAX_POINTS} points: use fewer values");
        problems.error(section.at, &section.path, message);
        return None;
    }
    let dims = dims.iter().map(|dim| rows(dim)).collect();
    let opening = Opening { best, per, allow_stopped, start, base, set: set.settings.clone(), dims };
    Some(FromStage { stage, opening, groups: Vec::new() })
}

/// The index of the stage that `from` names.
fn parent(from: &Section<'_>, earlier: &[Written], problems: &mut Problems<'_>) -> Option<usize> {
    let field = from.require("stage", problems)?;
    let name = field.string("the name of an earlier stage", problems)?;
    let index = earlier.iter().position(|written| *written.stage.name == *name);
    if index.is_none() {
        let names: Vec<&str> = earlier.iter().map(|written| &*written.stage.name).collect();
        let message = format!("`{name}` is no stage before this one: use {}", recipe::list(&names));
        field.error(problems, message);
    }
    index
}

/// The keys that part the configurations of `parent` into groups, each known before anything has run.
fn per(from: &Section<'_>, space: &Space, parent: &Written, problems: &mut Problems<'_>) -> Vec<String> {
    let Some(items) = from.get("per").and_then(|field| field.list("a list of axes", problems)) else {
        return Vec::new();
    };
    let mut known = match (&parent.stage.from, &space.per) {
        (None, None) => axes::varied_keys(space, &[]),
        // What else a configuration has is not known before it is chosen.
        (None, Some(per)) => per.clone(),
        (Some(from), _) => from.opening.per.clone(),
    };
    known.extend(parent.dims.iter().flat_map(|dim| dim.keys.iter().map(|(key, _)| key.clone())));
    if parent.stage.from.is_none()
        && space.per.is_none()
        && space.blocks.iter().any(|block| block.name.is_some())
    {
        known.push(BLOCK.to_owned());
    }
    let mut per: Vec<String> = Vec::new();
    for item in items {
        let Some(key) = item.string("the name of an axis", problems) else { continue };
        if per.iter().any(|other| other == key) {
            item.error(problems, format!("`{key}` is listed twice"));
        } else if known.iter().any(|known| known == key) {
            per.push(key.to_owned());
        } else {
            let is_chosen = parent.stage.from.is_none() && space.per.is_some();
            let is_axis = key == BLOCK || axes::varied_keys(space, &[]).iter().any(|axis| axis == key);
            if is_chosen && is_axis {
                let message =
                    format!("`{key}` is chosen as results come in: name it in `search.per` as well");
                item.error(problems, message);
            } else {
                item.error(problems, no_axis(key, &known, parent));
            }
        }
    }
    per
}

fn no_axis(key: &str, known: &[String], parent: &Written) -> String {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let name = &parent.stage.name;
    if known.is_empty() {
        format!("`{key}` is no axis of stage `{name}`, which has none: leave `per` out")
    } else if recipe::is_key(key) && parent.stage.from.is_some() {
        format!(
            "what `{key}` is, is not known before stage `{name}` has chosen: use {}",
            recipe::list(&known)
        )
    } else {
        format!("`{key}` is no axis of stage `{name}`: use {}", recipe::list(&known))
    }
}

fn rows(dim: &Dim) -> Rows {
    let rows = match &dim.choices {
        Choices::Rows(rows) => {
            rows.iter().map(|row| row.iter().map(|(value, _)| value.clone()).collect()).collect()
        }
        Choices::Range(range) => {
            (0..range.len().unwrap_or(0)).map(|index| vec![range.value(index)]).collect()
        }
    };
    let keys = dim.keys.iter().map(|(key, _)| key.clone()).collect();
    Rows { keys, rows, is_scaled: dim.is_scaled }
}
