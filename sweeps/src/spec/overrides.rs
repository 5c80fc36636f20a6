//! `path=value` overrides, applied to the tree before anything is decoded.

use super::fields::Problems;
use crate::value::Value;
use crate::yaml::{self, Entry, Kind, Mark, Node};

/// All overrides of a sweep together are at most as large as a file.
const MAX_BYTES: usize = yaml::MAX_BYTES;
const MAX_OVERRIDES: usize = 1_000;

/// Applies the overrides in order. A wrong one is noted, and the others still apply.
pub(super) fn apply(root: &mut Node, overrides: &[String], problems: &mut Problems<'_>) {
    if overrides.len() > MAX_OVERRIDES {
        problems.error(root.at, "", format!("more than {MAX_OVERRIDES} overrides"));
        return;
    }
    if overrides.iter().map(String::len).sum::<usize>() > MAX_BYTES {
        problems.error(root.at, "", format!("the overrides are longer than {MAX_BYTES} bytes together"));
        return;
    }
    for (source, text) in (1..).zip(overrides) {
        let start = Mark { source, line: 1, column: 1 };
        let Some((path, value)) = text.split_once('=') else {
            problems.error(start, "", "an override is written `path=value`, like `axes.lr.range.num=5`");
            continue;
        };
        match yaml::parse(value, source) {
            Err(error) => problems.error(error.at, path, error.to_string()),
            Ok(node) => {
                let segments: Vec<&str> = path.split('.').collect();
                if segments.len() > yaml::MAX_DEPTH || segments.contains(&"") {
                    problems.error(
                        start,
                        path,
                        "is no path: write keys joined by `.`, like `axes.lr.range.num`",
                    );
                } else if let Err(message) = set(root, &segments, node, start) {
                    problems.error(start, path, message);
                } else if let Err(problem) = yaml::check_bounds(root) {
                    problems.error(start, path, problem.to_string());
                    return;
                }
            }
        }
    }
}

/// The name of the item behind a list's last one.
const APPEND: &str = "+";

/// Puts `value` at the path, making the maps on the way. A list's item is named by its index or by its `name`; `+`
/// adds one.
fn set(node: &mut Node, path: &[&str], value: Node, at: Mark) -> Result<(), String> {
    let Some((first, rest)) = path.split_first() else {
        *node = value;
        return Ok(());
    };
    if node.kind == Kind::Scalar(Value::Null) {
        let kind = if *first == APPEND { Kind::List(Vec::new()) } else { Kind::Map(Vec::new()) };
        *node = Node { at, kind };
    }
    match &mut node.kind {
        Kind::Map(entries) => {
            let index = entries.iter().position(|entry| entry.key == *first).unwrap_or_else(|| {
                let value = Node { at, kind: Kind::Scalar(Value::Null) };
                entries.push(Entry { key: (*first).to_owned(), at, value });
                entries.len() - 1
            });
            set(&mut entries[index].value, rest, value, at)
        }
        Kind::List(items) if *first == APPEND => {
            let mut item = Node { at, kind: Kind::Scalar(Value::Null) };
            set(&mut item, rest, value, at)?;
            items.push(item);
            Ok(())
        }
        Kind::List(items) => {
            let index = first.parse().ok().filter(|index| *index < items.len());
            let index = index.or_else(|| items.iter().position(|item| is_named(item, first)));
            match index {
                Some(index) => set(&mut items[index], rest, value, at),
                None => Err(format!(
                    "the list has no item `{first}`: name one by its index from 0 or its `name`, or add one by `+`"
                )),
            }
        }
        Kind::Scalar(scalar) => Err(format!("`{first}` cannot be set within {}", scalar.describe())),
    }
}

fn is_named(item: &Node, name: &str) -> bool {
    let Kind::Map(entries) = &item.kind else { return false };
    entries
        .iter()
        .any(|entry| entry.key == "name" && entry.value.kind == Kind::Scalar(Value::String(name.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(text: &str, overrides: &[&str]) -> Result<Value, String> {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        let mut problems = Problems::new("f", &overrides);
        let mut root = yaml::parse(text, 0).unwrap();
        apply(&mut root, &overrides, &mut problems);
        match problems.into_errors().first() {
            None => Ok(root.to_value()),
            Some(error) => Err(error.to_string()),
        }
    }

    fn json(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn values_are_yaml_and_paths_make_what_they_need() {
        let found = applied("a: {b: 1}", &["a.b=2", "c.d=[1e-4, no]", "a.e=x=y", "f="]).unwrap();
        assert_eq!(found, json(r#"{"a": {"b": 2, "e": "x=y"}, "c": {"d": [1e-4, "no"]}, "f": null}"#));
        assert_eq!(applied("", &["a.b=1"]).unwrap(), json(r#"{"a": {"b": 1}}"#));
    }

    #[test]
    fn items_of_lists_go_by_index_or_name() {
        let text = "blocks: [{name: x, k: 1}, {name: y, k: 2}]";
        let found = applied(text, &["blocks.y.k=3", "blocks.0.k=4"]).unwrap();
        assert_eq!(found, json(r#"{"blocks": [{"name": "x", "k": 4}, {"name": "y", "k": 3}]}"#));
        let error = applied(text, &["blocks.z.k=3"]).unwrap_err();
        assert!(error.starts_with("--set blocks.z.k=3:1:1: blocks.z.k: the list has no item `z`"), "{error}");
    }

    #[test]
    fn a_plus_adds_an_item() {
        let found =
            applied("include: [{lr: 1}]", &["include.+={lr: 2}", "include.+.lr=3", "zip.+=x"]).unwrap();
        assert_eq!(found, json(r#"{"include": [{"lr": 1}, {"lr": 2}, {"lr": 3}], "zip": ["x"]}"#));
    }

    #[test]
    fn overrides_cannot_multiply_beyond_the_bounds() {
        let many = format!("[&x [{}], {}]", "1, ".repeat(1_000), "*x, ".repeat(150));
        let error = applied("", &[&format!("a={many}"), &format!("b={many}")]).unwrap_err();
        assert!(error.ends_with("b: more than 200000 values once aliases are expanded"), "{error}");
        let error = applied("", &["a=1"; MAX_OVERRIDES + 1]).unwrap_err();
        assert!(error.contains("more than 1000 overrides"), "{error}");
    }

    #[test]
    fn a_wrong_override_is_named() {
        for (text, message) in [
            ("lr", "--set lr:1:1: an override is written `path=value`"),
            ("a..b=1", "--set a..b=1:1:1: a..b: is no path"),
            ("=1", "is no path"),
            ("a.b.c=1", "`c` cannot be set within the number 1"),
            ("a.b=[1", "--set a.b=[1:"),
            ("a.b=.nan", "is not a finite number"),
        ] {
            let error = applied("a: {b: 1}", &[text]).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
