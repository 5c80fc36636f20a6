//! Values of a sweep file and their canonical form.
//!
//! The canonical form is JSON with sorted keys and no spaces. Integers and integral floats are written alike, other
//! floats in the shortest form that reads back to the same number. `null` is a value, not a missing key. NaN and
//! infinities have no form: they cannot be written in a sweep file either.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value of a sweep file after YAML 1.2 core resolution.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(String),
    List(Vec<Value>),
    Map(Settings),
}

/// Parameters by name: what an axis, a block or `base` sets.
pub type Settings = BTreeMap<String, Value>;

/// Values that have no canonical form, and JSON that no [`Value`] can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    #[error("a number is not finite")]
    NotFinite,
    #[error("the number `{0}` fits neither a 64-bit integer nor a finite float")]
    NumberOutOfRange(String),
}

impl Value {
    /// The canonical JSON of this value.
    ///
    /// # Errors
    /// [`ValueError::NotFinite`] if it holds a NaN or an infinity.
    pub fn canonical(&self) -> Result<String, ValueError> {
        let mut out = String::new();
        write_value(&mut out, self)?;
        Ok(out)
    }

    /// Whether two values have the same canonical form: `1` and `1.0` are the same, `1` and `"1"` are not.
    #[must_use]
    pub fn same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Float(x), _) if !x.is_finite() => false,
            (_, Value::Float(x)) if !x.is_finite() => false,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => a == b,
            (Value::Int(a), Value::Float(b)) | (Value::Float(b), Value::Int(a)) => integral(*b) == Some(*a),
            (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b)),
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|((ka, a), (kb, b))| ka == kb && a.same(b))
            }
            (a, b) => a == b,
        }
    }

    /// The value as JSON, in the canonical number forms.
    ///
    /// # Errors
    /// [`ValueError::NotFinite`] if it holds a NaN or an infinity.
    pub fn to_json(&self) -> Result<serde_json::Value, ValueError> {
        Ok(match self {
            Value::Null => serde_json::Value::Null,
            Value::Bool(b) => (*b).into(),
            Value::Int(i) => (*i).into(),
            Value::Float(x) => match integral(*x) {
                Some(i) => i.into(),
                None => serde_json::Number::from_f64(*x).ok_or(ValueError::NotFinite)?.into(),
            },
            Value::String(s) => s.as_str().into(),
            Value::List(list) => list.iter().map(Value::to_json).collect::<Result<Vec<_>, _>>()?.into(),
            Value::Map(map) => to_json(map)?,
        })
    }

    /// # Errors
    /// [`ValueError::NumberOutOfRange`] for a number that neither `i64` nor a finite `f64` holds.
    pub fn from_json(json: &serde_json::Value) -> Result<Value, ValueError> {
        Ok(match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(b) => Value::Bool(*b),
            serde_json::Value::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(i), _) => Value::Int(i),
                (None, Some(x)) if x.is_finite() => Value::Float(x),
                _ => return Err(ValueError::NumberOutOfRange(n.to_string())),
            },
            serde_json::Value::String(s) => Value::String(s.clone()),
            serde_json::Value::Array(list) => {
                Value::List(list.iter().map(Value::from_json).collect::<Result<_, _>>()?)
            }
            serde_json::Value::Object(map) => {
                Value::Map(
                    map.iter()
                        .map(|(key, value)| Ok((key.clone(), Value::from_json(value)?)))
                        .collect::<Result<_, ValueError>>()?,
                )
            }
        })
    }

    /// What to call this value in a message: `the string "10"`, `the number 3`, `a list`.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Value::Null => "null".into(),
            Value::Bool(b) => format!("`{b}`"),
            Value::Int(i) => format!("the number {i}"),
            Value::Float(x) => format!("the number {}", number(*x)),
            Value::String(s) => format!("the string {s:?}"),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
        }
    }
}

/// The canonical JSON of a map; see [`Value::canonical`].
///
/// # Errors
/// [`ValueError::NotFinite`] if it holds a NaN or an infinity.
pub fn canonical(settings: &Settings) -> Result<String, ValueError> {
    let mut out = String::new();
    write_map(&mut out, settings)?;
    Ok(out)
}

/// A map as JSON; see [`Value::to_json`].
///
/// # Errors
/// [`ValueError::NotFinite`] if it holds a NaN or an infinity.
pub fn to_json(settings: &Settings) -> Result<serde_json::Value, ValueError> {
    let map = settings.iter().map(|(key, value)| Ok((key.clone(), value.to_json()?)));
    Ok(serde_json::Value::Object(map.collect::<Result<_, ValueError>>()?))
}

/// A finite number in its canonical form.
pub(crate) fn number(x: f64) -> String {
    let mut out = String::new();
    write_number(&mut out, x);
    out
}

pub(crate) fn write_number(out: &mut String, x: f64) {
    // Display and LowerExp both print the shortest digits that read back to `x`; only the notation differs.
    match integral(x) {
        Some(i) => write_display(out, i),
        None if (1e-5..1e16).contains(&x.abs()) => write_display(out, x),
        None => write_display(out, format_args!("{x:e}")),
    }
}

/// The integer that equals `x`, if there is one among the `i64`.
pub(crate) fn integral(x: f64) -> Option<i64> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0; // 2^63, the first integral float above every i64
    #[expect(clippy::cast_possible_truncation, reason = "the guard leaves only integers that fit")]
    (x.fract() == 0.0 && (-LIMIT..LIMIT).contains(&x)).then_some(x as i64)
}

fn write_value(out: &mut String, value: &Value) -> Result<(), ValueError> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Int(i) => write_display(out, i),
        Value::Float(x) if x.is_finite() => write_number(out, *x),
        Value::Float(_) => return Err(ValueError::NotFinite),
        Value::String(s) => write_string(out, s),
        Value::List(list) => {
            for (i, item) in list.iter().enumerate() {
                out.push(if i == 0 { '[' } else { ',' });
                write_value(out, item)?;
            }
            out.push_str(if list.is_empty() { "[]" } else { "]" });
        }
        Value::Map(map) => write_map(out, map)?,
    }
    Ok(())
}

fn write_map(out: &mut String, map: &Settings) -> Result<(), ValueError> {
    for (i, (key, value)) in map.iter().enumerate() {
        out.push(if i == 0 { '{' } else { ',' });
        write_string(out, key);
        out.push(':');
        write_value(out, value)?;
    }
    out.push_str(if map.is_empty() { "{}" } else { "}" });
    Ok(())
}

/// JSON escapes only what JSON must escape, so that one string has one form.
pub(crate) fn write_string(out: &mut String, s: &str) {
    out.push('"');
    if s.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.push_str(s);
        out.push('"');
        return;
    }
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => write_display(out, format_args!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

pub(crate) fn write_display(out: &mut String, what: impl std::fmt::Display) {
    write!(out, "{what}").expect("writing to a string cannot fail");
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        Value::from_json(&serde_json::Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canon(json: &str) -> String {
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        Value::from_json(&json).unwrap().canonical().unwrap()
    }

    #[test]
    fn canonical_form_is_pinned() {
        assert_eq!(
            canon(r#"{"b": 1.0, "a": [1e-4, 0.1, null, true]}"#),
            r#"{"a":[0.0001,0.1,null,true],"b":1}"#
        );
        assert_eq!(
            canon("[1e-8, 1.5e300, -0.0, 25e-1, 1e15, 1e18]"),
            "[1e-8,1.5e300,0,2.5,1000000000000000,1000000000000000000]"
        );
        assert_eq!(canon("[1e19, -9223372036854775808]"), "[1e19,-9223372036854775808]");
        assert_eq!(canon(r#"["\u0001\n\"\\é", {}, []]"#), r#"["\u0001\u000a\"\\é",{},[]]"#);
    }

    #[test]
    fn not_finite_numbers_have_no_form() {
        for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let value = Value::List(vec![Value::Float(x)]);
            assert_eq!(value.canonical(), Err(ValueError::NotFinite));
            assert_eq!(value.to_json(), Err(ValueError::NotFinite));
        }
    }

    #[test]
    fn null_is_not_missing() {
        let null = Settings::from([("a".to_owned(), Value::Null)]);
        assert_ne!(canonical(&null), canonical(&Settings::new()));
    }

    pub(crate) fn any_value() -> impl Strategy<Value = Value> {
        let number = prop_oneof![
            any::<i64>().prop_map(Value::Int),
            (-3_i64..4).prop_map(Value::Int),
            (-3_i32..4).prop_map(|i| Value::Float(i.into())),
            any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Value::Float),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            number,
            "[a-c1]{0,2}|.{0,4}".prop_map(Value::String),
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::List),
                proptest::collection::btree_map("[a-c]", inner, 0..3).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn canonical_form_decides_sameness(a in any_value(), b in any_value()) {
            prop_assert_eq!(a.same(&b), a.canonical() == b.canonical());
            prop_assert!(a.same(&a));
        }

        #[test]
        fn canonical_form_is_json_and_reads_back(value in any_value()) {
            let text = value.canonical().unwrap();
            let back: Value = serde_json::from_str(&text).unwrap();
            prop_assert!(back.same(&value));
            prop_assert_eq!(back.canonical().unwrap(), text);
            let through_serde: Value = serde_json::from_str(&serde_json::to_string(&value).unwrap()).unwrap();
            prop_assert!(through_serde.same(&value));
        }
    }
}
