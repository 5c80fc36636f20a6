//! What a finished trial is worth: the sweep's objective, and statistics over seeds. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A sweep's `objective`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objective {
    pub metric: String,
    pub goal: Goal,
    pub at: At,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    Maximize,
    Minimize,
}

impl From<Goal> for sweeps::spec::Goal {
    fn from(goal: Goal) -> Self {
        match goal {
            Goal::Maximize => Self::Maximize,
            Goal::Minimize => Self::Minimize,
        }
    }
}

/// Which epoch's value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    Last,
    Best,
}

impl Objective {
    /// The score of an attempt that ended with `metrics`, having reported `values` of the objective's metric on the
    /// way. `None` when there is no finite value.
    pub fn score(&self, metrics: &BTreeMap<String, f64>, values: &[f64]) -> Option<f64> {
        let last = metrics.get(&self.metric).copied().filter(|value| value.is_finite());
        match self.at {
            At::Last => last,
            At::Best => {
                let all = values.iter().copied().chain(last).filter(|value| value.is_finite());
                all.reduce(match self.goal {
                    Goal::Maximize => f64::max,
                    Goal::Minimize => f64::min,
                })
            }
        }
    }
}

/// Mean and spread of one number over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Statistic {
    pub mean: f64,
    /// Sample standard deviation (n − 1); 0 when n < 2.
    pub std: f64,
    pub n: u32,
}

impl Statistic {
    /// Of these values; in two passes, so that a small spread about a large mean keeps its digits.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len();
        if n == 0 {
            return Self::default();
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let std = if n < 2 { 0.0 } else { (squares / (n - 1) as f64).sqrt() };
        Self { mean, std, n: n as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objective(goal: Goal, at: At) -> Objective {
        Objective { metric: "val/top1".to_owned(), goal, at }
    }

    fn metrics(value: f64) -> BTreeMap<String, f64> {
        BTreeMap::from([("val/top1".to_owned(), value), ("test/top1".to_owned(), 99.0)])
    }

    #[test]
    fn last_is_the_final_metric() {
        assert_eq!(objective(Goal::Maximize, At::Last).score(&metrics(70.0), &[80.0]), Some(70.0));
        assert_eq!(objective(Goal::Maximize, At::Last).score(&BTreeMap::new(), &[80.0]), None);
        assert_eq!(objective(Goal::Maximize, At::Last).score(&metrics(f64::NAN), &[]), None);
    }

    #[test]
    fn best_is_over_the_points_and_the_final_metric() {
        assert_eq!(objective(Goal::Maximize, At::Best).score(&metrics(70.0), &[60.0, 80.0]), Some(80.0));
        assert_eq!(objective(Goal::Minimize, At::Best).score(&metrics(70.0), &[60.0, 80.0]), Some(60.0));
        assert_eq!(objective(Goal::Minimize, At::Best).score(&metrics(50.0), &[60.0, f64::NAN]), Some(50.0));
        assert_eq!(objective(Goal::Minimize, At::Best).score(&BTreeMap::new(), &[]), None);
    }

    #[test]
    fn statistics() {
        assert_eq!(Statistic::of(&[]), Statistic { mean: 0.0, std: 0.0, n: 0 });
        assert_eq!(Statistic::of(&[3.0]), Statistic { mean: 3.0, std: 0.0, n: 1 });
        assert_eq!(Statistic::of(&[1.0, 2.0, 3.0]), Statistic { mean: 2.0, std: 1.0, n: 3 });
        assert_eq!(Statistic::of(&[1e9 + 1.0, 1e9 + 3.0]).std, 2.0f64.sqrt());
    }
}
