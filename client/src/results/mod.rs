//! Results of a sweep as rows: one per configuration, with its settings read. Pure.

pub(crate) mod figures;
pub(crate) mod groups;
pub(crate) mod importance;
pub(crate) mod pivot;
pub(crate) mod published;
pub(crate) mod record;
pub(crate) mod statistics;
pub(crate) mod table;

use std::collections::{BTreeSet, HashMap};

use proto::v1::{Configuration, Objective, ResultsResponse, Statistic};
use serde_json::Value;

use self::statistics::Summary;
use crate::error::CliError;
use crate::filter::{Filter, FilterError};
use crate::format::{self, Settings};

/// Names that can be asked for beside the axes.
const STAGE: &str = "stage";
const BLOCK: &str = "block";
/// Parameters that every configuration has and tables are about; where no axis sets them, `base` does for all.
const IDENTITY: [&str; 3] = ["backbone", "task", "method"];
/// Names in expressions beside axes and metrics.
const COUNTS: [&str; 8] =
    ["number", "config_hash", "n", "trials", "diverged", "failed", "reused", "objective"];

/// What the coordinator said about a sweep's configurations, settings read.
#[derive(Debug, Clone)]
pub(crate) struct Results {
    pub(crate) objective: Objective,
    /// Metrics to show besides the objective.
    pub(crate) report: Vec<String>,
    /// Settings by name: the axes in the order of the file, then what blocks and `include` set besides.
    pub(crate) axes: Vec<String>,
    pub(crate) rows: Vec<Row>,
    /// Whether test images may choose.
    pub(crate) allow_test_selection: bool,
    /// Stages whose trials are scored on test images.
    pub(crate) test_stages: Vec<String>,
}

/// One configuration.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) configuration: Configuration,
    pub(crate) settings: Settings,
}

impl Row {
    pub(crate) fn objective(&self) -> Statistic {
        self.configuration.objective.unwrap_or_default()
    }

    /// A metric over the seeds; the objective's own metric is the score as the coordinator counts it.
    pub(crate) fn metric(&self, name: &str, objective: &Objective) -> Statistic {
        if name == objective.metric {
            return self.objective();
        }
        self.configuration.metrics.get(name).copied().unwrap_or_default()
    }

    /// A metric with its interval; none where nothing was measured.
    pub(crate) fn summary(&self, name: &str, objective: &Objective) -> Option<Summary> {
        Summary::of(&self.metric(name, objective))
    }

    /// A value by its name in expressions.
    fn named(&self, name: &str, objective: &Objective) -> Option<Value> {
        let configuration = &self.configuration;
        match name {
            "number" => Some(configuration.number.into()),
            "config_hash" => Some(configuration.config_hash.clone().into()),
            "n" => Some(configuration.succeeded.into()),
            "trials" => Some(configuration.trials.into()),
            "diverged" => Some(configuration.diverged.into()),
            "failed" => Some(configuration.failed.into()),
            "reused" => Some(configuration.reused.into()),
            "objective" => Summary::of(&self.objective()).map(|score| score.mean.into()),
            _ => {
                self.value(name).or_else(|| self.summary(name, objective).map(|summary| summary.mean.into()))
            }
        }
    }

    /// The value of an axis, of `stage` or of `block`; `None` where the configuration has none.
    pub(crate) fn value(&self, axis: &str) -> Option<Value> {
        let name = |text: &str| Some(Value::from(text)).filter(|_| !text.is_empty());
        match axis {
            STAGE => name(&self.configuration.stage),
            BLOCK => name(&self.configuration.block),
            _ => self.settings.get(axis).cloned(),
        }
    }
}

/// Groups of later stages open in the order in which they end. Their rows are put in the order of the file instead: that
/// in which their blocks and the values of their axes are first seen.
fn order_later_stages(rows: &mut [Row], axes: &[String]) {
    let Some(first) = rows.first().map(|row| row.configuration.stage.clone()) else { return };
    let later = rows.iter().position(|row| row.configuration.stage != first).unwrap_or(rows.len());
    if later == rows.len() {
        return;
    }
    let axes: Vec<&str> = [STAGE, BLOCK].into_iter().chain(axes.iter().map(String::as_str)).collect();
    let mut seen: HashMap<(&str, Option<Value>), usize> = HashMap::new();
    for row in rows.iter() {
        for axis in &axes {
            let rank = seen.len();
            seen.entry((axis, row.value(axis))).or_insert(rank);
        }
    }
    rows[later..].sort_by_cached_key(|row| -> Vec<usize> {
        axes.iter().map(|axis| seen[&(*axis, row.value(axis))]).collect()
    });
}

impl Results {
    pub(crate) fn read(reply: ResultsResponse) -> Result<Self, CliError> {
        let base = format::settings(&reply.first_recipe_json)?;
        let mut rows = Vec::with_capacity(reply.configurations.len());
        for configuration in reply.configurations {
            let mut settings = format::settings(&configuration.settings_json)?;
            for name in IDENTITY {
                if let Some(value) = base.get(name).filter(|_| !settings.contains_key(name)) {
                    settings.insert(name.to_owned(), value.clone());
                }
            }
            // All of its trials were tried again with other parameters: they are rows of another configuration.
            if configuration.trials > 0 {
                rows.push(Row { configuration, settings });
            }
        }
        let mut axes = reply.axes;
        let others: BTreeSet<&String> = rows.iter().flat_map(|row| row.settings.keys()).collect();
        let others: Vec<String> = others.into_iter().filter(|name| !axes.contains(name)).cloned().collect();
        axes.extend(others);
        order_later_stages(&mut rows, &axes);
        let objective = reply.objective.unwrap_or_default();
        let (allow_test_selection, test_stages) = (reply.allow_test_selection, reply.test_stages);
        Ok(Self { objective, report: reply.report, axes, rows, allow_test_selection, test_stages })
    }

    /// Keeps the configurations for which an expression holds. Its names are the axes, `stage`, `block`, the metrics
    /// (their means over the seeds) and the counts.
    pub(crate) fn only_where(mut self, filter: &Filter) -> Result<Self, FilterError> {
        let metrics = self.metrics();
        let known: Vec<&str> = self
            .axes
            .iter()
            .map(String::as_str)
            .chain([STAGE, BLOCK])
            .chain(COUNTS)
            .chain(metrics.iter().map(String::as_str))
            .collect();
        let stages = self.stages();
        let stages = |name: &str| (name == STAGE).then(|| stages.iter().map(String::as_str).collect());
        filter.check(&known, stages)?;
        let objective = self.objective.clone();
        self.rows.retain(|row| filter.matches(|name| row.named(name, &objective)));
        Ok(self)
    }

    /// Every metric that some row has, and those that the file asks for, in the order of the alphabet.
    pub(crate) fn metrics(&self) -> BTreeSet<String> {
        let found = self.rows.iter().flat_map(|row| row.configuration.metrics.keys());
        let asked = std::iter::once(&self.objective.metric).chain(&self.report);
        found.chain(asked).cloned().collect()
    }

    /// What a reader of any table of these rows has to know.
    pub(crate) fn notices(&self) -> Vec<String> {
        let reused: u32 = self.rows.iter().map(|row| row.configuration.reused).sum();
        let succeeded: u32 = self.rows.iter().map(|row| row.configuration.succeeded).sum();
        let taken_over = format!("{reused} of {succeeded} results were taken over from earlier trials");
        let superseded = self.rows.iter().filter(|row| row.configuration.superseded).count();
        let left = format!(
            "{superseded} configurations were chosen before the sweep was extended, and are not now: they are no candidates"
        );
        let stages = self.stages();
        let scored: Vec<&str> =
            stages.iter().filter(|stage| self.test_stages.contains(stage)).map(String::as_str).collect();
        let scores = format!(
            "the scores of stage {} are of test images: where one of several is shown, test images have chosen it",
            scored.join(", ")
        );
        let allowed =
            "test images may have chosen what is shown here (allow_test_selection: true)".to_owned();
        [
            (self.allow_test_selection, allowed),
            (!scored.is_empty(), scores),
            (reused > 0, taken_over),
            (superseded > 0, left),
        ]
        .into_iter()
        .filter_map(|(holds, notice)| holds.then_some(notice))
        .collect()
    }

    /// Keeps one stage.
    pub(crate) fn only_stage(mut self, stage: &str) -> Result<Self, CliError> {
        let known = self.stages();
        if !known.iter().any(|name| name == stage) {
            return Err(CliError::UnknownStage { name: stage.to_owned(), known });
        }
        self.rows.retain(|row| row.configuration.stage == stage);
        Ok(self)
    }

    /// Keeps the last stage that has a result: scores of two stages are of different splits, so that the best of
    /// both together would mean nothing.
    pub(crate) fn only_last_stage(self) -> Self {
        let with_result = self.rows.iter().rev().find(|row| row.objective().n > 0);
        let last = with_result.or(self.rows.last()).map(|row| row.configuration.stage.clone());
        match last {
            Some(stage) => Self {
                rows: self.rows.into_iter().filter(|row| row.configuration.stage == stage).collect(),
                ..self
            },
            None => self,
        }
    }

    /// Keeps the stage that tunes: later ones run what it has chosen.
    pub(crate) fn only_first_stage(self) -> Self {
        let first = self.stages().into_iter().next();
        let rows = self.rows.into_iter().filter(|row| Some(&row.configuration.stage) == first.as_ref());
        Self { rows: rows.collect(), ..self }
    }

    /// Stages in the order of the file.
    pub(crate) fn stages(&self) -> Vec<String> {
        let mut stages: Vec<String> = Vec::new();
        for row in &self.rows {
            if !stages.contains(&row.configuration.stage) {
                stages.push(row.configuration.stage.clone());
            }
        }
        stages
    }

    /// Axes (with `stage` and `block`) on which the rows differ, in the order to show them.
    pub(crate) fn varying(&self) -> Vec<String> {
        let differs = |axis: &str| self.distinct(|row| vec![row.value(axis)]) > 1;
        let mut names = Vec::new();
        if differs(STAGE) {
            names.push(STAGE.to_owned());
        }
        // A block that is told by its method already would be the same column twice.
        let methods = self.distinct(|row| vec![row.value("method")]);
        if differs(BLOCK) && self.distinct(|row| vec![row.value("method"), row.value(BLOCK)]) > methods {
            names.push(BLOCK.to_owned());
        }
        names.extend(self.axes.iter().filter(|axis| differs(axis)).cloned());
        names
    }

    fn distinct(&self, key: impl Fn(&Row) -> Vec<Option<Value>>) -> usize {
        let keys: BTreeSet<String> = self
            .rows
            .iter()
            .map(|row| key(row).iter().map(|value| format!("{value:?}|")).collect::<String>())
            .collect();
        keys.len()
    }

    /// Refuses a name that tells no configurations apart. What `base` alone sets is no axis: the coordinator
    /// sends what the axes, blocks and `include` set.
    pub(crate) fn check_axis(&self, axis: &str) -> Result<(), CliError> {
        let known = || self.axes.iter().map(String::as_str).chain([STAGE, BLOCK]);
        if known().any(|name| name == axis) {
            return Ok(());
        }
        Err(CliError::UnknownAxis { name: axis.to_owned(), known: known().map(str::to_owned).collect() })
    }

    /// Refuses a metric that is neither asked for by the file nor found in any result.
    pub(crate) fn check_metric(&self, metric: &str) -> Result<(), CliError> {
        let known = self.metrics();
        if known.contains(metric) {
            return Ok(());
        }
        Err(CliError::UnknownMetric { name: metric.to_owned(), known: known.into_iter().collect() })
    }

    /// Whether less of a metric is better.
    pub(crate) fn is_minimized(&self, metric: &str) -> bool {
        if metric == self.objective.metric {
            return self.objective.goal == "minimize";
        }
        metric.ends_with("/loss") || metric.starts_with("seconds/") || metric.starts_with("memory/")
    }

    /// How a configuration is chosen among others, for a badge: `val-last` is the last epoch's value on the images of
    /// `split.eval`.
    pub(crate) fn selection(&self) -> String {
        let of_metric = self.objective.metric.split('/').next().unwrap_or_default();
        let is_on_test = self.stages().iter().any(|stage| self.test_stages.contains(stage));
        let part = if of_metric == "val" && is_on_test { "test" } else { of_metric };
        format!("{part}-{}", self.objective.at)
    }

    /// The best of some rows by the objective. Seeds that diverged leave a mean over the lucky ones, so a
    /// configuration with any is chosen only where every other has no result. Ties go to the first in the file.
    pub(crate) fn best<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> Option<&'a Row> {
        let minimize = self.objective.goal == "minimize";
        // A stage that has chosen again has left behind what it chose before.
        let rows = rows.into_iter().filter(|row| !row.configuration.superseded);
        let scored = rows.filter(|row| row.objective().n > 0 && row.objective().mean.is_finite());
        scored.min_by(|a, b| {
            let by_score = a.objective().mean.total_cmp(&b.objective().mean);
            let by_score = if minimize { by_score } else { by_score.reverse() };
            let diverged = |row: &Row| row.configuration.diverged > 0;
            diverged(a)
                .cmp(&diverged(b))
                .then(by_score)
                .then_with(|| a.configuration.number.cmp(&b.configuration.number))
        })
    }
}

#[cfg(test)]
pub(crate) mod example {
    use super::*;

    pub(crate) fn statistic(mean: f64, std: f64, n: u32) -> Statistic {
        Statistic { mean, std, n }
    }

    /// A configuration of three trials in stage `tune`, scored by `val/top1`, with `test/top1` five below.
    pub(crate) fn configuration(number: u64, settings: &str, mean: f64) -> Configuration {
        Configuration {
            number,
            config_hash: format!("{number:064x}"),
            stage: "tune".into(),
            settings_json: settings.into(),
            trials: 3,
            succeeded: 3,
            objective: Some(statistic(mean, 0.5, 3)),
            metrics: [
                ("val/top1".to_owned(), statistic(mean, 0.5, 3)),
                ("test/top1".to_owned(), statistic(mean - 5.0, 1.25, 3)),
                ("seconds/cpu".to_owned(), statistic(61.234, 0.0, 3)),
            ]
            .into(),
            ..Configuration::default()
        }
    }

    pub(crate) fn reply(configurations: Vec<Configuration>) -> ResultsResponse {
        ResultsResponse {
            configurations,
            next_after: 0,
            objective: Some(Objective {
                metric: "val/top1".into(),
                goal: "maximize".into(),
                at: "last".into(),
            }),
            report: vec!["test/top1".into()],
            axes: vec!["task".into(), "lr".into(), "wd".into()],
            first_recipe_json: String::new(),
            ..ResultsResponse::default()
        }
    }

    /// Two methods on two tasks at two learning rates; some seeds diverged, some failed, some are missing.
    pub(crate) fn mixed() -> Results {
        let mut rows = Vec::new();
        let mut number = 0;
        for (method, bonus) in [("linear", 0.0), ("vpt_deep", 4.0)] {
            for (task, base) in [("elpv/defect", 70.0), ("elpv/type", 80.0)] {
                for (lr, step) in [("0.1", 0.0), ("2.5", 1.5)] {
                    number += 1;
                    let settings =
                        format!(r#"{{"method":"{method}","task":"{task}","lr":{lr},"wd":0.0001}}"#);
                    let mut row = configuration(number, &settings, base + bonus + step);
                    row.block = method.into();
                    rows.push(row);
                }
            }
        }
        // vpt_deep on elpv/defect: two seeds of lr 2.5 diverged, the third is the best of all.
        rows[5].diverged = 2;
        rows[5].succeeded = 1;
        rows[5].objective = Some(statistic(99.0, 0.0, 1));
        // linear on elpv/type: nothing at 0.1, one seed short at 2.5.
        rows[2] = Configuration {
            trials: 3,
            failed: 3,
            succeeded: 0,
            objective: None,
            metrics: Default::default(),
            ..rows[2].clone()
        };
        rows[3].succeeded = 2;
        rows[3].failed = 1;
        rows[3].objective = Some(statistic(81.5, 0.75, 2));
        Results::read(reply(rows)).expect("valid settings")
    }
}

#[cfg(test)]
mod tests {
    use super::example::{configuration, mixed, reply};
    use super::*;

    #[test]
    fn tables_say_what_test_images_chose() {
        let mut results = mixed();
        assert_eq!((results.selection().as_str(), results.notices()), ("val-last", Vec::new()));
        results.test_stages = vec!["tune".to_owned()];
        assert_eq!(results.selection(), "test-last");
        assert!(results.notices()[0].contains("the scores of stage tune are of test images"));
        results.allow_test_selection = true;
        assert!(results.notices()[0].contains("allow_test_selection: true"));
    }

    #[test]
    fn what_was_superseded_is_no_candidate() {
        let mut results = mixed();
        let best = results.best(&results.rows).expect("a best one").configuration.number;
        results
            .rows
            .iter_mut()
            .find(|row| row.configuration.number == best)
            .expect("it")
            .configuration
            .superseded = true;
        assert_ne!(results.best(&results.rows).expect("another").configuration.number, best);
        assert!(
            results.notices()[0].contains("1 configurations were chosen before"),
            "{:?}",
            results.notices()
        );
    }

    #[test]
    fn a_configuration_that_diverged_wins_only_alone() {
        let results = mixed();
        let best = results.best(&results.rows).expect("a best");
        assert_eq!(best.configuration.number, 8, "number 6 has the highest mean, of one lucky seed");
        let alone = results.best(&results.rows[5..6]).expect("alone");
        assert_eq!(alone.configuration.number, 6);
        assert!(results.best(&results.rows[2..3]).is_none(), "number 3 has no result");
    }

    #[test]
    fn minimising_takes_the_lowest_and_ties_the_first() {
        let mut reply = reply(
            (1..=3).map(|n| configuration(n, r#"{"lr":1}"#, [3.0, 2.0, 2.0][n as usize - 1])).collect(),
        );
        reply.objective.as_mut().expect("objective").goal = "minimize".into();
        let results = Results::read(reply).expect("valid");
        assert_eq!(results.best(&results.rows).expect("a best").configuration.number, 2);
    }

    #[test]
    fn varying_axes_come_in_file_order_and_fixed_ones_not_at_all() {
        assert_eq!(mixed().varying(), ["task", "lr", "method"], "wd is fixed, blocks equal methods");
    }

    #[test]
    fn rows_of_later_stages_stand_in_the_order_of_the_file() {
        let row = |number, stage: &str, settings: &str| {
            let mut row = configuration(number, settings, 80.0);
            row.stage = stage.to_owned();
            row
        };
        let rows = vec![
            row(1, "tune", r#"{"task":"b","lr":1}"#),
            row(2, "tune", r#"{"task":"b","lr":2}"#),
            row(3, "tune", r#"{"task":"a","lr":1}"#),
            row(4, "tune", r#"{"task":"a","lr":2}"#),
            row(5, "final", r#"{"task":"a","lr":1}"#),
            row(6, "final", r#"{"task":"b","lr":2}"#),
            row(7, "test", r#"{"task":"b","lr":2}"#),
        ];
        let results = Results::read(reply(rows)).expect("valid");
        let numbers: Vec<u64> = results.rows.iter().map(|row| row.configuration.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn two_blocks_of_one_method_are_told_apart() {
        let mut results = mixed();
        results.rows[0].configuration.block = "another".into();
        assert_eq!(results.varying(), ["block", "task", "lr", "method"]);
    }

    #[test]
    fn the_last_stage_with_a_result_is_taken() {
        let mut results = mixed();
        results.rows[7].configuration.stage = "final".into();
        assert_eq!(results.clone().only_last_stage().rows.len(), 1);
        results.rows[7].configuration.objective = None;
        assert_eq!(results.clone().only_last_stage().rows.len(), 7);
        let error = results.only_stage("finl").expect_err("no such stage");
        assert_eq!(error.to_string(), "`finl` is no stage of this sweep; it has `tune`, `final`");
    }

    #[test]
    fn what_blocks_set_is_an_axis_and_what_base_alone_sets_is_none() {
        let results = mixed();
        for name in ["task", "lr", "method", "stage", "block"] {
            assert!(results.check_axis(name).is_ok(), "{name}");
        }
        assert_eq!(results.check_axis("backbone").expect_err("in base").exit_code(), 2);
        let rows = vec![configuration(1, r#"{"lr":1,"backbone":"vit_b16_in21k"}"#, 80.0)];
        let results = Results::read(reply(rows)).expect("valid");
        assert!(results.check_axis("backbone").is_ok());
        assert_eq!(results.check_axis("method").expect_err("in base").exit_code(), 2);
    }

    #[test]
    fn what_a_table_is_about_is_known_though_base_alone_sets_it() {
        let recipe = r#"{"backbone":"vit_b16","method":"gated","task":"x","gate_init":5}"#;
        let rows = vec![configuration(1, r#"{"lr":1,"task":"elpv/type"}"#, 80.0)];
        let reply = ResultsResponse { first_recipe_json: recipe.into(), ..reply(rows) };
        let results = Results::read(reply).expect("valid");
        assert_eq!(results.axes, ["task", "lr", "wd", "backbone", "method"]);
        let value = |name| results.rows[0].value(name);
        assert_eq!(value("method"), Some("gated".into()));
        assert_eq!(value("task"), Some("elpv/type".into()), "an axis sets it");
        assert_eq!(value("gate_init"), None, "not every method has it");
    }

    #[test]
    fn expressions_see_axes_metrics_and_counts() {
        let numbers = |text: &str| {
            let filter = Filter::parse(text).expect("valid");
            let results = mixed().only_where(&filter).unwrap_or_else(|error| panic!("{error}"));
            results.rows.iter().map(|row| row.configuration.number).collect::<Vec<_>>()
        };
        assert_eq!(numbers("task = elpv/type and lr > 0.1"), [4, 8]);
        assert_eq!(numbers("diverged > 0 or failed = 3"), [3, 6]);
        assert_eq!(numbers("objective >= 81.5 and block = vpt_deep"), [6, 7, 8]);
        assert_eq!(numbers("test/top1 < 67 and stage = tune"), [1, 2]);
        assert_eq!(numbers("val/top1 = null"), [3]);
        let error = |text: &str| {
            mixed().only_where(&Filter::parse(text).expect("valid")).expect_err(text).to_string()
        };
        assert!(error("stage = final").contains("`stage` is never `final`; there are `tune`"));
        assert!(error("tsk = a").contains("did you mean `task`?"));
    }

    #[test]
    fn unknown_axes_and_metrics_are_named_with_what_there_is() {
        let results = mixed();
        insta::assert_snapshot!(results.check_axis("learning_rate").expect_err("unknown"), @"`learning_rate` is no axis of this sweep; it has `task`, `lr`, `wd`, `method`, `stage`, `block`");
        insta::assert_snapshot!(results.check_metric("top1").expect_err("unknown"), @"no result has a metric `top1`; there are `seconds/cpu`, `test/top1`, `val/top1`");
    }
}
