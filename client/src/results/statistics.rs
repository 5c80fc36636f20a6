//! Intervals and tests over seeds. Pure.
//!
//! The 95 % interval of a mean is mean ± t(0.975, n − 1) · s / √n, with the sample standard deviation s and Student's
//! t: it tells how far the mean over all possible seeds may be, and shrinks with more seeds, which s does not.

use proto::v1::Statistic;
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// A mean over seeds, or a mean of such means.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) mean: f64,
    /// Sample standard deviation over the seeds; none of one value, nor of a mean over tasks.
    pub(crate) std: Option<f64>,
    /// Half the width of the 95 % interval; none of one value.
    pub(crate) ci95: Option<f64>,
    /// Seeds; of a mean over tasks the fewest of a task.
    pub(crate) n: u32,
}

impl Summary {
    /// As the coordinator counted; none where nothing was measured.
    pub(crate) fn of(given: &Statistic) -> Option<Self> {
        let Statistic { mean, std, n } = *given;
        (n > 0).then(|| Self {
            mean,
            std: (n > 1).then_some(std),
            ci95: (n > 1).then(|| quantile(f64::from(n - 1)) * std / f64::from(n).sqrt()),
            n,
        })
    }

    /// Of single values.
    pub(crate) fn of_values(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let std = if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
        Self::of(&Statistic { mean, std, n: values.len() as u32 })
    }

    /// Σ wᵢ·meanᵢ of independent means, such as those of tasks. The variance is Σ wᵢ²·sᵢ²/nᵢ; its degrees of
    /// freedom are Welch's and Satterthwaite's. No interval where a part has a single seed.
    pub(crate) fn weighted(parts: &[(f64, Summary)]) -> Option<Self> {
        let n = parts.iter().map(|(_, part)| part.n).min()?;
        let mean = parts.iter().map(|(weight, part)| weight * part.mean).sum();
        let variance =
            |(weight, part): &(f64, Summary)| part.std.map(|std| (weight * std).powi(2) / f64::from(part.n));
        let variances: Option<Vec<f64>> = parts.iter().map(variance).collect();
        let ci95 = variances.map(|variances| {
            let total: f64 = variances.iter().sum();
            let inverse: f64 = variances
                .iter()
                .zip(parts)
                .map(|(variance, (_, part))| variance.powi(2) / f64::from(part.n - 1))
                .sum();
            if total > 0.0 { quantile(total.powi(2) / inverse) * total.sqrt() } else { 0.0 }
        });
        Some(Self { mean, std: None, ci95, n })
    }
}

/// t(0.975) for so many degrees of freedom.
fn quantile(freedom: f64) -> f64 {
    student(freedom).map_or(f64::NAN, |student| student.inverse_cdf(0.975))
}

fn student(freedom: f64) -> Option<StudentsT> {
    StudentsT::new(0.0, 1.0, freedom).ok()
}

/// A paired t-test: whether differences between two things that share their seeds are zero on average.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Paired {
    /// Of the differences.
    pub(crate) difference: Summary,
    /// Two-sided: the chance of a mean difference at least as large if there were none. None of a single pair.
    pub(crate) p: Option<f64>,
}

/// Tests differences; none where there is no pair.
pub(crate) fn paired(differences: &[f64]) -> Option<Paired> {
    let difference = Summary::of_values(differences)?;
    let p = difference.std.and_then(|std| {
        if std == 0.0 {
            return Some(if difference.mean == 0.0 { 1.0 } else { 0.0 });
        }
        let t = difference.mean * f64::from(difference.n).sqrt() / std;
        Some(2.0 * student(f64::from(difference.n - 1))?.cdf(-t.abs()))
    });
    Some(Paired { difference, p })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Option<f64>, expected: f64) {
        let found = found.expect("a number");
        assert!((found - expected).abs() < 1e-9 * expected.abs().max(1.0), "{found} is not {expected}");
    }

    #[test]
    fn intervals_are_those_of_student() {
        // t(0.975, 4) = 2.776445, s = √2.5.
        let summary = Summary::of_values(&[1.0, 2.0, 3.0, 4.0, 5.0]).expect("values");
        assert_eq!((summary.mean, summary.n), (3.0, 5));
        close(summary.std, 2.5f64.sqrt());
        close(summary.ci95, 1.963_243_161_478_359_4);
        // Two values: t(0.975, 1) = 12.706.
        close(Summary::of_values(&[0.0, 2.0]).expect("values").ci95, 12.706_204_736_432_095);
        let one = Summary::of_values(&[7.0]).expect("a value");
        assert_eq!(one, Summary { mean: 7.0, std: None, ci95: None, n: 1 });
        assert_eq!(Summary::of_values(&[]), None);
        assert_eq!(Summary::of(&Statistic::default()), None);
    }

    #[test]
    fn a_mean_over_tasks_has_a_smaller_interval_than_the_tasks() {
        let part = Summary::of_values(&[1.0, 2.0, 3.0, 4.0, 5.0]).expect("values");
        let mean = Summary::weighted(&[(0.5, part), (0.5, part)]).expect("parts");
        assert_eq!((mean.mean, mean.std, mean.n), (3.0, None, 5));
        // Equal variances: 8 degrees of freedom, t = 2.306, and s²/n = 0.5 becomes 0.25.
        close(mean.ci95, 2.306_004_135_033_371 * 0.5);
        let alone = Summary::weighted(&[(1.0, part)]).expect("a part");
        close(alone.ci95, part.ci95.expect("an interval"));
        let single = Summary::of_values(&[9.0]).expect("a value");
        assert_eq!(Summary::weighted(&[(0.5, part), (0.5, single)]).expect("parts").ci95, None);
        assert_eq!(Summary::weighted(&[]), None);
        let still = Summary { mean: 1.0, std: Some(0.0), ci95: Some(0.0), n: 2 };
        assert_eq!(Summary::weighted(&[(1.0, still)]).expect("a part").ci95, Some(0.0));
    }

    #[test]
    fn the_paired_test_is_that_of_student() {
        // By the closed form for three degrees of freedom.
        let test = paired(&[1.1, 0.5, 1.2, 0.5]).expect("pairs");
        close(Some(test.difference.mean), 0.825);
        close(test.p, 0.022_151_967_933_774_9);
        assert_eq!(paired(&[1.0]).expect("a pair").p, None);
        assert_eq!(paired(&[0.0, 0.0]).expect("pairs").p, Some(1.0));
        assert_eq!(paired(&[1.0, 1.0]).expect("pairs").p, Some(0.0));
        assert_eq!(paired(&[]), None);
    }
}
