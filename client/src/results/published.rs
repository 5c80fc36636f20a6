//! Published numbers from CSV files, to be shown beside ours. Pure but for reading the files.
//!
//! A file has the columns `method`, `task`, `metric` and `value`, and may have others (`backbone`, `pretraining`,
//! `source`, …), by which `--compare-where` chooses. Names are compared without case and punctuation: `VPT-Deep` is
//! `vpt_deep`. A row without a value says that none was found.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::groups::{self, plain};
use crate::error::CliError;
use crate::filter::Filter;

const REQUIRED: [&str; 4] = ["method", "task", "metric", "value"];
/// Metrics that tables print under another name than ours.
const PRINTED: [(&str, &str); 2] = [("miou", "mIoU_SS"), ("miou_ms", "mIoU_MS")];
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// A published number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Reference {
    pub(crate) value: f64,
    /// The file's `source`, else its name.
    pub(crate) source: String,
}

#[derive(Debug)]
struct Record {
    method: String,
    task: String,
    metric: String,
    reference: Reference,
    /// Method and task as written, for messages.
    what: String,
    /// `FILE:LINE`, for messages.
    place: String,
}

/// The rows of all files that `--compare-where` left.
#[derive(Debug, Default)]
pub(crate) struct Published {
    records: Vec<Record>,
}

impl Published {
    /// Reads the files.
    pub(crate) fn read(files: &[PathBuf], filter: Option<&str>) -> Result<Self, CliError> {
        let filter = filter.map(|text| parse_filter("--compare-where", text)).transpose()?;
        let mut records = Vec::new();
        for file in files {
            let failed = |source| CliError::ReadPublished { file: file.clone(), source };
            if fs::metadata(file).map_err(failed)?.len() > MAX_BYTES {
                return Err(invalid(
                    file,
                    format!("has more than {MAX_BYTES} bytes: is it a table of results?"),
                ));
            }
            let text = fs::read_to_string(file).map_err(failed)?;
            records.extend(parse(file, &text, filter.as_ref())?);
        }
        Ok(Self { records })
    }

    /// What was published of a method on a task. Two numbers that differ are an error: either could be meant.
    pub(crate) fn find(
        &self,
        metric: &str,
        method: &str,
        task: &str,
    ) -> Result<Option<&Reference>, CliError> {
        let metric = metric.rsplit('/').next().unwrap_or(metric);
        let names = PRINTED.iter().filter(|(ours, _)| *ours == metric).map(|(_, printed)| *printed);
        let names: Vec<&str> = names.chain([metric]).collect();
        self.one(method, task, |given| names.contains(&given) || given == format!("{metric}_mean5"))
    }

    /// A published mean over tasks, or the mean of the published tasks where all of them are there.
    pub(crate) fn mean(
        &self,
        metric: &str,
        method: &str,
        mean: &groups::Mean,
        tasks: &[&str],
    ) -> Result<Option<Reference>, CliError> {
        let suffix = match mean.name {
            groups::MEAN_OF_GROUPS => "mean_of_groups",
            groups::MEAN_OF_TASKS | groups::FGVC_MEAN => "task_mean",
            _ => "group_mean",
        };
        let task = match mean.name {
            groups::MEAN_OF_GROUPS | groups::MEAN_OF_TASKS => "ALL19",
            groups::FGVC_MEAN => "ALL5",
            name => name,
        };
        let short = metric.rsplit('/').next().unwrap_or(metric);
        let wanted = format!("{short}_{suffix}");
        if let Some(printed) = self.one(method, task, |given| given == wanted)? {
            return Ok(Some(printed.clone()));
        }
        let mut value = 0.0;
        let mut source = String::new();
        for (index, weight) in &mean.parts {
            let task = tasks.get(*index).copied().unwrap_or_default();
            let Some(found) = self.find(metric, method, task)? else { return Ok(None) };
            value += weight * found.value;
            source.clone_from(&found.source);
        }
        Ok(Some(Reference { value, source: format!("mean of the tasks of {source}") }))
    }

    fn one(
        &self,
        method: &str,
        task: &str,
        metric: impl Fn(&str) -> bool,
    ) -> Result<Option<&Reference>, CliError> {
        let (method, task) = (plain(method), plain(task));
        let is_it =
            |record: &&Record| record.method == method && record.task == task && metric(&record.metric);
        let mut found = self.records.iter().filter(is_it);
        let Some(first) = found.next() else { return Ok(None) };
        match found.find(|other| other.reference.value != first.reference.value) {
            None => Ok(Some(&first.reference)),
            Some(other) => Err(CliError::AmbiguousPublished {
                what: first.what.clone(),
                places: [first.place.clone(), other.place.clone()],
            }),
        }
    }
}

/// Reads an expression of the command line.
pub(crate) fn parse_filter(flag: &'static str, text: &str) -> Result<Filter, CliError> {
    Filter::parse(text).map_err(|error| CliError::InvalidFilter { flag, error })
}

fn invalid(file: &Path, message: String) -> CliError {
    CliError::InvalidPublished { file: file.to_owned(), message }
}

fn parse(file: &Path, text: &str, filter: Option<&Filter>) -> Result<Vec<Record>, CliError> {
    let mut reader = csv::Reader::from_reader(text.trim_start_matches('\u{feff}').as_bytes());
    let header = reader.headers().map_err(|error| invalid(file, format!("cannot be read: {error}")))?.clone();
    let names: Vec<&str> = header.iter().collect();
    if let Some(missing) = REQUIRED.iter().find(|name| !names.contains(name)) {
        return Err(invalid(
            file,
            format!("has no column `{missing}`; it has {}", crate::error::listed(&names)),
        ));
    }
    if let Some(filter) = filter {
        let checked = filter.check(&names, |_| None);
        checked.map_err(|error| CliError::InvalidFilter { flag: "--compare-where", error })?;
    }
    let mut records = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|error| invalid(file, format!("cannot be read: {error}")))?;
        let line = row.position().map_or(0, csv::Position::line);
        let fields: BTreeMap<&str, &str> = names.iter().copied().zip(row.iter().map(str::trim)).collect();
        let field = |name: &str| fields.get(name).copied().unwrap_or_default();
        if filter.is_some_and(|filter| !filter.matches(|name| fields.get(name).map(|text| scalar(text)))) {
            continue;
        }
        let text = field("value");
        if text.is_empty() {
            continue;
        }
        let value = text.parse::<f64>().ok().filter(|value| value.is_finite()).ok_or_else(|| {
            let message = format!("line {line}: `value` is {text:?}: write a finite number, or nothing");
            invalid(file, message)
        })?;
        let source = match field("source") {
            "" => file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            source => source.split_whitespace().collect::<Vec<_>>().join(" "),
        };
        records.push(Record {
            method: plain(field("method")),
            task: plain(field("task")),
            metric: field("metric").to_owned(),
            reference: Reference { value, source },
            what: format!("`{}` on `{}`", field("method"), field("task")),
            place: format!("{}:{line}", file.display()),
        });
    }
    Ok(records)
}

/// A field as an expression sees it.
fn scalar(text: &str) -> Value {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => number.into(),
        _ if text.is_empty() => Value::Null,
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
method,backbone,task,metric,value,source
VPT-Deep,ViT-B/16,dtd,top1,65.8,\"VPT,  table 1\"
VPT-Deep,ViT-B/16,cifar,top1,78.8,\"VPT,  table 1\"
VPT-Deep,ViT-L/16,dtd,top1,70.1,
VPT-Deep,ViT-B/16,Natural,top1_group_mean,78.48,printed
Gated,ViT-B/16,dtd,top1,,
";

    fn published(filter: Option<&str>) -> Result<Published, CliError> {
        let filter = filter.map(|text| Filter::parse(text).expect("valid"));
        parse(Path::new("p.csv"), TEXT, filter.as_ref()).map(|records| Published { records })
    }

    #[test]
    fn names_are_matched_without_case_and_punctuation() {
        let published = published(Some("backbone = ViT-B/16")).expect("valid");
        let found = published.find("test/top1", "vpt_deep", "vtab/dtd").expect("one");
        assert_eq!(found, Some(&Reference { value: 65.8, source: "VPT, table 1".into() }));
        assert_eq!(published.find("test/top1", "gated", "vtab/dtd").expect("none"), None, "no value");
        assert_eq!(published.find("test/top5", "vpt_deep", "vtab/dtd").expect("none"), None);
        assert_eq!(published.find("test/top1", "linear", "vtab/dtd").expect("none"), None);
    }

    #[test]
    fn published_label_maps_are_found_by_our_names_of_their_scores() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sweeps/published/ade20k.csv");
        let filter = "backbone = ViT-B/16 and pretraining = MAE and note != 24";
        let published = Published::read(&[file], Some(filter)).expect("valid");
        let value = |metric: &str, method: &str| {
            published.find(metric, method, "ade20k").expect("one").map(|found| found.value)
        };
        assert_eq!((value("test/miou", "gated"), value("test/miou_ms", "gated")), (Some(38.44), Some(39.81)));
        assert_eq!((value("val/miou", "vpt_deep"), value("test/accuracy", "gated")), (Some(37.76), None));
    }

    #[test]
    fn two_different_numbers_are_an_error_that_says_where_they_stand() {
        let error =
            published(None).expect("valid").find("test/top1", "vpt_deep", "vtab/dtd").expect_err("two");
        insta::assert_snapshot!(error, @r#"two published numbers of `VPT-Deep` on `dtd`, at p.csv:2 and p.csv:4: choose by --compare-where, as in "pretraining = MAE""#);
    }

    #[test]
    fn a_mean_is_the_printed_one_or_that_of_the_tasks() {
        let published = published(Some("backbone = ViT-B/16")).expect("valid");
        let tasks = ["vtab/dtd", "vtab/cifar", "vtab/svhn"];
        let mean = |name, parts: &[(usize, f64)]| groups::Mean { name, parts: parts.to_vec() };
        let natural = mean("Natural", &[(0, 0.5), (1, 0.5)]);
        let found = published.mean("test/top1", "vpt_deep", &natural, &tasks).expect("one");
        assert_eq!(found, Some(Reference { value: 78.48, source: "printed".into() }));
        let other = mean("Structured", &[(0, 0.5), (1, 0.5)]);
        let found = published.mean("test/top1", "vpt_deep", &other, &tasks).expect("one").expect("complete");
        assert!((found.value - 72.3).abs() < 1e-9 && found.source == "mean of the tasks of VPT, table 1");
        let holed = mean("Structured", &[(0, 0.5), (2, 0.5)]);
        assert_eq!(published.mean("test/top1", "vpt_deep", &holed, &tasks).expect("none"), None);
    }

    #[test]
    fn wrong_files_name_the_line_and_the_mend() {
        let wrong = [
            "method,task,value\na,b,1\n",
            "method,task,metric,value\na,b,top1,NaN\n",
            "method,task,metric,value\na,b,top1,1\na,c,top1,87.2%\n",
            "method,task,metric,value\na,b\n",
        ];
        let error = |text| parse(Path::new("p.csv"), text, None).expect_err(text).to_string();
        insta::assert_snapshot!(wrong.map(error).join("\n"));
        let unknown = published(Some("model = x")).expect_err("no such column");
        assert!(unknown.to_string().contains("unknown name `model`"), "{unknown}");
    }
}
