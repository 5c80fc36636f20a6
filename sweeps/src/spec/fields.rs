//! Typed, strict reading of a node tree: every reader reports what is wrong and goes on, so that one run shows all.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::duration;
use super::error::SpecError;
use crate::recipe;
use crate::value::{self, Value};
use crate::yaml::{Entry, Kind, Mark, Node};

/// More mistakes than these are not shown: mend the first ones.
const MAX_ERRORS: usize = 50;

/// Collects the mistakes and warnings of one file.
pub(crate) struct Problems<'a> {
    file: &'a str,
    overrides: &'a [String],
    found: Vec<(Mark, SpecError)>,
    seen: HashSet<(Mark, String, String)>,
    pub(crate) warnings: Vec<String>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(file: &'a str, overrides: &'a [String]) -> Problems<'a> {
        Problems { file, overrides, found: Vec::new(), seen: HashSet::new(), warnings: Vec::new() }
    }

    /// Notes a mistake; one that was noted already at the same place is dropped.
    pub(crate) fn error(&mut self, at: Mark, path: &str, message: impl Into<String>) {
        self.error_in(None, at, path, message.into());
    }

    /// Notes a mistake that showed in a block; one that was noted already at the same place, whatever the block, is
    /// dropped.
    pub(crate) fn error_in(&mut self, block: Option<&str>, at: Mark, path: &str, mut message: String) {
        if self.is_full() || !self.seen.insert((at, path.to_owned(), message.clone())) {
            return;
        }
        if let Some(name) = block {
            message += &format!(" (in block `{name}`)");
        }
        let text = (at.source as usize).checked_sub(1).and_then(|index| self.overrides.get(index));
        let file = text.map_or_else(|| self.file.to_owned(), |text| format!("--set {text}"));
        let error = SpecError { file, line: at.line, column: at.column, path: path.to_owned(), message };
        self.found.push((at, error));
    }

    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= MAX_ERRORS
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// In the order of the file.
    pub(super) fn into_errors(mut self) -> Vec<SpecError> {
        self.found.sort_by_key(|(at, _)| *at);
        self.found.into_iter().map(|(_, error)| error).collect()
    }
}

/// A value at its path.
#[derive(Debug, Clone)]
pub(super) struct Field<'n> {
    pub(super) node: &'n Node,
    pub(super) path: String,
}

/// A map whose keys are known.
#[derive(Debug, Clone)]
pub(super) struct Section<'n> {
    pub(super) at: Mark,
    pub(super) path: String,
    pub(super) entries: &'n [Entry],
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl<'n> Section<'n> {
    pub(super) fn get(&self, key: &str) -> Option<Field<'n>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(Field { node: &entry.value, path: join(&self.path, key) })
    }

    /// As [`Section::get`]; a missing key is an error.
    pub(super) fn require(&self, key: &str, problems: &mut Problems<'_>) -> Option<Field<'n>> {
        let field = self.get(key);
        if field.is_none() {
            problems.error(self.at, &join(&self.path, key), "is required");
        }
        field
    }
}

impl<'n> Field<'n> {
    pub(super) fn error(&self, problems: &mut Problems<'_>, message: impl Into<String>) {
        problems.error(self.node.at, &self.path, message);
    }

    fn expected<T>(&self, problems: &mut Problems<'_>, what: &str) -> Option<T> {
        let found = self.node.to_value();
        let mend = match &found {
            Value::String(s) if s.parse::<f64>().is_ok() => ": remove the quotes",
            _ => "",
        };
        self.error(problems, format!("must be {what}, found {}{mend}", found.describe()));
        None
    }

    /// The map's entries, whatever their keys.
    pub(super) fn entries(&self, what: &str, problems: &mut Problems<'_>) -> Option<Section<'n>> {
        match &self.node.kind {
            Kind::Map(entries) => Some(Section { at: self.node.at, path: self.path.clone(), entries }),
            _ => self.expected(problems, what),
        }
    }

    /// The map, which may have only the keys `known`.
    pub(super) fn section(&self, known: &[&str], problems: &mut Problems<'_>) -> Option<Section<'n>> {
        let section = self.entries(&format!("a map with the keys {}", recipe::list(known)), problems)?;
        for entry in section.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let message = recipe::unknown("key", &entry.key, known);
            problems.error(entry.at, &join(&self.path, &entry.key), message);
        }
        Some(section)
    }

    pub(super) fn list(&self, what: &str, problems: &mut Problems<'_>) -> Option<Vec<Field<'n>>> {
        match &self.node.kind {
            Kind::List(items) if items.is_empty() => {
                self.error(problems, "is an empty list: write something into it, or leave the key out");
                None
            }
            Kind::List(items) => Some(
                items
                    .iter()
                    .enumerate()
                    .map(|(i, node)| Field { node, path: format!("{}[{i}]", self.path) })
                    .collect(),
            ),
            _ => self.expected(problems, what),
        }
    }

    pub(super) fn is_null(&self) -> bool {
        self.node.kind == Kind::Scalar(Value::Null)
    }

    pub(super) fn string(&self, what: &str, problems: &mut Problems<'_>) -> Option<&'n str> {
        match &self.node.kind {
            Kind::Scalar(Value::String(s)) => Some(s),
            Kind::Scalar(Value::Int(_) | Value::Float(_) | Value::Bool(_)) => {
                self.error(problems, format!("must be {what}: put quotes around it"));
                None
            }
            _ => self.expected(problems, what),
        }
    }

    /// A name that could name a file.
    pub(super) fn name(&self, problems: &mut Problems<'_>) -> Option<String> {
        let name = self.string("a name", problems)?;
        match recipe::check_name(name) {
            Ok(()) => Some(name.to_owned()),
            Err(message) => {
                self.error(problems, message);
                None
            }
        }
    }

    pub(super) fn integer(&self, range: RangeInclusive<i64>, problems: &mut Problems<'_>) -> Option<i64> {
        let int = match &self.node.kind {
            Kind::Scalar(Value::Int(i)) => Some(*i),
            Kind::Scalar(Value::Float(x)) => value::integral(*x),
            _ => None,
        };
        match int.filter(|i| range.contains(i)) {
            Some(int) => Some(int),
            None if *range.end() == i64::MAX => {
                self.expected(problems, &format!("an integer >= {}", range.start()))
            }
            None => self.expected(problems, &format!("an integer from {} to {}", range.start(), range.end())),
        }
    }

    pub(super) fn u32(&self, range: RangeInclusive<u32>, problems: &mut Problems<'_>) -> Option<u32> {
        let wide = i64::from(*range.start())..=i64::from(*range.end());
        self.integer(wide, problems).and_then(|int| u32::try_from(int).ok())
    }

    pub(super) fn bool(&self, problems: &mut Problems<'_>) -> Option<bool> {
        match self.node.kind {
            Kind::Scalar(Value::Bool(b)) => Some(b),
            _ => self.expected(problems, "`true` or `false`"),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a float was asked for, however it was written")]
    pub(super) fn float(
        &self,
        what: &str,
        is_allowed: impl Fn(f64) -> bool,
        problems: &mut Problems<'_>,
    ) -> Option<f64> {
        let float = match &self.node.kind {
            Kind::Scalar(Value::Int(i)) => Some(*i as f64),
            Kind::Scalar(Value::Float(x)) => Some(*x),
            _ => None,
        };
        float.filter(|x| is_allowed(*x)).or_else(|| self.expected(problems, what))
    }

    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)], problems: &mut Problems<'_>) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let found = self.string(&format!("one of {}", recipe::list(&names)), problems)?;
        let choice = choices.iter().find(|(name, _)| *name == found);
        if choice.is_none() {
            let last = self.path.rsplit('.').next().unwrap_or_default();
            let what = if last.ends_with(']') { "value" } else { last };
            self.error(problems, recipe::unknown(what, found, &names));
        }
        choice.map(|(_, choice)| *choice)
    }

    pub(super) fn duration(&self, problems: &mut Problems<'_>) -> Option<Duration> {
        const WHAT: &str = "a duration like `30s`, `15m` or `3h`";
        let Kind::Scalar(Value::String(text)) = &self.node.kind else {
            return self.expected(problems, WHAT);
        };
        match duration::parse(text) {
            Some(duration) if duration <= duration::MAX => Some(duration),
            Some(_) => {
                self.error(problems, "is longer than 30 days");
                None
            }
            None => self.expected(problems, WHAT),
        }
    }
}
