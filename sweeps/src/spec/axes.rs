//! The parts of a sweep file that span its space: `base`, `axes`, `zip`, `blocks`, `exclude`, `include`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::fields::{Field, Problems, Section, join};
use super::stages::Written;
use crate::recipe::{self, KEYS};
use crate::space::{Block, Choices, Dim, Facts, Layer, Place, Points, Range, Space};
use crate::value::{self, Value};
use crate::yaml::Mark;

const AXIS: &[&str] = &["values", "range", "scaled_by"];
const RANGE: &[&str] = &["min", "max", "num", "step", "scale", "type"];
const SCALING: &str = "batch_size/256";

/// Decodes the space. What it returns is complete only if no problem was noted.
pub(super) fn space(file: &Section<'_>, is_grid: bool, problems: &mut Problems<'_>) -> Space {
    let nowhere = Place { at: file.at, path: String::new() };
    let base = match file.get("base") {
        Some(field) => layer(&field, problems),
        None => None,
    };
    let dims = dims(file, is_grid, problems);
    let has_dims = !dims.is_empty();
    let blocks_field = file.get("blocks");
    let include = layers(file.get("include"), problems);
    let blocks = match &blocks_field {
        Some(field) => blocks(field, &dims, is_grid, problems),
        // A file of nothing but `include` is a list of configurations.
        None if !has_dims && !include.is_empty() => Vec::new(),
        None => {
            let place = |key: &str| file.get(key).map(|field| Place { at: field.node.at, path: field.path });
            let place = place("axes").or_else(|| place("zip")).or_else(|| place("base"));
            let set = Layer::new(nowhere.clone(), &[]);
            vec![Block { name: None, place: place.unwrap_or_else(|| nowhere.clone()), set, dims }]
        }
    };
    Space {
        base: base.unwrap_or_else(|| Layer::new(nowhere.clone(), &[])),
        set: Layer::new(nowhere, &[]),
        blocks,
        exclude: layers(file.get("exclude"), problems),
        include,
        per: None,
        studies: None,
        points: Vec::new(),
        samples: Vec::new(),
        facts: Facts::default(),
    }
}

/// The keys that configurations set beyond `base` and the `set` of stages, in the order of the file.
pub(super) fn varied_keys(space: &Space, stages: &[Written]) -> Vec<String> {
    let of_block = |block: &Block| {
        let dims =
            block.dims.iter().flat_map(|dim| dim.keys.iter().map(|(key, place)| (place.at, key.clone())));
        dims.chain(of_layer(&block.set)).collect::<Vec<_>>()
    };
    fn of_layer(layer: &Layer) -> impl Iterator<Item = (Mark, String)> {
        layer.entries.iter().map(|entry| (entry.at, entry.key.clone()))
    }
    let mut keys: Vec<(Mark, String)> = space.blocks.iter().flat_map(of_block).collect();
    keys.extend(space.include.iter().flat_map(of_layer));
    let of_stages = stages.iter().flat_map(|stage| &stage.dims).flat_map(|dim| &dim.keys);
    keys.extend(of_stages.map(|(key, place)| (place.at, key.clone())));
    keys.sort();
    let mut seen = HashSet::new();
    keys.into_iter().map(|(_, key)| key).filter(|key| seen.insert(key.clone())).collect()
}

pub(super) fn layers(field: Option<Field<'_>>, problems: &mut Problems<'_>) -> Vec<Layer> {
    let Some(items) = field.and_then(|field| field.list("a list of maps", problems)) else {
        return Vec::new();
    };
    items.iter().filter_map(|item| layer(item, problems)).collect()
}

pub(super) fn layer(field: &Field<'_>, problems: &mut Problems<'_>) -> Option<Layer> {
    let section = field.entries("a map of parameters", problems)?;
    for entry in section.entries {
        check_key(&section, &entry.key, entry.at, problems);
    }
    Some(Layer::new(Place { at: field.node.at, path: field.path.clone() }, section.entries))
}

fn check_key(section: &Section<'_>, key: &str, at: Mark, problems: &mut Problems<'_>) -> bool {
    let is_known = recipe::is_key(key);
    if !is_known {
        let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        problems.error(at, &join(&section.path, key), recipe::unknown("key", key, &known));
    }
    is_known
}

fn blocks(field: &Field<'_>, shared: &[Arc<Dim>], is_grid: bool, problems: &mut Problems<'_>) -> Vec<Block> {
    let Some(items) = field.list("a list of blocks", problems) else { return Vec::new() };
    let mut names = HashMap::new();
    let mut blocks = Vec::new();
    for item in items {
        let Some(section) = item.section(&["name", "set", "axes", "zip"], problems) else { continue };
        let Some(name_field) = section.require("name", problems) else { continue };
        let Some(name) = name_field.name(problems) else { continue };
        if let Some(line) = names.insert(name.clone(), name_field.node.at.line) {
            name_field
                .error(problems, format!("another block of line {line} is called `{name}`: rename one"));
        }
        let place = Place { at: item.node.at, path: item.path.clone() };
        let set = match section.get("set") {
            Some(field) => layer(&field, problems),
            None => Some(Layer::new(place.clone(), &[])),
        };
        let mut all = shared.to_vec();
        all.extend(dims(&section, is_grid, problems));
        let Some(set) = set else { continue };
        check_unique(&set, &all, "move that axis into the blocks that vary it", problems);
        blocks.push(Block { name: Some(name.into()), place, set, dims: all });
    }
    blocks
}

/// Within a block, every key is set once: what it should be otherwise nobody could tell. `mend` is for a key that is
/// both set and an axis.
pub(super) fn check_unique(set: &Layer, dims: &[Arc<Dim>], mend: &str, problems: &mut Problems<'_>) {
    let mut seen: HashMap<&str, &Place> = HashMap::new();
    for (key, place) in dims.iter().flat_map(|dim| &dim.keys) {
        if let Some(first) = seen.insert(key, place) {
            let message = format!("`{key}` is an axis already at `{}` (line {})", first.path, first.at.line);
            problems.error(place.at, &place.path, format!("{message}: keep one of them"));
        }
    }
    for entry in &set.entries {
        if let Some(first) = seen.get(entry.key.as_str()) {
            let message =
                format!("`{}` is an axis at `{}` (line {}): {mend}", entry.key, first.path, first.at.line);
            problems.error(entry.at, &join(&set.place.path, &entry.key), message);
        }
    }
}

/// The axes and zips of the file or of a block.
pub(super) fn dims(section: &Section<'_>, is_grid: bool, problems: &mut Problems<'_>) -> Vec<Arc<Dim>> {
    let mut dims = Vec::new();
    if let Some(axes) = section.get("axes").and_then(|field| field.entries("a map of axes", problems)) {
        for entry in axes.entries {
            let field = Field { node: &entry.value, path: join(&axes.path, &entry.key) };
            if check_key(&axes, &entry.key, entry.at, problems)
                && let Some((choices, is_scaled)) = axis(&field, &entry.key, is_grid, problems)
            {
                let place = Place { at: entry.at, path: field.path };
                dims.push(Dim { keys: vec![(entry.key.clone(), place)], choices, is_scaled });
            }
        }
    }
    if let Some(groups) = section.get("zip").and_then(|field| field.list("a list of groups", problems)) {
        dims.extend(groups.iter().filter_map(|group| zip(group, problems)));
    }
    let dims: Vec<Arc<Dim>> = dims.into_iter().map(Arc::new).collect();
    if section.path.is_empty() {
        check_unique(&Layer::new(Place { at: section.at, path: String::new() }, &[]), &dims, "", problems);
    }
    dims
}

fn axis(field: &Field<'_>, key: &str, is_grid: bool, problems: &mut Problems<'_>) -> Option<(Choices, bool)> {
    if let Value::List(_) = field.node.to_value() {
        field.error(problems, format!("an axis is a map: write `{key}: {{values: [...]}}`"));
        return None;
    }
    let section = field.section(AXIS, problems)?;
    let is_scaled = scaled_by(&section, key, problems)?;
    match (section.get("values"), section.get("range")) {
        (Some(values), None) => {
            let values = values.list("a list of values", problems)?;
            let rows = values.into_iter().map(|field| vec![cell(field)]).collect();
            Some((Choices::Rows(rows), is_scaled))
        }
        (None, Some(range_field)) => {
            Some((Choices::Range(range(&range_field, is_grid, problems)?), is_scaled))
        }
        _ => {
            field.error(problems, "needs either `values: [...]` or `range: {min, max, num}`");
            None
        }
    }
}

fn scaled_by(section: &Section<'_>, key: &str, problems: &mut Problems<'_>) -> Option<bool> {
    let Some(field) = section.get("scaled_by") else { return Some(false) };
    if key != "lr" {
        field.error(problems, "only the axis `lr` can be scaled");
        return None;
    }
    if field.string(&format!("`{SCALING}`"), problems)? == SCALING {
        return Some(true);
    }
    field.error(problems, format!("the one scaling there is, is `{SCALING}`"));
    None
}

fn cell(field: Field<'_>) -> (Value, Place) {
    (field.node.to_value(), Place { at: field.node.at, path: field.path })
}

fn zip(group: &Field<'_>, problems: &mut Problems<'_>) -> Option<Dim> {
    let section = group.entries("a map of lists that are walked together", problems)?;
    let mut keys = Vec::new();
    let mut columns = Vec::new();
    for entry in section.entries {
        let field = Field { node: &entry.value, path: join(&section.path, &entry.key) };
        if !check_key(&section, &entry.key, entry.at, problems) {
            continue;
        }
        let column = field.list("a list of values", problems)?;
        keys.push((entry.key.clone(), Place { at: entry.at, path: field.path }));
        columns.push(column);
    }
    let rows = columns.first().map_or(0, Vec::len);
    for (column, (key, place)) in columns.iter().zip(&keys) {
        if column.len() != rows {
            let message = format!("`{key}` has {} values and `{}` has {rows}", column.len(), keys[0].0);
            problems.error(
                place.at,
                &place.path,
                format!("{message}: rows walked together need equal lengths"),
            );
            return None;
        }
    }
    if columns.len() < 2 {
        group.error(problems, "needs two keys or more: one key alone is an axis");
        return None;
    }
    let mut columns: Vec<_> = columns.into_iter().map(Vec::into_iter).collect();
    let rows = (0..rows).map(|_| columns.iter_mut().filter_map(Iterator::next).map(cell).collect());
    Some(Dim { keys, choices: Choices::Rows(rows.collect()), is_scaled: false })
}

fn range(field: &Field<'_>, is_grid: bool, problems: &mut Problems<'_>) -> Option<Range> {
    let section = field.section(RANGE, problems)?;
    let number = |key: &str, problems: &mut Problems<'_>| {
        section.require(key, problems)?.float("a number", |x| x.abs() <= 1e300, problems)
    };
    let (min, max) = (number("min", problems), number("max", problems));
    let (min, max) = (min?, max?);
    let is_log = match section.get("scale") {
        Some(scale) => scale.choice(&[("linear", false), ("log", true)], problems)?,
        None => false,
    };
    let is_int = match section.get("type") {
        Some(kind) => kind.choice(&[("float", false), ("int", true)], problems)?,
        None => false,
    };
    let is_exact = |x: f64| value::integral(x).is_some() && x.abs() <= 9_007_199_254_740_992.0;
    let wrong = if min >= max {
        format!("min is {} and max is {}: min must be less", value::number(min), value::number(max))
    } else if is_log && min <= 0.0 {
        "a log scale needs min > 0: the ends are the values themselves, not exponents".to_owned()
    } else if is_int && !(is_exact(min) && is_exact(max)) {
        "`type: int` needs integers as min and max".to_owned()
    } else {
        let points = points(&section, (min, max), is_log, is_int, problems)?;
        if is_grid && points == Points::All {
            "a grid needs `num` or `step`: every other sampler draws from the whole range".to_owned()
        } else {
            return Some(Range { min, max, is_log, is_int, points });
        }
    };
    field.error(problems, wrong);
    None
}

fn points(
    section: &Section<'_>,
    (min, max): (f64, f64),
    is_log: bool,
    is_int: bool,
    problems: &mut Problems<'_>,
) -> Option<Points> {
    match (section.get("num"), section.get("step")) {
        (None, None) => Some(Points::All),
        (Some(_), Some(step)) => {
            step.error(problems, "`num` and `step` exclude each other: keep one");
            None
        }
        (Some(field), None) => {
            let num = u64::try_from(field.integer(2..=i64::MAX, problems)?).ok()?;
            #[expect(clippy::cast_precision_loss, reason = "compared with a span far below 2^53")]
            if is_int && num as f64 > max - min + 1.0 {
                field.error(problems, format!("there are only {} integers from min to max", max - min + 1.0));
                return None;
            }
            Some(Points::Num(num))
        }
        (None, Some(field)) => {
            if is_log {
                field.error(problems, "`step` is for linear scales: use `num`");
                return None;
            }
            let step = field.float("a number > 0", |x| x > 0.0, problems)?;
            let steps = (max - min) / step;
            // Both ends are included, so the steps must meet max, up to the rounding of decimal fractions.
            if (steps - steps.round()).abs() > 1e-6
                || steps < 0.5
                || (is_int && value::integral(step).is_none())
            {
                field.error(
                    problems,
                    "steps from min must end exactly at max, and be integers for `type: int`",
                );
                return None;
            }
            if steps > 1e15 {
                field.error(problems, "is far too small for this range");
                return None;
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1 and 10^15"
            )]
            let count = steps.round() as u64 + 1;
            Some(Points::Step { step, count })
        }
    }
}
