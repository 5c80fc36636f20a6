//! `search`: the sampler, and of one that chooses while results come in, the studies that it makes of the space.

use std::collections::HashMap;
use std::sync::Arc;

use super::fields::{Field, Problems, Section, join};
use super::{Order, Sampler, Search, axes};
use crate::recipe;
use crate::space::{Block, Choices, Dim, Space};
use crate::stage::{self, BLOCK};
use crate::study::{Adaptive, Algorithm, Arm, Axis, Scale, Studies, Study, Values};
use crate::value::{self, Settings, Value};
use crate::yaml::Kind;

const KEYS: &[&str] = &["sampler", "order", "seed", "trials", "startup", "per"];
/// The sequence has 2¹⁶ points.
const MAX_SOBOL: u32 = 1 << 16;
/// Of each study: what is known grows with it, and so does the time that a suggestion takes.
const MAX_STUDY: u32 = 10_000;
const MAX_STUDIES: usize = 10_000;
/// As Optuna's.
const STARTUP: u32 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Grid,
    Random,
    Sobol,
    Adaptive(Algorithm),
}

const NAMES: &[(&str, Name)] = &[
    ("grid", Name::Grid),
    ("random", Name::Random),
    ("sobol", Name::Sobol),
    ("tpe", Name::Adaptive(Algorithm::Tpe)),
    ("cma_es", Name::Adaptive(Algorithm::CmaEs)),
];

/// The search, and whether its sampler was understood.
pub(super) fn read(top: &Section<'_>, problems: &mut Problems<'_>) -> (Search, bool) {
    let mut search = Search { sampler: Sampler::Grid, order: Order::Shuffled, seed: 0 };
    let Some(field) = top.get("search") else { return (search, true) };
    let Some(section) = field.section(KEYS, problems) else { return (search, false) };
    let name = section.get("sampler").map_or(Some(Name::Grid), |field| field.choice(NAMES, problems));
    if let Some(sampler) = name.and_then(|name| sampler(name, &section, problems)) {
        search.sampler = sampler;
    }
    for (key, is_read, readers) in [
        ("startup", matches!(name, Some(Name::Adaptive(Algorithm::Tpe)) | None), "`tpe`"),
        ("per", matches!(name, Some(Name::Adaptive(_)) | None), "`tpe` and `cma_es`"),
        ("order", !matches!(name, Some(Name::Adaptive(_))), "`grid`, `random` and `sobol`"),
    ] {
        if let Some(field) = section.get(key).filter(|_| !is_read) {
            field.error(problems, format!("is for {readers} only: leave it out"));
        }
    }
    let orders = [("shuffled", Order::Shuffled), ("as_written", Order::AsWritten)];
    if let Some(order) = section.get("order").and_then(|field| field.choice(&orders, problems)) {
        search.order = order;
    }
    let seed = section.get("seed").and_then(|field| field.integer(0..=i64::MAX, problems));
    search.seed = seed.and_then(|seed| u64::try_from(seed).ok()).unwrap_or(0);
    (search, name == Some(Name::Grid))
}

fn sampler(name: Name, section: &Section<'_>, problems: &mut Problems<'_>) -> Option<Sampler> {
    let trials = section.get("trials");
    if name == Name::Grid {
        if let Some(trials) = trials {
            trials.error(problems, "is for every sampler but `grid`: a grid runs all of its points");
        }
        return Some(Sampler::Grid);
    }
    let Some(trials) = trials else {
        let known = NAMES.iter().find(|(_, other)| *other == name).map_or("", |(name, _)| name);
        let message = format!("is required by `sampler: {known}`: the number of configurations to draw");
        problems.error(section.at, &join(&section.path, "trials"), message);
        return None;
    };
    Some(match name {
        Name::Grid => Sampler::Grid,
        Name::Random => Sampler::Random { configurations: trials.u32(1..=1_000_000, problems)? },
        Name::Sobol => Sampler::Sobol { configurations: trials.u32(1..=MAX_SOBOL, problems)? },
        Name::Adaptive(algorithm) => {
            let startup = section.get("startup").map_or(Some(STARTUP), |f| f.u32(1..=MAX_STUDY, problems));
            let configurations = trials.u32(1..=MAX_STUDY, problems)?;
            // The strategy's first generation is its start.
            let startup = if algorithm == Algorithm::CmaEs { 0 } else { startup? };
            Sampler::Adaptive { algorithm, configurations, startup }
        }
    })
}

/// What tells studies apart; `None`: the sampler does not choose while results come in.
pub(super) fn per(
    top: &Section<'_>,
    sampler: Sampler,
    space: &Space,
    problems: &mut Problems<'_>,
) -> Option<Vec<String>> {
    let Sampler::Adaptive { .. } = sampler else { return None };
    let Some(items) = section(top)?.get("per").and_then(|field| field.list("a list of axes", problems))
    else {
        return Some(Vec::new());
    };
    let mut known = axes::varied_keys(space, &[]);
    if space.blocks.iter().any(|block| block.name.is_some()) {
        known.push(BLOCK.to_owned());
    }
    let mut per: Vec<String> = Vec::new();
    for item in items {
        let Some(key) = item.string("the name of an axis", problems) else { continue };
        if per.iter().any(|other| other == key) {
            item.error(problems, format!("`{key}` is listed twice"));
        } else if !known.iter().any(|known| known == key) {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            item.error(problems, format!("`{key}` is no axis of the file: use {}", recipe::list(&known)));
        } else if space.blocks.iter().any(|block| has_endless(block, key)) {
            item.error(problems, format!("the axis `{key}` has no list of values: give it `num` or `step`"));
        } else {
            per.push(key.to_owned());
        }
    }
    Some(per)
}

/// The section `search`, which has been checked already.
fn section<'n>(top: &Section<'n>) -> Option<Section<'n>> {
    let Field { node, path } = top.get("search")?;
    let Kind::Map(entries) = &node.kind else { return None };
    Some(Section { at: node.at, path, entries })
}

fn has_endless(block: &Block, key: &str) -> bool {
    block.dims.iter().any(|dim| is_of(dim, key) && dim.len().is_none())
}

fn is_of(dim: &Dim, key: &str) -> bool {
    dim.keys.iter().any(|(name, _)| name == key)
}

/// The studies of a sampler that chooses while results come in.
pub(super) fn studies(
    top: &Section<'_>,
    search: Search,
    space: &Space,
    problems: &mut Problems<'_>,
) -> Option<Studies> {
    let Sampler::Adaptive { algorithm, configurations, startup } = search.sampler else { return None };
    let per = space.per.clone().filter(|_| problems.is_empty())?;
    let section = section(top)?;
    let mut base = space.base.settings.clone();
    base.extend(space.set.settings.clone());
    let mut builder = Builder {
        per: &per,
        base: &base,
        axes: Vec::new(),
        places: HashMap::new(),
        list: Vec::new(),
        known: HashMap::new(),
    };
    for block in &space.blocks {
        if !builder.block(block) {
            let message = format!("makes more than {MAX_STUDIES} studies: name fewer axes");
            problems.error(section.at, &join(&section.path, "per"), message);
            return None;
        }
    }
    let (axes, list) = (builder.axes, builder.list);
    let exclude = space.exclude.iter().map(|layer| layer.settings.clone()).collect();
    let adaptive =
        Adaptive { algorithm, trials: configurations, startup, seed: search.seed, per, base, exclude, axes };
    let studies = Studies { adaptive, list };
    check(&studies, &section, problems);
    remark(&studies, problems);
    Some(studies)
}

struct Builder<'a> {
    per: &'a [String],
    base: &'a Settings,
    axes: Vec<Axis>,
    /// Indices of axes, by the address of their dimension: blocks share those of the file.
    places: HashMap<*const Dim, usize>,
    list: Vec<Study>,
    /// Indices of studies by their keys.
    known: HashMap<String, usize>,
}

impl Builder<'_> {
    /// Adds a block as an arm of each of its studies; whether there are not too many.
    fn block(&mut self, block: &Block) -> bool {
        let is_fixed = |dim: &Dim| self.per.iter().any(|key| is_of(dim, key));
        let fixed: Vec<&Dim> = block.dims.iter().map(|dim| &**dim).filter(|dim| is_fixed(dim)).collect();
        let points = fixed.iter().try_fold(1_u64, |product, dim| product.checked_mul(dim.len()?));
        let Some(points) = points.filter(|points| *points <= MAX_STUDIES as u64) else { return false };
        let free: Vec<usize> =
            block.dims.iter().filter(|dim| !is_fixed(dim)).map(|dim| self.axis(dim)).collect();
        for index in 0..points {
            let mut set = block.set.settings.clone();
            let mut rest = index;
            for dim in fixed.iter().rev() {
                let len = dim.len().unwrap_or(1);
                dim.insert(rest % len, &mut set);
                rest /= len;
            }
            let name = block.name.as_deref();
            let key = value::canonical(&stage::key(self.per, &set, self.base, name));
            let key = key.expect("the numbers of a sweep file are finite");
            let block = name.map(str::to_owned);
            let arm = Arm { block, set, is_lr_scaled: self.is_lr_scaled(&fixed, &free), axes: free.clone() };
            let place = *self.known.entry(key).or_insert_with_key(|key| {
                self.list.push(Study { key: key.clone(), arms: Vec::new() });
                self.list.len() - 1
            });
            self.list[place].arms.push(arm);
        }
        self.list.len() <= MAX_STUDIES
    }

    fn is_lr_scaled(&self, fixed: &[&Dim], free: &[usize]) -> bool {
        fixed.iter().any(|dim| dim.is_scaled) || free.iter().any(|axis| self.axes[*axis].is_scaled)
    }

    fn axis(&mut self, dim: &Arc<Dim>) -> usize {
        *self.places.entry(Arc::as_ptr(dim)).or_insert_with(|| {
            self.axes.push(Axis::of(dim));
            self.axes.len() - 1
        })
    }
}

impl Axis {
    fn of(dim: &Dim) -> Axis {
        let keys = dim.keys.iter().map(|(key, _)| key.clone()).collect();
        let values = match &dim.choices {
            Choices::Range(range) => Values::Range(*range),
            Choices::Rows(rows) => {
                let rows: Vec<Vec<Value>> =
                    rows.iter().map(|row| row.iter().map(|(value, _)| value.clone()).collect()).collect();
                numbers(&rows).map_or(Values::Rows(rows), Values::Numbers)
            }
        };
        Axis { keys, values, is_scaled: dim.is_scaled }
    }
}

/// The rows in ascending order, if each is a number: then neighbours are alike.
fn numbers(rows: &[Vec<Value>]) -> Option<Vec<Value>> {
    #[expect(clippy::cast_precision_loss, reason = "only to be compared")]
    let number = |row: &Vec<Value>| match row.as_slice() {
        [Value::Int(i)] => Some((*i as f64, row[0].clone())),
        [Value::Float(x)] => Some((*x, row[0].clone())),
        _ => None,
    };
    let mut numbers: Vec<(f64, Value)> = rows.iter().map(number).collect::<Option<_>>()?;
    numbers.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    Some(numbers.into_iter().map(|(_, value)| value).collect())
}

/// Whether the sampler can do the spaces of its studies.
fn check(studies: &Studies, section: &Section<'_>, problems: &mut Problems<'_>) {
    let Studies { adaptive, list } = studies;
    let sampler = section.get("sampler").expect("a sampler that was named");
    for study in list {
        if let Some(count) = study.len(adaptive).filter(|count| *count < adaptive.trials.into()) {
            let of = if adaptive.per.is_empty() { String::new() } else { format!(" of {}", study.key) };
            let message =
                format!("asks for {} configurations{of}, and there are {count}: use `grid`", adaptive.trials);
            section.get("trials").unwrap_or(sampler.clone()).error(problems, message);
            return;
        }
        if adaptive.algorithm == Algorithm::CmaEs {
            if study.arms.len() > 1 {
                sampler.error(
                    problems,
                    "`cma_es` cannot choose among blocks: use `tpe`, or put `block` into `search.per`",
                );
                return;
            }
            let of_no_numbers =
                |axis: &&usize| matches!(adaptive.axes[**axis].scale(), Scale::Unordered(count) if count > 1);
            if let Some(axis) = study.arms[0].axes.iter().find(of_no_numbers) {
                let keys = adaptive.axes[*axis].keys.join("`, `");
                let message = format!(
                    "`cma_es` walks along numbers, and `{keys}` has other values: use `tpe`, or put it into `search.per`"
                );
                sampler.error(problems, message);
                return;
            }
        }
    }
}

/// Whether each study has something to run.
pub(super) fn check_examples(top: &Section<'_>, space: &Space, problems: &mut Problems<'_>) {
    let (Some(Studies { adaptive, list }), Some(search)) = (&space.studies, section(top)) else { return };
    if let Some(study) = list.iter().find(|study| adaptive.examples(study).is_empty()) {
        let message = format!("nothing of {} can be run: `exclude` leaves nothing of it", study.key);
        problems.error(search.at, &join(&search.path, "per"), message);
    }
}

/// What is allowed but probably not meant.
fn remark(studies: &Studies, problems: &mut Problems<'_>) {
    let Studies { adaptive, list } = studies;
    let axes = list.iter().flat_map(|study| &study.arms).flat_map(|arm| &arm.axes);
    if axes.flat_map(|axis| &adaptive.axes[*axis].keys).any(|key| key == "task") {
        problems.warnings.push(
            "search: the sampler compares the scores of different tasks: `per: [task]` gives each its own"
                .to_owned(),
        );
    }
}
