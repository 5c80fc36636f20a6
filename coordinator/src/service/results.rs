//! A configuration with the statistics of its trials.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use proto::v1;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::encode::count;
use crate::score::Statistic;
use crate::store::Error;
use crate::store::rows::{ConfigurationRow, OutcomesRow, corrupt};

/// Of the metrics that are `wanted`, or of all.
pub(super) fn configuration(
    row: ConfigurationRow,
    outcomes: Option<&OutcomesRow>,
    wanted: &[String],
) -> Result<v1::Configuration, Error> {
    let mut configuration = v1::Configuration {
        number: count(row.number),
        config_hash: row.hash,
        stage: row.stage,
        block: row.block,
        settings_json: row.settings_json,
        superseded: row.superseded != 0,
        objective: Some(v1::Statistic::default()),
        ..v1::Configuration::default()
    };
    let Some(outcomes) = outcomes else { return Ok(configuration) };
    let number = |value: i64| u32::try_from(value).unwrap_or_default();
    configuration.trials = number(outcomes.trials);
    configuration.succeeded = number(outcomes.succeeded);
    configuration.stopped = number(outcomes.stopped);
    configuration.diverged = number(outcomes.diverged);
    configuration.reused = number(outcomes.reused);
    configuration.failed = number(outcomes.failed - outcomes.diverged);
    let wrong = |what: String| corrupt("result", row.number, what);
    let scores: Result<Vec<f64>, _> =
        outcomes.objectives.iter().flat_map(|list| list.split(',')).map(str::parse).collect();
    let scores = scores.map_err(|_| wrong("a score is no number".to_owned()))?;
    configuration.objective = Some(statistic(&scores));
    if let Some(metrics) = &outcomes.metrics_json {
        let mut found = Metrics { wanted, values: BTreeMap::new() };
        let text = format!("[{metrics}]");
        let mut json = serde_json::Deserializer::from_str(&text);
        found.deserialize(&mut json).map_err(|error| wrong(error.to_string()))?;
        let statistics = found.values.into_iter().map(|(name, values)| (name, statistic(&values)));
        configuration.metrics = statistics.collect();
    }
    Ok(configuration)
}

fn statistic(values: &[f64]) -> v1::Statistic {
    let Statistic { mean, std, n } = Statistic::of(values);
    v1::Statistic { mean, std, n }
}

/// Collects the values of metrics from a list of maps; null is a value that was not finite. What nobody wants is passed over
/// without being kept: a page of results holds ten thousands of numbers.
struct Metrics<'a> {
    wanted: &'a [String],
    values: BTreeMap<String, Vec<f64>>,
}

/// A key, copied only where it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for &mut Metrics<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Metrics<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("metrics by name")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut maps: A) -> Result<(), A::Error> {
        while maps.next_element_seed(&mut *self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            if !self.wanted.is_empty() && !self.wanted.iter().any(|wanted| *wanted == *name) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let Some(value) = map.next_value::<Option<f64>>()?.filter(|value| value.is_finite()) else {
                continue;
            };
            match self.values.get_mut(&*name) {
                Some(values) => values.push(value),
                None => drop(self.values.insert(name.into_owned(), vec![value])),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> ConfigurationRow {
        ConfigurationRow {
            number: 3,
            hash: "ab".into(),
            stage: "tune".into(),
            block: String::new(),
            settings_json: "{}".into(),
            superseded: 0,
        }
    }

    fn outcomes(metrics: &str) -> OutcomesRow {
        OutcomesRow {
            config: 3,
            trials: 6,
            succeeded: 2,
            stopped: 1,
            failed: 3,
            reused: 0,
            diverged: 2,
            objectives: Some("0.10000000000000001,80.5".into()),
            metrics_json: Some(metrics.into()),
        }
    }

    #[test]
    fn statistics_are_of_what_was_measured_and_wanted() {
        let metrics = r#"{"val/top1":80,"odd\"name":1,"test/top1":null},{"val/top1":82,"test/top1":70}"#;
        let all = configuration(row(), Some(&outcomes(metrics)), &[]).unwrap();
        assert_eq!((all.trials, all.succeeded, all.stopped, all.diverged, all.failed), (6, 2, 1, 2, 1));
        assert_eq!(all.objective.unwrap().mean, 40.3);
        let of = |name: &str| all.metrics.get(name).map(|found| (found.mean, found.n));
        assert_eq!(of("val/top1"), Some((81.0, 2)));
        assert_eq!(of("test/top1"), Some((70.0, 1)));
        assert_eq!(of("odd\"name"), Some((1.0, 1)));
        let one = configuration(row(), Some(&outcomes(metrics)), &["test/top1".to_owned()]).unwrap();
        assert_eq!(one.metrics.len(), 1);
    }

    #[test]
    fn a_row_that_cannot_be_read_is_named() {
        for (metrics, objectives) in [("{\"a\":\"x\"}", "1"), ("{", "1"), ("{}", "x")] {
            let outcomes = OutcomesRow { objectives: Some(objectives.into()), ..outcomes(metrics) };
            let error = configuration(row(), Some(&outcomes), &[]).unwrap_err();
            assert!(matches!(error, Error::Corrupt { table: "result", .. }), "{error}");
        }
    }
}
