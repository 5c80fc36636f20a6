//! The sweep file from top to bottom: its own keys, section by section, then its space.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::SpecErrors;
use super::fields::{Field, Problems, Section, join};
use super::metrics::{COST_METRICS, SCORE_METRICS};
use super::{
    At, Backoff, Checkpoint, Goal, Limits, Objective, Resources, Retry, Reuse, Sampler, Spec, axes,
    early_stop, overrides, plan_stages, search, stages,
};
use crate::FailureClass;
use crate::recipe;
use crate::space;
use crate::value::{self, Value};
use crate::yaml::{self, Kind, Mark, Node};

/// The keys of this version, in the order of the documentation.
pub const KEYS: &[&str] = &[
    "version",
    "kind",
    "name",
    "project",
    "labels",
    "objective",
    "report",
    "search",
    "base",
    "axes",
    "blocks",
    "zip",
    "exclude",
    "include",
    "replicates",
    "stages",
    "allow_test_selection",
    "early_stop",
    "limits",
    "resources",
    "retry",
    "checkpoint",
    "priority",
    "reuse",
    "share_prefix",
];

const MAX_LABELS: usize = 64;
const MAX_LABEL: usize = 256;

pub(super) fn parse(file_name: &str, text: &str, settings: &[String]) -> Result<Spec, SpecErrors> {
    let mut problems = Problems::new(file_name, settings);
    let spec = match yaml::parse(text, 0) {
        Ok(mut root) => {
            overrides::apply(&mut root, settings, &mut problems);
            file(&root, &mut problems)
        }
        Err(error) => {
            problems.error(error.at, "", error.to_string());
            None
        }
    };
    if let (None, true) = (&spec, problems.is_empty()) {
        let start = Mark { source: 0, line: 1, column: 1 };
        problems.error(start, "", "is no sweep file");
    }
    let warnings = std::mem::take(&mut problems.warnings);
    match (SpecErrors::new(problems.into_errors()), spec) {
        (Some(errors), _) => Err(errors),
        (None, Some(spec)) => Ok(Spec { warnings, ..spec }),
        (None, None) => unreachable!("a missing spec has been noted as a problem"),
    }
}

fn file(root: &Node, problems: &mut Problems<'_>) -> Option<Spec> {
    let top = top(root, problems)?;
    let name = header(&top, problems);
    let project = top.get("project").and_then(|field| field.name(problems));
    let labels = labels(top.get("labels"), problems);
    let allow_test_selection =
        top.get("allow_test_selection").and_then(|field| field.bool(problems)).unwrap_or(false);
    let objective = objective(&top, allow_test_selection, problems);
    let report = report(&top, problems);
    let (search, has_sampler) = search::read(&top, problems);
    let seeds = seeds(&top, &[0], problems);
    let limits = limits(&top, problems);
    let resources = resources(&top, problems);
    let retry = retry(&top, problems);
    let checkpoint = checkpoint(&top, problems);
    let priority = top.get("priority").and_then(|field| field.integer(-1000..=1000, problems)).unwrap_or(0);
    let reuse = top.get("reuse").and_then(|field| field.choice(&Reuse::NAMES, problems));
    let share_prefix = top.get("share_prefix").and_then(|field| field.bool(problems)).unwrap_or(true);
    let mut space = axes::space(&top, search.sampler == Sampler::Grid && has_sampler, problems);
    space.per = search::per(&top, search.sampler, &space, problems);
    let written = stages::read(&top, &mut space, &seeds, problems);
    let seeds = written.first().map_or(seeds, |first| first.stage.seeds.clone());
    let axes = axes::varied_keys(&space, &written);
    let studies = search::studies(&top, search, &space, problems);
    // Expanding a space that was not understood would only add noise.
    if problems.is_empty() {
        space.studies = studies.clone();
        space::expand(&mut space, search, seeds.len() as u64, problems);
    }
    if problems.is_empty() {
        search::check_examples(&top, &space, problems);
    }
    let stages = if problems.is_empty() {
        plan_stages::complete(&top, written, &space, &objective, allow_test_selection, problems)
    } else {
        Vec::new()
    };
    let early_stop = early_stop::read(&top, &space, &stages, &axes, problems);
    Some(Spec {
        name: name?,
        project,
        labels,
        objective,
        report,
        search,
        studies,
        seeds,
        stages,
        allow_test_selection,
        early_stop,
        limits,
        resources,
        retry,
        checkpoint,
        priority: i32::try_from(priority).ok()?,
        reuse: reuse.unwrap_or(Reuse::Never),
        share_prefix,
        axes,
        warnings: Vec::new(),
        space,
    })
}

/// The file's map, its keys known.
fn top<'n>(root: &'n Node, problems: &mut Problems<'_>) -> Option<Section<'n>> {
    let Kind::Map(entries) = &root.kind else {
        problems.error(root.at, "", "a sweep file is a map that begins with `version: 1`");
        return None;
    };
    for entry in entries {
        let key = entry.key.as_str();
        if recipe::is_key(key) {
            problems.error(entry.at, key, "is a parameter of trials: write it under `base` or `axes`");
        } else if !KEYS.contains(&key) {
            problems.error(entry.at, key, recipe::unknown("key", key, KEYS));
        }
    }
    Some(Section { at: root.at, path: String::new(), entries })
}

/// `version`, `kind` and `name`; the name.
fn header(top: &Section<'_>, problems: &mut Problems<'_>) -> Option<String> {
    if let Some(field) = top.require("version", problems)
        && let Some(version) = field.integer(1..=i64::MAX, problems)
        && version != 1
    {
        field.error(problems, format!("is {version}, and this program reads version 1"));
    }
    if let Some(field) = top.get("kind") {
        field.choice(&[("sweep", ())], problems);
    }
    top.require("name", problems)?.name(problems)
}

fn labels(field: Option<Field<'_>>, problems: &mut Problems<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let Some(field) = field else { return labels };
    let Some(section) = field.entries("a map of names to strings", problems) else { return labels };
    if section.entries.len() > MAX_LABELS {
        field.error(problems, format!("more than {MAX_LABELS} labels"));
    }
    for entry in section.entries {
        let path = join(&section.path, &entry.key);
        if let Err(message) = recipe::check_name(&entry.key) {
            problems.error(entry.at, &path, message);
        }
        let text = match &entry.value.kind {
            Kind::Scalar(Value::String(s)) if s.len() <= MAX_LABEL => s.clone(),
            Kind::Scalar(Value::Int(i)) => i.to_string(),
            Kind::Scalar(Value::Float(x)) => value::number(*x),
            Kind::Scalar(Value::Bool(b)) => b.to_string(),
            _ => {
                let message = format!("must be a string of at most {MAX_LABEL} bytes");
                problems.error(entry.value.at, &path, message);
                continue;
            }
        };
        labels.insert(entry.key.clone(), text);
    }
    labels
}

fn objective(top: &Section<'_>, allow_test: bool, problems: &mut Problems<'_>) -> Objective {
    let mut objective = Objective { metric: "val/top1".to_owned(), goal: Goal::Maximize, at: At::Last };
    let Some(field) = top.get("objective") else { return objective };
    let Some(section) = field.section(&["metric", "goal", "at"], problems) else { return objective };
    if let Some(field) = section.get("metric")
        && let Some(metric) = field.string("the name of a metric", problems)
    {
        if metric.starts_with("test/") && !allow_test {
            field.error(
                problems,
                "the test images must not choose: use a `val/` metric, and put this under `report`; whoever wants it \
                 all the same says `allow_test_selection: true`",
            );
        } else if COST_METRICS.contains(&metric) {
            field.error(problems, "is a cost, no score: put it under `report`");
        } else if SCORE_METRICS.contains(&metric) {
            metric.clone_into(&mut objective.metric);
        } else {
            let known: Vec<&str> =
                SCORE_METRICS.iter().copied().filter(|name| !name.starts_with("test/")).collect();
            field.error(problems, recipe::unknown("metric", metric, &known));
        }
    }
    let is_loss = objective.metric.ends_with("/loss");
    objective.goal = if is_loss { Goal::Minimize } else { Goal::Maximize };
    if let Some(field) = section.get("goal")
        && let Some(goal) =
            field.choice(&[("maximize", Goal::Maximize), ("minimize", Goal::Minimize)], problems)
    {
        if goal != objective.goal {
            let (goal, metric) = (goal.name(), &objective.metric);
            problems
                .warnings
                .push(format!("objective: `goal: {goal}` of `{metric}` looks for the worst trial"));
        }
        objective.goal = goal;
    }
    if let Some(at) =
        section.get("at").and_then(|field| field.choice(&[("last", At::Last), ("best", At::Best)], problems))
    {
        objective.at = at;
    }
    objective
}

fn report(top: &Section<'_>, problems: &mut Problems<'_>) -> Vec<String> {
    let Some(items) = top.get("report").and_then(|field| field.list("a list of metrics", problems)) else {
        return Vec::new();
    };
    let known: Vec<&str> = SCORE_METRICS.iter().chain(COST_METRICS).copied().collect();
    let mut report: Vec<String> = Vec::new();
    for item in items {
        let Some(metric) = item.string("the name of a metric", problems) else { continue };
        if !known.contains(&metric) {
            item.error(problems, recipe::unknown("metric", metric, &known));
        } else if report.iter().any(|known| known == metric) {
            item.error(problems, format!("`{metric}` is listed twice"));
        } else {
            report.push(metric.to_owned());
        }
    }
    report
}

/// `replicates` of the file or of a stage.
pub(super) fn seeds(top: &Section<'_>, default: &[i64], problems: &mut Problems<'_>) -> Vec<i64> {
    let default = default.to_vec();
    let Some(section) = top.get("replicates").and_then(|field| field.section(&["seeds"], problems)) else {
        return default;
    };
    let Some(items) = section.require("seeds", problems).and_then(|f| f.list("a list of integers", problems))
    else {
        return default;
    };
    let mut seeds = Vec::new();
    for item in items {
        let Some(seed) = item.integer(0..=i64::MAX, problems) else { continue };
        seeds.push((seed, item));
    }
    seeds.sort_by_key(|(seed, _)| *seed);
    for pair in seeds.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        pair[1].1.error(problems, format!("seed {} is listed twice", pair[1].0));
    }
    // In the order of the file.
    seeds.sort_by_key(|(_, item)| (item.node.at, item.path.clone()));
    seeds.into_iter().map(|(seed, _)| seed).collect()
}

fn limits(top: &Section<'_>, problems: &mut Problems<'_>) -> Limits {
    let mut limits = Limits {
        max_running: None,
        trial_timeout: None,
        pause_after_failures: Some(20),
        pause_after_code_errors: Some(5),
    };
    let Some(field) = top.get("limits") else { return limits };
    let keys = ["max_running", "trial_timeout", "pause_after_failures", "pause_after_code_errors"];
    let Some(section) = field.section(&keys, problems) else { return limits };
    let given = |key: &str| section.get(key).filter(|field| !field.is_null());
    limits.max_running = given("max_running").and_then(|field| field.u32(1..=1_000_000, problems));
    if let Some(field) = given("trial_timeout")
        && let Some(timeout) = field.duration(problems)
    {
        if timeout.is_zero() {
            field.error(problems, "no trial ends in no time: leave it out for no timeout");
        }
        limits.trial_timeout = Some(timeout);
    }
    if let Some(field) = section.get("pause_after_failures") {
        limits.pause_after_failures = if field.is_null() { None } else { field.u32(1..=1_000_000, problems) };
    }
    if let Some(field) = section.get("pause_after_code_errors") {
        limits.pause_after_code_errors =
            if field.is_null() { None } else { field.u32(1..=1_000_000, problems) };
    }
    limits
}

fn resources(top: &Section<'_>, problems: &mut Problems<'_>) -> Resources {
    let mut resources = Resources::default();
    let Some(field) = top.get("resources") else { return resources };
    let Some(section) = field.section(&["gpu", "gpu_memory", "share", "labels"], problems) else {
        return resources;
    };
    let gpus = section.get("gpu").and_then(|field| field.integer(0..=1, problems));
    // Any memory will do.
    resources.gpu_memory_mib = u64::from(gpus == Some(1));
    if let Some(field) = section.get("gpu_memory")
        && let Some(text) = field.string("an amount of memory like `16GiB`", problems)
    {
        match mebibytes(text) {
            Some(mib) => resources.gpu_memory_mib = mib,
            None => field.error(problems, "must be a whole number with `MiB` or `GiB`, from 1MiB to 4096GiB"),
        }
        if gpus == Some(0) {
            field.error(problems, "is memory of a GPU, and `gpu: 0` asks for none: leave one of them out");
        }
    }
    if let Some(field) = section.get("share")
        && field.bool(problems) == Some(false)
    {
        let mend =
            "trials do not choose what runs beside them: start workers with one slot for each GPU instead";
        field.error(problems, mend);
    }
    resources.labels = labels(section.get("labels"), problems);
    resources
}

fn mebibytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "MiB" => 1,
        "GiB" => 1024,
        _ => return None,
    };
    let mib = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (1..=4096 * 1024).contains(&mib).then_some(mib)
}

fn retry(top: &Section<'_>, problems: &mut Problems<'_>) -> Retry {
    let mut retry = Retry {
        max_attempts: 3,
        backoff: Backoff { first: Duration::from_secs(10), factor: 2.0, max: Duration::from_secs(600) },
        never: vec![FailureClass::InvalidConfig, FailureClass::Diverged, FailureClass::BadData],
        poison_after: Some(5),
    };
    let Some(field) = top.get("retry") else { return retry };
    let keys = ["max_attempts", "backoff", "never", "poison_after"];
    let Some(section) = field.section(&keys, problems) else { return retry };
    if let Some(attempts) = section.get("max_attempts").and_then(|field| field.u32(1..=100, problems)) {
        retry.max_attempts = attempts;
    }
    if let Some(field) = section.get("poison_after") {
        retry.poison_after = if field.is_null() { None } else { field.u32(1..=100, problems) };
    }
    if let Some(field) = section.get("backoff") {
        backoff(&field, &mut retry.backoff, problems);
    }
    if let Some(field) = section.get("never") {
        let choices = FailureClass::ALL.map(|class| (class.name(), class));
        retry.never = match &field.node.kind {
            Kind::List(items) if items.is_empty() => Vec::new(),
            _ => {
                let items = field.list("a list of failure classes", problems).unwrap_or_default();
                items.iter().filter_map(|item| item.choice(&choices, problems)).collect()
            }
        };
    }
    retry
}

fn checkpoint(top: &Section<'_>, problems: &mut Problems<'_>) -> Checkpoint {
    let mut checkpoint = Checkpoint { every: Some(Duration::from_secs(600)), on_drain: true };
    let Some(field) = top.get("checkpoint") else { return checkpoint };
    let Some(section) = field.section(&["every", "on_drain"], problems) else { return checkpoint };
    if let Some(field) = section.get("every") {
        checkpoint.every = if field.is_null() { None } else { field.duration(problems) };
        if checkpoint.every.is_some_and(|every| every < Duration::from_secs(1)) {
            field.error(problems, "less than `1s` leaves no time to train: use null for none by time");
        }
    }
    if let Some(on_drain) = section.get("on_drain").and_then(|field| field.bool(problems)) {
        checkpoint.on_drain = on_drain;
    }
    checkpoint
}

fn backoff(field: &Field<'_>, backoff: &mut Backoff, problems: &mut Problems<'_>) {
    let Some(section) = field.section(&["first", "factor", "max"], problems) else { return };
    if let Some(first) = section.get("first").and_then(|field| field.duration(problems)) {
        backoff.first = first;
        backoff.max = backoff.max.max(first);
    }
    let is_factor = |x: f64| (1.0..=100.0).contains(&x);
    if let Some(factor) =
        section.get("factor").and_then(|field| field.float("a number from 1 to 100", is_factor, problems))
    {
        backoff.factor = factor;
    }
    if let Some(field) = section.get("max")
        && let Some(max) = field.duration(problems)
    {
        if max < backoff.first {
            field.error(problems, "is shorter than `first`");
        }
        backoff.max = max;
    }
}
