//! `sweep validate` and `sweep submit`: a sweep file is read and checked here before anything is sent.

use std::fs;
use std::io::Read;
use std::path::Path;

use proto::v1::{ExtendRequest, ExtendResponse, SubmitRequest, SubmitResponse};
use serde::Serialize;
use sweeps::spec::Spec;

use super::{open, warm_start};
use crate::cli::{ExtendArgs, FileArgs, Format, Global, SubmitArgs};
use crate::error::{CliError, Outcome};
use crate::{output, provenance, watch};

/// The bound of `SubmitRequest.file`.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A sweep file that was read and checked.
pub(crate) struct Checked {
    pub(crate) text: String,
    /// Those of the command line, then those of `--warm-start`.
    pub(crate) overrides: Vec<String>,
    pub(crate) spec: Spec,
}

/// Reads and checks a sweep file, and says what is allowed but probably not meant.
pub(crate) fn read(args: &FileArgs) -> Result<Checked, CliError> {
    let text = read_text(&args.file)?;
    let name = args.file.display().to_string();
    let mut overrides = args.overrides.clone();
    if let Some(file) = &args.warm_start {
        overrides.extend(warm_start::overrides(file)?);
    }
    let spec = Spec::parse(&name, &text, &overrides)
        .map_err(|errors| CliError::InvalidFile { file: args.file.clone(), errors })?;
    for warning in &spec.warnings {
        output::remark(&format!("warning: {warning}"));
    }
    Ok(Checked { text, overrides, spec })
}

/// Reads at most the bound, also from a pipe whose length nobody knows.
pub(super) fn read_text(file: &Path) -> Result<String, CliError> {
    let failed = |source| CliError::ReadFile { file: file.to_owned(), source };
    let mut text = String::new();
    let reader = fs::File::open(file).map_err(failed)?;
    let bytes = reader.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if bytes as u64 > MAX_FILE_BYTES {
        return Err(CliError::FileTooLarge { file: file.to_owned(), bound: MAX_FILE_BYTES });
    }
    Ok(text)
}

#[derive(Debug, Serialize)]
struct Valid<'a> {
    valid: bool,
    name: &'a str,
    configurations: usize,
    trials: usize,
    warnings: &'a [String],
}

pub(crate) fn validate(args: &FileArgs, format: Format) -> Result<(), CliError> {
    let Checked { spec, .. } = read(args)?;
    let (configurations, trials) = (spec.configuration_count(), spec.trial_count());
    if format == Format::Json {
        let (name, warnings) = (spec.name.as_str(), spec.warnings.as_slice());
        return output::print_json(&Valid { valid: true, name, configurations, trials, warnings });
    }
    let file = args.file.display();
    output::print(&format!("{file} is valid: {configurations} configurations, {trials} trials\n"))
}

#[derive(Debug, Serialize)]
struct Submitted<'a> {
    sweep_id: &'a str,
    created: bool,
    configurations: u64,
    trials: u64,
    warnings: &'a [String],
}

pub(crate) async fn submit(args: SubmitArgs, global: &Global) -> Result<Outcome, CliError> {
    let Checked { text: file, overrides, spec } = read(&args.file)?;
    let provenance = provenance::of(&args.file.file);
    let mut connection = open(global).await?;
    let request =
        SubmitRequest { file, overrides, key: args.key.unwrap_or_default(), provenance: Some(provenance) };
    let reply = connection.client.submit(request).await;
    let reply = reply.map_err(|status| connection.explain(&status))?.into_inner();
    for warning in reply.warnings.iter().filter(|warning| !spec.warnings.contains(warning)) {
        output::remark(&format!("warning: {warning}"));
    }
    print(&reply, global.output)?;
    if args.watch {
        return watch::watch(&mut connection, &reply.sweep_id, global.output).await;
    }
    Ok(Outcome::Done)
}

#[derive(Debug, Serialize)]
struct Extended<'a> {
    sweep_id: &'a str,
    configurations: u64,
    trials: u64,
    warnings: &'a [String],
}

pub(crate) async fn extend(args: ExtendArgs, global: &Global) -> Result<(), CliError> {
    let Checked { text: file, overrides, spec } = read(&args.file)?;
    let provenance = Some(provenance::of(&args.file.file));
    let mut connection = open(global).await?;
    let request = ExtendRequest { sweep: args.sweep, file, overrides, provenance };
    let reply = connection.client.extend(request).await;
    let ExtendResponse { sweep, configurations, trials, warnings } =
        reply.map_err(|status| connection.explain(&status))?.into_inner();
    for warning in warnings.iter().filter(|warning| !spec.warnings.contains(warning)) {
        output::remark(&format!("warning: {warning}"));
    }
    let sweep_id = sweep.map(|sweep| sweep.id).unwrap_or_default();
    if global.output == Format::Json {
        let warnings = &warnings;
        return output::print_json_line(&Extended { sweep_id: &sweep_id, configurations, trials, warnings });
    }
    output::print(&format!("{sweep_id}\n"))?;
    output::remark(&match (configurations, trials) {
        (0, 0) => "the sweep has all of this already; nothing was added".to_owned(),
        _ => format!("added {configurations} configurations, {trials} trials"),
    });
    Ok(())
}

/// The id alone to stdout, so that a script can take it; the rest to stderr.
fn print(reply: &SubmitResponse, format: Format) -> Result<(), CliError> {
    let SubmitResponse { sweep_id, created, configurations, trials, warnings } = reply;
    if format == Format::Json {
        return output::print_json_line(&Submitted {
            sweep_id,
            created: *created,
            configurations: *configurations,
            trials: *trials,
            warnings,
        });
    }
    output::print(&format!("{sweep_id}\n"))?;
    if *created {
        output::remark(&format!("queued {configurations} configurations, {trials} trials"));
    } else {
        output::remark("this sweep had been submitted already; nothing was queued again");
    }
    Ok(())
}
