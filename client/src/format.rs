//! How names of the wire, numbers, durations and settings are written for people. Pure.

use std::collections::BTreeMap;

use clap::ValueEnum;
use proto::v1::{FailureClass, SweepState, TrialState};
use serde_json::Value;

use crate::error::CliError;
use crate::results::statistics::Summary;

/// Parameters of a configuration by name.
pub(crate) type Settings = BTreeMap<String, Value>;

/// Reads the settings of a trial or configuration as the coordinator sent them.
pub(crate) fn settings(json: &str) -> Result<Settings, CliError> {
    if json.is_empty() {
        return Ok(Settings::new());
    }
    serde_json::from_str(json).map_err(|source| CliError::BadReply { what: "settings", source })
}

/// A setting on a line: strings bare, the rest as JSON.
pub(crate) fn setting(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `true` for metrics that the wire carries as percentages from 0 to 100.
pub(crate) fn is_percentage(metric: &str) -> bool {
    let name = metric.rsplit('/').next().unwrap_or(metric);
    let name = name.strip_suffix("_ms").unwrap_or(name);
    matches!(name, "top1" | "top5" | "per_class" | "miou" | "accuracy" | "mean_accuracy")
}

/// Decimals to show of values like this one: two for percentages, else so many that four digits count.
/// `None`: too large or too small to write out.
fn decimals(name: &str, value: f64) -> Option<usize> {
    if is_percentage(name) {
        return Some(2);
    }
    let magnitude = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    (-4..=6).contains(&magnitude).then(|| usize::try_from(3 - magnitude).unwrap_or(0))
}

/// A metric's value: percentages with two decimals, anything else with four significant digits.
pub(crate) fn metric(name: &str, value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    match decimals(name, value) {
        Some(decimals) => format!("{value:.decimals$}"),
        None => format!("{value:.3e}"),
    }
}

/// What follows a mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Spread {
    /// Half the width of the 95 % interval, and the standard deviation in parentheses
    #[default]
    Both,
    /// Half the width of the 95 % interval of the mean
    Ci,
    /// The standard deviation over the seeds
    Std,
}

impl Spread {
    /// For captions.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Spread::Both => "mean ± 95 % interval (standard deviation) over seeds",
            Spread::Ci => "mean ± 95 % interval over seeds",
            Spread::Std => "mean ± standard deviation over seeds",
        }
    }
}

/// `mean ± interval (std)` with the same decimals, the mean alone for one value, a dash for none.
pub(crate) fn summary(name: &str, value: Option<Summary>, spread: Spread) -> String {
    let Some(value) = value else { return "–".to_owned() };
    let decimals = decimals(name, value.mean);
    let same = |number: f64| match decimals {
        Some(decimals) => format!("{number:.decimals$}"),
        None => metric(name, number),
    };
    let mut text = metric(name, value.mean);
    let (ci95, std) = match spread {
        Spread::Both => (value.ci95, value.std),
        Spread::Ci => (value.ci95, None),
        Spread::Std => (None, value.std),
    };
    match (ci95, std) {
        (Some(ci95), Some(std)) => text.push_str(&format!(" ± {} ({})", same(ci95), same(std))),
        (Some(width), None) | (None, Some(width)) => text.push_str(&format!(" ± {}", same(width))),
        (None, None) => {}
    }
    text
}

/// A number of an axis in a picture: as short as four digits allow.
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 || !(1e-4..1e6).contains(&value.abs()) {
        return format!("{value:.3e}").replace(".000e", "e").replace("0e0", "0");
    }
    let decimals = usize::try_from(3 - value.abs().log10().floor() as i32).unwrap_or(0);
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A difference of two values of a metric, with its sign.
pub(crate) fn difference(name: &str, value: f64) -> String {
    let text = metric(name, value.abs());
    let is_zero = text.chars().all(|c| matches!(c, '0' | '.'));
    let sign = if is_zero {
        ""
    } else if value < 0.0 {
        "−"
    } else {
        "+"
    };
    format!("{sign}{text}")
}

/// A duration in its two largest units.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    match whole {
        0..60 => format!("{whole}s"),
        60..3_600 => format!("{minutes}m {:02}s", whole % 60),
        3_600..86_400 => format!("{hours}h {minutes:02}m"),
        _ => format!("{days}d {hours:02}h"),
    }
}

/// A moment in UTC to the second; empty when there is none.
pub(crate) fn moment(at: Option<&prost_types::Timestamp>) -> String {
    at.map(|at| prost_types::Timestamp { seconds: at.seconds, nanos: 0 }.to_string()).unwrap_or_default()
}

/// Seconds since the epoch.
pub(crate) fn seconds(at: &prost_types::Timestamp) -> f64 {
    at.seconds as f64 + f64::from(at.nanos) * 1e-9
}

pub(crate) fn sweep_state(state: SweepState) -> &'static str {
    match state {
        SweepState::Unspecified => "unknown",
        SweepState::Active => "active",
        SweepState::Paused => "paused",
        SweepState::Ended => "ended",
        SweepState::Cancelled => "cancelled",
    }
}

pub(crate) fn trial_state(state: TrialState) -> &'static str {
    match state {
        TrialState::Unspecified => "unknown",
        TrialState::Waiting => "waiting",
        TrialState::Queued => "queued",
        TrialState::Running => "running",
        TrialState::Succeeded => "succeeded",
        TrialState::Stopped => "stopped",
        TrialState::Failed => "failed",
        TrialState::Cancelled => "cancelled",
    }
}

/// A class of failures on the wire.
pub(crate) fn class(class: sweeps::FailureClass) -> FailureClass {
    use sweeps::FailureClass as Class;
    match class {
        Class::InvalidConfig => FailureClass::InvalidConfig,
        Class::CodeError => FailureClass::CodeError,
        Class::Diverged => FailureClass::Diverged,
        Class::CudaOom => FailureClass::CudaOom,
        Class::HostOom => FailureClass::HostOom,
        Class::Timeout => FailureClass::Timeout,
        Class::BadData => FailureClass::BadData,
        Class::BadNode => FailureClass::BadNode,
        Class::Poison => FailureClass::Poison,
    }
}

/// The class of a failure in the words of sweep files; empty when nothing failed.
pub(crate) fn failure(class: FailureClass) -> &'static str {
    use sweeps::FailureClass as Class;
    let class = match class {
        FailureClass::Unspecified => return "",
        FailureClass::InvalidConfig => Class::InvalidConfig,
        FailureClass::CodeError => Class::CodeError,
        FailureClass::Diverged => Class::Diverged,
        FailureClass::CudaOom => Class::CudaOom,
        FailureClass::HostOom => Class::HostOom,
        FailureClass::Timeout => Class::Timeout,
        FailureClass::BadData => Class::BadData,
        FailureClass::BadNode => Class::BadNode,
        FailureClass::Poison => Class::Poison,
    };
    class.name()
}

#[cfg(test)]
mod tests {
    use proto::v1::Statistic;

    use super::*;

    #[test]
    fn classes_of_failures_have_the_same_names_on_both_sides() {
        for known in sweeps::FailureClass::ALL {
            assert_eq!(failure(class(known)), known.name());
        }
    }

    #[test]
    fn percentages_have_two_decimals_and_the_rest_four_digits() {
        for (name, value, expected) in [
            ("val/top1", 87.204, "87.20"),
            ("test/miou_ms", 38.8, "38.80"),
            ("test/per_class", 0.0, "0.00"),
            ("train/loss", 0.432_149, "0.4321"),
            ("train/loss", 0.001_234_56, "0.001235"),
            ("seconds/cpu", 1234.56, "1235"),
            ("params", 1_234_567.0, "1234567"),
            ("train/loss", 1e-9, "1.000e-9"),
            ("train/loss", 0.0, "0.000"),
            ("train/loss", -2.5, "-2.500"),
            ("val/top1", f64::NAN, "NaN"),
        ] {
            assert_eq!(metric(name, value), expected, "{name} {value}");
        }
    }

    #[test]
    fn a_summary_shows_its_spread_only_when_it_has_one() {
        let of =
            |n, spread| summary("val/top1", Summary::of(&Statistic { mean: 87.2, std: 0.351, n }), spread);
        assert_eq!(of(0, Spread::Both), "–");
        assert_eq!(of(1, Spread::Both), "87.20");
        assert_eq!(of(3, Spread::Both), "87.20 ± 0.87 (0.35)");
        assert_eq!(of(3, Spread::Ci), "87.20 ± 0.87");
        assert_eq!(of(3, Spread::Std), "87.20 ± 0.35");
        let loss = Summary::of(&Statistic { mean: 0.4321, std: 0.01, n: 3 });
        assert_eq!(summary("train/loss", loss, Spread::Std), "0.4321 ± 0.0100");
    }

    #[test]
    fn numbers_of_axes_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.1, "0.1"),
            (0.001, "0.001"),
            (1e-5, "1e-5"),
            (80.0, "80"),
            (81.256, "81.26"),
            (100_000.0, "100000"),
            (2.5e-7, "2.500e-7"),
            (-0.5, "-0.5"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn differences_have_a_sign() {
        assert_eq!(difference("top1", 1.234), "+1.23");
        assert_eq!(difference("top1", -0.5), "−0.50");
        assert_eq!(difference("top1", -0.001), "0.00");
    }

    #[test]
    fn failures_have_the_names_of_the_wire_in_lower_case() {
        for number in 1.. {
            let Ok(class) = FailureClass::try_from(number) else {
                assert_eq!(number as usize, sweeps::FailureClass::ALL.len() + 1);
                break;
            };
            let on_the_wire = class.as_str_name().trim_start_matches("FAILURE_CLASS_").to_lowercase();
            assert_eq!(failure(class), on_the_wire);
        }
        assert_eq!(failure(FailureClass::Unspecified), "");
    }

    #[test]
    fn durations_have_their_two_largest_units() {
        for (seconds, expected) in
            [(0.2, "0s"), (59.4, "59s"), (59.9, "1m 00s"), (3_725.0, "1h 02m"), (90_000.0, "1d 01h")]
        {
            assert_eq!(duration(seconds), expected);
        }
    }
}
