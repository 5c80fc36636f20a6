//! Parameters that are changed after a sweep was submitted, as when a failed trial is tried again with a smaller batch.

use crate::recipe::{self, KEYS, Recipe, RecipeError, hex};
use crate::stage::{self, Child};
use crate::value::{Settings, Value};
use crate::yaml;

const MAX_CHANGES: usize = 64;

/// Parameters and their new values.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    settings: Settings,
}

/// What is wrong with a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("`{0}` is no change: write `key=value`, like `batch_size=32`")]
    Form(String),
    #[error("`{key}`: {message}")]
    Value { key: String, message: String },
    #[error("{0}")]
    Key(String),
    #[error("more than {MAX_CHANGES} changes")]
    Many,
}

/// A configuration as it is.
#[derive(Debug, Clone, Copy)]
pub struct Original<'a> {
    pub settings: &'a Settings,
    pub recipe: &'a Recipe,
    pub is_lr_scaled: bool,
    /// The hash of the configuration whose tensors it starts from, if it does.
    pub start: Option<&'a str>,
}

impl Change {
    /// `key=value` each, the value being YAML.
    ///
    /// # Errors
    /// The first that is none.
    pub fn parse(texts: &[String]) -> Result<Change, ChangeError> {
        if texts.len() > MAX_CHANGES {
            return Err(ChangeError::Many);
        }
        let mut settings = Settings::new();
        for text in texts {
            let (key, value) = text.split_once('=').ok_or_else(|| ChangeError::Form(text.clone()))?;
            if !recipe::is_key(key) {
                let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
                return Err(ChangeError::Key(recipe::unknown("key", key, &known)));
            }
            let node = yaml::parse(value, 0)
                .map_err(|error| ChangeError::Value { key: key.to_owned(), message: error.to_string() })?;
            settings.insert(key.to_owned(), node.to_value());
        }
        Ok(Change { settings })
    }

    /// The configuration with these values, everything else being as it was, defaults included. A learning rate that is
    /// scaled by the batch is so by the new one.
    ///
    /// # Errors
    /// When that is no recipe.
    pub fn apply(&self, original: Original<'_>) -> Result<Child, RecipeError> {
        let Original { settings, recipe, start, .. } = original;
        let is_lr_scaled = original.is_lr_scaled && !self.settings.contains_key("lr");
        let whole = recipe.to_settings();
        let written: Settings = settings
            .iter()
            .filter(|(key, _)| *key == "lr" && is_lr_scaled)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let recipe = stage::resolve(&[&whole, &written, &self.settings], is_lr_scaled)?;
        let own = hex(&recipe.digest());
        let hash = start.map_or(own.clone(), |parent| stage::started(&own, parent));
        let mut settings = settings.clone();
        settings.extend(self.settings.clone());
        Ok(Child { settings, recipe, hash, is_lr_scaled })
    }

    /// As it was written: `batch_size=32, epochs=50`.
    #[must_use]
    pub fn describe(&self) -> String {
        let text = |value: &Value| value.canonical().unwrap_or_default();
        let pair = |(key, value): (&String, &Value)| format!("{key}={}", text(value));
        self.settings.iter().map(pair).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(settings: &str, is_lr_scaled: bool, changes: &[&str]) -> Result<Child, RecipeError> {
        let settings: Settings = serde_json::from_str(settings).unwrap();
        let base = serde_json::from_str(r#"{"backbone": "b", "task": "t", "method": "linear"}"#).unwrap();
        let recipe = stage::resolve(&[&base, &settings], is_lr_scaled).unwrap();
        let changes: Vec<String> = changes.iter().map(|&text| text.to_owned()).collect();
        let change = Change::parse(&changes).unwrap();
        change.apply(Original { settings: &settings, recipe: &recipe, is_lr_scaled, start: None })
    }

    #[test]
    fn what_is_not_changed_stays() {
        let child = apply(r#"{"lr": 0.3, "epochs": 50}"#, true, &["batch_size=32"]).unwrap();
        assert_eq!(
            (child.recipe.lr, child.recipe.batch_size, child.recipe.epochs),
            (0.3 * 32.0 / 256.0, 32, 50)
        );
        assert_eq!(child.hash, child.recipe.config_hash());
        assert_eq!(child.settings["batch_size"], Value::Int(32));
        let same = apply(r#"{"lr": 0.3}"#, true, &["batch_size=64"]).unwrap();
        assert_eq!(same.recipe.lr, 0.3 * 64.0 / 256.0, "a change that changes nothing");
        let written = apply(r#"{"lr": 0.3}"#, true, &["batch_size=32", "lr=0.1"]).unwrap();
        assert_eq!((written.recipe.lr, written.is_lr_scaled), (0.1, false));
    }

    #[test]
    fn what_is_no_change_or_no_recipe_is_an_error() {
        let parse = |text: &str| Change::parse(&[text.to_owned()]).unwrap_err().to_string();
        assert_eq!(parse("batch_size"), "`batch_size` is no change: write `key=value`, like `batch_size=32`");
        assert_eq!(parse("batch_sise=3"), "unknown key `batch_sise`: did you mean `batch_size`?");
        assert!(parse("lr=[1").starts_with("`lr`: "));
        let error = apply(r#"{"lr": 1}"#, false, &["prompt_length=3"]).unwrap_err();
        assert!(error.to_string().contains("prompt_length"), "{error}");
    }

    #[test]
    fn where_it_starts_from_stays_part_of_its_identity() {
        let settings = serde_json::from_str(r#"{"lr": 1}"#).unwrap();
        let recipe =
            Recipe::from_json(r#"{"backbone": "b", "task": "t", "method": "linear", "lr": 1}"#).unwrap();
        let change = Change::parse(&["wd=0.1".to_owned()]).unwrap();
        let hash = |start| {
            let original = Original { settings: &settings, recipe: &recipe, is_lr_scaled: false, start };
            change.apply(original).unwrap().hash
        };
        assert_ne!(hash(Some("x")), hash(Some("y")));
        assert_ne!(hash(None), hash(Some("x")));
    }
}
