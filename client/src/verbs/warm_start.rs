//! `best --settings` and `--warm-start`: the best settings of one sweep as configurations of the next.
//!
//! The file between the two is a JSON list of parameters, one map per configuration, as a sweep file's `include` has them.
//! Each becomes an override `include.+=…`, so the stored sweep tells where its configurations came from.

use std::path::Path;

use proto::v1::TrialState;

use crate::connection::Connection;
use crate::error::CliError;
use crate::format::{self, Settings};
use crate::results::Row;
use crate::verbs::{file, trials};

/// More configurations than an override can hold are no starting point.
const MAX: usize = 900;

/// What some configurations set, as `include` wants it: with the trained learning rate where an axis scaled it.
pub(super) async fn settings(
    connection: &mut Connection,
    sweep: &str,
    rows: &[&Row],
) -> Result<Vec<Settings>, CliError> {
    let trials = connection.trials(sweep, &[TrialState::Succeeded], 0).await?;
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        let configuration = &row.configuration;
        let trial = trials.iter().find(|trial| {
            trial.config_hash == configuration.config_hash && trial.stage == configuration.stage
        });
        let Some(trial) = trial else { continue };
        let recipe = trials::fetch(connection, trial.id).await?.recipe_json;
        let mut recipe = format::settings(&recipe)?;
        recipe.retain(|name, _| row.settings.contains_key(name));
        all.push(recipe);
    }
    Ok(all)
}

/// The overrides that add the configurations of a file.
pub(super) fn overrides(file: &Path) -> Result<Vec<String>, CliError> {
    let text = file::read_text(file)?;
    let wrong = |message: String| CliError::InvalidWarmStart { file: file.to_owned(), message };
    let list: Vec<Settings> = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if list.is_empty() || list.len() > MAX {
        return Err(wrong(format!("it has {} configurations: use 1 to {MAX}", list.len())));
    }
    let line = |settings: &Settings| Ok(format!("include.+={}", serde_json::to_string(settings)?));
    list.iter()
        .map(line)
        .collect::<Result<_, _>>()
        .map_err(|error: serde_json::Error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, CliError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        overrides(file.path())
    }

    #[test]
    fn configurations_become_overrides_that_the_language_takes() {
        let overrides = read(r#"[{"lr": 0.25, "task": "a"}, {"lr": 2.5, "task": "b"}]"#).expect("valid");
        assert_eq!(overrides[0], r#"include.+={"lr":0.25,"task":"a"}"#);
        let text = "version: 1\nname: next\nbase: {backbone: b, method: linear, lr: 1}\naxes: {task: {values: [a]}}\n";
        let spec = sweeps::Spec::parse("f", text, &overrides).expect("valid");
        assert_eq!(spec.configuration_count(), 3);
    }

    #[test]
    fn other_files_are_refused() {
        for wrong in ["", "[]", "{\"lr\": 1}", "[1]", "version: 1\n"] {
            let error = read(wrong).expect_err(wrong);
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("sweep best S --settings"), "{error}");
        }
    }
}
