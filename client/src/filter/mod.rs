//! `--where`: expressions over the values of a row, like `task = vtab/dtd and state = failed and lr > 0.1`. Pure.
//!
//! ```text
//! either     := both ("or" both)*
//! both       := term ("and" term)*
//! term       := "not" term | "(" either ")" | name comparison
//! comparison := ("=" | "!=" | "<" | "<=" | ">" | ">=" | "~") value | "in" "(" value ("," value)* ")"
//! value      := number | "true" | "false" | "null" | word | quoted text
//! ```
//!
//! Numbers are compared by value, texts by letters; `~` asks whether a text contains another. A name that a row does
//! not have is `null` there: it equals `null` alone, differs from everything else, and is neither less nor greater.

mod parse;

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

/// Longer expressions are refused.
const MAX_LENGTH: usize = 64 * 1024;
/// Deeper parentheses are refused.
const MAX_DEPTH: u32 = 64;

/// What is wrong with an expression, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FilterError {
    text: String,
    /// Characters before the place.
    at: usize,
    message: String,
}

impl fmt::Display for FilterError {
    /// The message, then the expression with a mark under the place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A window about the place, so that a long expression stays on a line.
        let start = self.at.saturating_sub(40);
        let shown: String = self.text.chars().skip(start).take(72).collect();
        let shown = shown.replace(char::is_control, " ");
        let mark = format!("{}^", " ".repeat(self.at - start));
        write!(f, "column {}: {}\n  {shown}\n  {mark}", self.at + 1, self.message)
    }
}

/// An expression that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Filter {
    text: String,
    root: Node,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Test { name: String, at: usize, test: Test },
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Is(Operator, Value),
    In(Vec<Value>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Contains,
}

impl Filter {
    /// Reads an expression.
    pub(crate) fn parse(text: &str) -> Result<Self, FilterError> {
        Ok(Self { text: text.to_owned(), root: parse::parse(text)? })
    }

    /// Refuses a name that no row can have, and a value that the name can never have.
    ///
    /// `choices` gives all values of a name where they are known.
    pub(crate) fn check<'a>(
        &self,
        known: &[&'a str],
        choices: impl Fn(&str) -> Option<Vec<&'a str>>,
    ) -> Result<(), FilterError> {
        self.root.check(&mut |name, at, values| {
            let fail = |message| Err(FilterError { text: self.text.clone(), at, message });
            if !known.contains(&name) {
                return fail(format!("unknown name `{name}`{}", meant(name, known)));
            }
            let Some(choices) = choices(name) else { return Ok(()) };
            let wrong = values.iter().filter_map(Value::as_str).find(|value| !choices.contains(value));
            match wrong {
                Some(wrong) => fail(format!("`{name}` is never `{wrong}`{}", meant(wrong, &choices))),
                None => Ok(()),
            }
        })
    }

    /// Whether the expression holds for a row, whose values are given by name.
    pub(crate) fn matches(&self, row: impl Fn(&str) -> Option<Value>) -> bool {
        self.root.holds(&row)
    }
}

/// "; did you mean …?", or what there is.
fn meant(name: &str, known: &[&str]) -> String {
    let near = known.iter().map(|known| (strsim::damerau_levenshtein(name, known), *known)).min();
    match near {
        Some((distance, near)) if distance <= (name.len() / 3).clamp(1, 4) => {
            format!("; did you mean `{near}`?")
        }
        _ => format!("; there are {}", known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")),
    }
}

impl Node {
    fn check(
        &self,
        visit: &mut impl FnMut(&str, usize, &[Value]) -> Result<(), FilterError>,
    ) -> Result<(), FilterError> {
        match self {
            Node::All(nodes) | Node::Any(nodes) => nodes.iter().try_for_each(|node| node.check(visit)),
            Node::Not(node) => node.check(visit),
            Node::Test { name, at, test: Test::Is(operator, value) } => match operator {
                Operator::Equal | Operator::Unequal => visit(name, *at, std::slice::from_ref(value)),
                _ => visit(name, *at, &[]),
            },
            Node::Test { name, at, test: Test::In(values) } => visit(name, *at, values),
        }
    }

    fn holds(&self, row: &impl Fn(&str) -> Option<Value>) -> bool {
        match self {
            Node::All(nodes) => nodes.iter().all(|node| node.holds(row)),
            Node::Any(nodes) => nodes.iter().any(|node| node.holds(row)),
            Node::Not(node) => !node.holds(row),
            Node::Test { name, test, .. } => test.holds(&row(name).unwrap_or(Value::Null)),
        }
    }
}

impl Test {
    fn holds(&self, found: &Value) -> bool {
        match self {
            Test::Is(Operator::Equal, wanted) => equal(found, wanted),
            Test::Is(Operator::Unequal, wanted) => !equal(found, wanted),
            Test::Is(Operator::Less, wanted) => order(found, wanted) == Some(Ordering::Less),
            Test::Is(Operator::AtMost, wanted) => order(found, wanted).is_some_and(Ordering::is_le),
            Test::Is(Operator::Greater, wanted) => order(found, wanted) == Some(Ordering::Greater),
            Test::Is(Operator::AtLeast, wanted) => order(found, wanted).is_some_and(Ordering::is_ge),
            Test::Is(Operator::Contains, wanted) => {
                let text = |value: &Value| match value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                !found.is_null() && text(found).contains(&text(wanted))
            }
            Test::In(wanted) => wanted.iter().any(|wanted| equal(found, wanted)),
        }
    }
}

/// Equality by value: `1` equals `1.0`, and a number is never equal to a text.
fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// Order of two numbers or two texts; none between others.
fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(text: &str) -> bool {
        let row = json!({
            "task": "vtab/dtd", "state": "failed", "lr": 0.5, "wd": 0, "epochs": 100, "temperature": true,
            "test/top1": 71.25, "optimizer": {"name": "sgd"}
        });
        let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{error}"));
        filter.matches(|name| row.get(name).cloned())
    }

    #[test]
    fn comparisons() {
        for text in [
            "task = vtab/dtd",
            "task == 'vtab/dtd' and state = \"failed\" and lr > 0.1",
            "lr = 5e-1",
            "epochs = 100.0",
            "wd <= 0 and wd >= 0",
            "task ~ dtd",
            "task < w",
            "state in (failed, stopped)",
            "lr in (0.1, 0.5)",
            "temperature = true",
            "test/top1 > 70",
            "gate_init = null",
            "gate_init != 5",
            "not gate_init = 5",
            "not (lr > 1 or lr < 0)",
            "lr > 1 or state = failed and wd = 0",
            "optimizer ~ sgd",
            "NOT lr > 1 AND wd = 0",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in [
            "task = dtd",
            "lr = '0.5'",
            "gate_init > 1",
            "gate_init < 1",
            "gate_init ~ null",
            "task > 3",
            "(lr > 1 or state = failed) and wd = 1",
            "state in (queued)",
            "not temperature = true",
        ] {
            assert!(!holds(text), "{text}");
        }
    }

    #[test]
    fn wrong_expressions_are_shown_at_their_place() {
        let error = |text: &str| Filter::parse(text).expect_err(text).to_string();
        let wrong = [
            "",
            "lr",
            "lr >",
            "lr > 0.1 and",
            "lr > 0.1 task = x",
            "lr > 0.1 && wd = 0",
            "(lr = 1",
            "lr = 1)",
            "lr ! 1",
            "lr in 1, 2",
            "lr in (1 2)",
            "task = 'dtd",
            "and = 1",
            "lr => 1",
            "über = 1 and = 2",
        ];
        let messages: Vec<String> = wrong.iter().map(|text| error(text)).collect();
        insta::assert_snapshot!(messages.join("\n"));
    }

    #[test]
    fn unknown_names_and_values_are_refused_with_the_nearest() {
        let states = |name: &str| (name == "state").then(|| vec!["queued", "failed"]);
        let check = |text: &str| Filter::parse(text).expect("valid").check(&["lr", "state"], states);
        assert_eq!(check("lr = 1 or not state = failed"), Ok(()));
        assert_eq!(check("state ~ fai"), Ok(()));
        let error = |text: &str| check(text).expect_err(text).to_string();
        insta::assert_snapshot!(error("lr = 1 and (stat = failed)"), @"
        column 13: unknown name `stat`; did you mean `state`?
          lr = 1 and (stat = failed)
                      ^
        ");
        insta::assert_snapshot!(error("state = faild"), @"
        column 1: `state` is never `faild`; did you mean `failed`?
          state = faild
          ^
        ");
        assert!(error("learning_rate = 1").contains("there are `lr`, `state`"));
    }

    #[test]
    fn long_and_deep_expressions_are_refused() {
        let deep = format!("{}lr = 1{}", "(".repeat(100), ")".repeat(100));
        assert!(Filter::parse(&deep).expect_err("deep").message.contains("nested deeper than 64"));
        let nots = format!("{}lr = 1", "not ".repeat(100));
        assert!(Filter::parse(&nots).expect_err("deep").message.contains("nested deeper than 64"));
        let long = "a".repeat(MAX_LENGTH + 1);
        assert!(Filter::parse(&long).expect_err("long").message.contains("longer than"));
        let wide = vec!["lr = 1"; 5_000].join(" or ");
        assert!(Filter::parse(&wide).is_ok());
    }
}
