//! A flat file of settings, such as a single recipe: YAML, and thus JSON as well.

use crate::value::{Settings, Value};
use crate::yaml;

/// Why a text holds no settings, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct SettingsError {
    pub line: u32,
    pub column: u32,
    pub message: String,
}

/// Reads a map of settings.
///
/// # Errors
/// Text that is no acceptable YAML, or whose top is no map.
pub fn parse(text: &str) -> Result<Settings, SettingsError> {
    let fail = |at: yaml::Mark, message: String| SettingsError { line: at.line, column: at.column, message };
    let node = yaml::parse(text, 0).map_err(|error| fail(error.at, error.problem.to_string()))?;
    match node.to_value() {
        Value::Map(settings) => Ok(settings),
        other => {
            Err(fail(node.at, format!("the file must be a map of settings, found {}", other.describe())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_give_the_same_settings() {
        let yaml = parse("lr: 0.1\nsplit: {test: null}\n").unwrap();
        assert_eq!(parse(r#"{"lr": 0.1, "split": {"test": null}}"#).unwrap(), yaml);
        assert_eq!(yaml["lr"], Value::Float(0.1));
    }

    #[test]
    fn what_is_no_map_is_shown_at_its_place() {
        assert_eq!(parse("- lr\n").unwrap_err().line, 1);
        let error = parse("lr: 1\nlr: 2\n").unwrap_err();
        assert_eq!((error.line, error.column), (2, 1));
    }
}
