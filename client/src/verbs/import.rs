//! `sweep import`: a sweep file of another program.

use super::file::read_text;
use crate::cli::ImportArgs;
use crate::error::CliError;
use crate::{import, output};

/// Prints the file; what did not map, and what it still lacks, is said on stderr.
pub(crate) fn import(args: &ImportArgs) -> Result<(), CliError> {
    let text = read_text(&args.file)?;
    let stem = args.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let imported = import::wandb(&text, &stem).map_err(|message| CliError::InvalidRequest {
        message: format!("`{}` cannot be imported: {message}", args.file.display()),
    })?;
    output::print(&imported.file)?;
    for remark in &imported.remarks {
        output::remark(&format!("note: {remark}"));
    }
    if let Err(errors) = ::sweeps::Spec::parse("the imported file", &imported.file, &[]) {
        output::remark(&format!("to be completed:\n{errors}"));
    }
    Ok(())
}
