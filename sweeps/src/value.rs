//! Values of a sweep file and their canonical form.

use std::collections::BTreeMap;

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
