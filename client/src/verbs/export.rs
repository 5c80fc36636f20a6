//! `sweep export`: a sweep for Optuna or TensorBoard.

use std::path::{Path, PathBuf};

use proto::v1::GetRequest;

use super::trials;
use crate::cli::{ExportArgs, Target};
use crate::connection::Connection;
use crate::error::CliError;
use crate::export::{Export, optuna, tensorboard};
use crate::output;

pub(crate) async fn export(mut connection: Connection, args: ExportArgs) -> Result<(), CliError> {
    let place = match args.to {
        Target::Optuna => sqlite_file(&args.place)?,
        Target::Tensorboard => PathBuf::from(&args.place),
    };
    let reply = connection.client.get(GetRequest { sweep: args.sweep }).await;
    let sweep = reply.map_err(|status| connection.explain(&status))?.into_inner().sweep.unwrap_or_default();
    let mut replies = Vec::new();
    for trial in connection.trials(&sweep.id, &[], 0).await? {
        replies.push(trials::fetch(&mut connection, trial.id).await?);
    }
    let export = Export::new(sweep, replies)?;
    let failed = |reason: String| CliError::WriteFile { file: place.clone(), reason };
    match args.to {
        Target::Optuna => optuna::write(&export, &place).map_err(|error| failed(error.to_string()))?,
        Target::Tensorboard => {
            tensorboard::write(&export, &place).map_err(|error| failed(error.to_string()))?;
        }
    }
    output::remark(&format!("wrote {} trials to {}", export.trials.len(), place.display()));
    Ok(())
}

/// The file of an SQLite URL as Optuna writes it; it must not be there yet.
fn sqlite_file(url: &str) -> Result<PathBuf, CliError> {
    let Some(path) = url.strip_prefix("sqlite:///").filter(|path| !path.is_empty()) else {
        let message = format!(
            "`{url}` is no storage that can be written: use sqlite:///FILE (or sqlite:////FOLDER/FILE), as in Optuna"
        );
        return Err(CliError::InvalidRequest { message });
    };
    let path = Path::new(path);
    if path.exists() {
        let message = format!("`{}` exists already: a study is written into a new file", path.display());
        return Err(CliError::Refused { message });
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_of_optuna_and_files_new_ones() {
        assert_eq!(sqlite_file("sqlite:///a.db").expect("relative"), Path::new("a.db"));
        assert_eq!(sqlite_file("sqlite:////tmp/no/a.db").expect("absolute"), Path::new("/tmp/no/a.db"));
        for wrong in ["a.db", "sqlite://a.db", "mysql://h/d", "sqlite:///"] {
            assert_eq!(sqlite_file(wrong).expect_err(wrong).exit_code(), 2);
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        let error = sqlite_file(&format!("sqlite:///{}", file.path().display())).expect_err("exists");
        assert_eq!(error.exit_code(), 4);
    }
}
