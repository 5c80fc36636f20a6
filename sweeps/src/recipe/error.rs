//! The one error of a recipe.

/// Why settings are no recipe. `key` tells where to look: a sweep file turns it into a line and a column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", prefix(.key, .field.as_deref()))]
pub struct RecipeError {
    /// The key at fault, as in a sweep file's `base`; empty when the whole is at fault (JSON that does not parse).
    pub key: String,
    /// The key within a map-valued key: `momentum` of `optimizer`.
    pub field: Option<String>,
    /// What is wrong and the mend, to be read after the key: "must be …", "is not read by …".
    pub message: String,
    pub fault: Fault,
}

/// What about a key is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing sets it.
    Missing,
    /// It must not be there: unknown, or not read by the method.
    Key,
    /// Its value.
    Value,
}

impl RecipeError {
    pub(crate) fn new(key: impl Into<String>, message: impl Into<String>) -> RecipeError {
        RecipeError { key: key.into(), field: None, message: message.into(), fault: Fault::Value }
    }

    pub(crate) fn within(key: &str, field: &str, message: impl Into<String>) -> RecipeError {
        RecipeError { field: Some(field.to_owned()), ..RecipeError::new(key, message) }
    }

    pub(crate) fn foreign(key: &str, message: impl Into<String>) -> RecipeError {
        RecipeError { fault: Fault::Key, ..RecipeError::new(key, message) }
    }

    pub(crate) fn missing(key: &str, message: impl Into<String>) -> RecipeError {
        RecipeError { fault: Fault::Missing, ..RecipeError::new(key, message) }
    }
}

fn prefix(key: &str, field: Option<&str>) -> String {
    match field {
        _ if key.is_empty() => String::new(),
        Some(field) => format!("{key}.{field}: "),
        None => format!("{key}: "),
    }
}
