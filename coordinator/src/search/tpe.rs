//! The tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), multivariate, with the settings that Optuna has
//! for it (Watanabe, arXiv:2304.11127, appendix B).
//!
//! What has ended is ranked. The best γ(n) = min(⌈n/10⌉, 25) are `below`, all others `above`, those that still run among
//! them (the constant liar: nobody tries what somebody tries already). Each set is a density of kernels, one for each
//! configuration, and a prior over the whole space:
//!
//! ```text
//! p(x) = Σₖ wₖ · c(arm(x) | armₖ) · Πⱼ kⱼ(xⱼ | xₖⱼ)
//! ```
//!
//! Of 24 points drawn from l = p(· | below), that with the largest l(x) / g(x) is tried, g being p(· | above).
//!
//! * Coordinates lie in [0, 1]. On a continuous axis kⱼ is a normal density about xₖⱼ, cut off at the ends; on an ordered
//!   one of n steps, its mass on a cell of width 1/n. σ is the distance to the farther of the two neighbours of xₖⱼ among
//!   the kernels of its arm, and at least 1 / min(100, 1 + number of kernels). The prior is a normal about the middle with σ = 1.
//! * On an unordered axis of n values, kⱼ is 1 at xₖⱼ and 1/m everywhere, normalised; so is c for the arms.
//! * An axis that the other arm does not have is at its prior: blocks learn from each other what they share, and no more.
//! * wₖ is 1 for the newest 25, and falls to 1/n for the oldest; the prior has 1.

use rand::{Rng, RngExt};
use rand_chacha::ChaCha12Rng;
use sweeps::study::{Point, Scale};

use super::sampler::{Observation, Outcome, Sampler, Shape, Suggestion, compare};

/// Points that are drawn for a suggestion.
const CANDIDATES: usize = 24;
/// The newest so many kernels weigh the same.
const FLAT: usize = 25;
const MAX_BELOW: usize = 25;
const PRIOR_MEAN: f64 = 0.5;
const PRIOR_SIGMA: f64 = 1.0;
/// Up to so many steps, the masses of an axis are kept in a table.
const MAX_TABLE: u64 = 1_024;

/// The estimator.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tpe;

impl Sampler for Tpe {
    fn suggest(&self, shape: &Shape, history: &[Observation], rng: &mut ChaCha12Rng) -> Suggestion {
        let (below, above) = split(history);
        let (l, g) = (Density::of(shape, &below), Density::of(shape, &above));
        let mut scored: Vec<(f64, Point)> = (0..CANDIDATES)
            .map(|_| l.draw(rng))
            .map(|point| (l.log(&point) - g.log(&point), point))
            .collect();
        scored.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        Suggestion { points: scored.into_iter().map(|(_, point)| point).collect(), generation: None }
    }
}

/// The best, and all others, both in the order in which they were made.
fn split(history: &[Observation]) -> (Vec<&Point>, Vec<&Point>) {
    let ranks: Vec<_> = history.iter().map(|seen| seen.outcome.rank()).collect();
    let mut ranked: Vec<usize> = (0..history.len()).filter(|index| ranks[*index].is_some()).collect();
    ranked
        .sort_by(|a, b| compare(ranks[*a].unwrap_or((3, 0.0)), ranks[*b].unwrap_or((3, 0.0))).then(a.cmp(b)));
    let count = ranked.len().div_ceil(10).min(MAX_BELOW);
    let mut is_below = vec![false; history.len()];
    ranked.iter().take(count).for_each(|index| is_below[*index] = true);
    let chosen = |wanted: bool| {
        let of = history.iter().zip(&is_below).filter(move |(_, is_below)| **is_below == wanted);
        of.filter(|(seen, _)| seen.outcome != Outcome::Void).map(|(seen, _)| &seen.point).collect()
    };
    (chosen(true), chosen(false))
}

/// A mixture of products of kernels.
struct Density<'a> {
    shape: &'a Shape,
    /// Kernels of the same arm.
    groups: Vec<Group>,
    /// What a kernel that is chosen by chance is: a group and a place in it; `None`: the prior.
    kernels: Vec<Option<(usize, usize)>>,
    weights: Vec<f64>,
    log_total: f64,
}

struct Group {
    arm: usize,
    /// Coordinates from 0 to 1, or numbers of values: by axis of the arm, then by kernel.
    columns: Vec<Vec<f64>>,
    /// As `columns`: the width of each kernel.
    sigmas: Vec<Vec<f64>>,
    /// Of continuous axes: the logarithms of what the cut leaves of each kernel, over its height.
    log_masses: Vec<Vec<f64>>,
    log_weights: Vec<f64>,
}

impl<'a> Density<'a> {
    fn of(shape: &'a Shape, points: &[&Point]) -> Self {
        let count = points.len();
        let mut weights: Vec<f64> = (0..count).map(|index| weight(index, count)).collect();
        weights.push(1.0);
        let mut groups: Vec<Group> = Vec::new();
        let mut places = vec![None; shape.arms.len()];
        let mut kernels = Vec::with_capacity(count + 1);
        for (point, weight) in points.iter().zip(&weights) {
            let place = *places[point.arm].get_or_insert_with(|| {
                groups.push(Group::new(point.arm, shape.arms[point.arm].len()));
                groups.len() - 1
            });
            kernels.push(Some((place, groups[place].log_weights.len())));
            groups[place].add(shape, point, *weight);
        }
        kernels.push(None);
        let log_total = weights.iter().sum::<f64>().ln();
        groups.iter_mut().for_each(|group| group.complete(shape, count + 1));
        Self { shape, groups, kernels, weights, log_total }
    }

    /// The logarithm of the density at a point.
    fn log(&self, point: &Point) -> f64 {
        let axes = &self.shape.arms[point.arm];
        let priors: Vec<f64> =
            axes.iter().zip(&point.at).map(|(axis, at)| log_prior(self.shape.scales[*axis], *at)).collect();
        let arms = self.shape.arms.len() as f64;
        let mut terms = vec![-arms.ln() + priors.iter().sum::<f64>()];
        for group in &self.groups {
            let own = log_choice(group.arm == point.arm, arms, self.kernels.len());
            let first = terms.len();
            terms.extend(group.log_weights.iter().map(|weight| weight + own));
            for ((axis, at), prior) in axes.iter().zip(&point.at).zip(&priors) {
                let column = self.shape.arms[group.arm].iter().position(|other| other == axis);
                let terms = &mut terms[first..];
                match column {
                    Some(column) => {
                        group.add_logs(self.shape.scales[*axis], column, *at, self.kernels.len(), terms);
                    }
                    None => terms.iter_mut().for_each(|term| *term += prior),
                }
            }
        }
        log_sum(&terms) - self.log_total
    }

    fn draw(&self, rng: &mut impl Rng) -> Point {
        let mut at = rng.random::<f64>() * self.weights.iter().sum::<f64>();
        let chosen = self.weights.iter().position(|weight| {
            at -= weight;
            at < 0.0
        });
        let kernel = chosen.and_then(|index| self.kernels[index]);
        let group = kernel.map(|(group, place)| (&self.groups[group], place));
        let arms = self.shape.arms.len();
        let stays = rng.random::<f64>() < share_of_own(arms as f64, self.kernels.len());
        let arm = match group {
            Some((group, _)) if stays => group.arm,
            _ => rng.random_range(0..arms),
        };
        let at = self.shape.arms[arm].iter().map(|axis| {
            let of_kernel = group.and_then(|(group, place)| {
                let column = self.shape.arms[group.arm].iter().position(|other| other == axis)?;
                Some((group.columns[column][place], group.sigmas[column][place]))
            });
            draw(self.shape.scales[*axis], of_kernel, self.kernels.len(), rng)
        });
        Point { arm, at: at.collect() }
    }
}

impl Group {
    fn new(arm: usize, axes: usize) -> Self {
        Self {
            arm,
            columns: vec![Vec::new(); axes],
            sigmas: vec![Vec::new(); axes],
            log_masses: vec![Vec::new(); axes],
            log_weights: Vec::new(),
        }
    }

    fn add(&mut self, shape: &Shape, point: &Point, weight: f64) {
        self.log_weights.push(weight.ln());
        for ((column, axis), at) in self.columns.iter_mut().zip(&shape.arms[self.arm]).zip(&point.at) {
            column.push(unit(shape.scales[*axis], *at));
        }
    }

    /// What is known only when all kernels are there.
    fn complete(&mut self, shape: &Shape, kernels: usize) {
        let least = 1.0 / (1.0 + kernels as f64).min(100.0);
        for (place, axis) in shape.arms[self.arm].iter().enumerate() {
            let column = &self.columns[place];
            self.sigmas[place] = widths(column, least);
            if shape.scales[*axis] == Scale::Continuous {
                let log_mass =
                    |(mean, sigma): (&f64, &f64)| mass(0.0, 1.0, *mean, *sigma).ln() - log_height(*sigma);
                self.log_masses[place] = column.iter().zip(&self.sigmas[place]).map(log_mass).collect();
            }
        }
    }

    /// Adds the logarithms of all kernels at a coordinate of an axis.
    fn add_logs(&self, scale: Scale, column: usize, at: f64, kernels: usize, terms: &mut [f64]) {
        let (means, sigmas) = (&self.columns[column], &self.sigmas[column]);
        match scale {
            Scale::Continuous => {
                let kernels = means.iter().zip(sigmas).zip(&self.log_masses[column]);
                for (term, ((mean, sigma), log_mass)) in terms.iter_mut().zip(kernels) {
                    let z = (at - mean) / sigma;
                    *term += -0.5 * z * z - log_mass;
                }
            }
            Scale::Ordered(count) => {
                let kernels = terms.iter_mut().zip(means.iter().zip(sigmas));
                if count > MAX_TABLE {
                    kernels.for_each(|(term, (mean, sigma))| *term += log_cell(at, count, *mean, *sigma));
                    return;
                }
                // Kernels at the same step are alike.
                let mut table = vec![f64::NAN; count as usize];
                for (term, (mean, sigma)) in kernels {
                    let entry = &mut table[((mean * count as f64) as usize).min(count as usize - 1)];
                    if entry.is_nan() {
                        *entry = log_cell(at, count, *mean, *sigma);
                    }
                    *term += *entry;
                }
            }
            Scale::Unordered(count) => {
                let [own, other] = [true, false].map(|is_own| log_choice(is_own, count as f64, kernels));
                for (term, mean) in terms.iter_mut().zip(means) {
                    *term += if *mean == at { own } else { other };
                }
            }
        }
    }
}

/// Of each kernel the distance to the farther of its neighbours; of one alone, to the farther end.
fn widths(means: &[f64], least: f64) -> Vec<f64> {
    let mut places = means.to_vec();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let width = |mean: &f64| {
        let place = places.partition_point(|other| other < mean);
        let before = place.checked_sub(1).map(|before| mean - places[before]);
        let after = places.get(place + 1).map(|after| after - mean);
        let width = match (before, after) {
            (None, None) => mean.max(1.0 - mean),
            (before, after) => before.unwrap_or(0.0).max(after.unwrap_or(0.0)),
        };
        width.clamp(least, 1.0)
    };
    means.iter().map(width).collect()
}

/// How much the `index`-th oldest of so many kernels weighs.
fn weight(index: usize, count: usize) -> f64 {
    let ramp = count.saturating_sub(FLAT);
    if index >= ramp {
        return 1.0;
    }
    let least = 1.0 / count as f64;
    least + (1.0 - least) * index as f64 / (ramp.max(2) - 1) as f64
}

/// A coordinate as a kernel holds it: from 0 to 1, or the number of a value.
fn unit(scale: Scale, at: f64) -> f64 {
    match scale {
        Scale::Continuous | Scale::Unordered(_) => at,
        Scale::Ordered(count) => (at + 0.5) / count as f64,
    }
}

/// Of one among `count` things, how likely a kernel stays at its own, beyond what all things share.
fn share_of_own(count: f64, kernels: usize) -> f64 {
    1.0 / (1.0 + count / kernels as f64)
}

fn log_choice(is_own: bool, count: f64, kernels: usize) -> f64 {
    let own = share_of_own(count, kernels);
    ((1.0 - own) / count + if is_own { own } else { 0.0 }).ln()
}

fn log_prior(scale: Scale, at: f64) -> f64 {
    match scale {
        Scale::Continuous => {
            let z = (at - PRIOR_MEAN) / PRIOR_SIGMA;
            log_height(PRIOR_SIGMA) - 0.5 * z * z - mass(0.0, 1.0, PRIOR_MEAN, PRIOR_SIGMA).ln()
        }
        Scale::Ordered(count) => log_cell(at, count, PRIOR_MEAN, PRIOR_SIGMA),
        Scale::Unordered(count) => -(count as f64).ln(),
    }
}

/// The logarithm of a normal density at its mean.
fn log_height(sigma: f64) -> f64 {
    -(sigma * std::f64::consts::TAU.sqrt()).ln()
}

/// The logarithm of a kernel's mass on a step.
fn log_cell(at: f64, count: u64, mean: f64, sigma: f64) -> f64 {
    let width = 1.0 / count as f64;
    let (low, high) = (at * width, (at + 1.0) * width);
    // Far from the mean the difference of two tails is nothing but rounding.
    let far = f64::MIN_POSITIVE;
    mass(low, high, mean, sigma).max(far).ln() - mass(0.0, 1.0, mean, sigma).ln()
}

/// The mass of a normal distribution between two numbers.
fn mass(low: f64, high: f64, mean: f64, sigma: f64) -> f64 {
    let scale = std::f64::consts::SQRT_2 * sigma;
    let (a, b) = ((low - mean) / scale, (high - mean) / scale);
    // On the side where the tails are small, so that they keep their digits.
    let (a, b) = if a > 0.0 { (-b, -a) } else { (a, b) };
    if b <= 0.0 { 0.5 * (libm::erfc(-b) - libm::erfc(-a)) } else { 0.5 * (libm::erf(b) - libm::erf(a)) }
}

/// ln Σ exp(term).
fn log_sum(terms: &[f64]) -> f64 {
    let most = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    most + terms.iter().map(|term| (term - most).exp()).sum::<f64>().ln()
}

/// A coordinate from a kernel, or from the prior.
fn draw(scale: Scale, kernel: Option<(f64, f64)>, kernels: usize, rng: &mut impl Rng) -> f64 {
    match scale {
        Scale::Continuous => draw_normal(kernel, rng),
        Scale::Ordered(count) => {
            (draw_normal(kernel, rng) * count as f64).floor().min(count.saturating_sub(1) as f64)
        }
        Scale::Unordered(count) => match kernel {
            Some((own, _)) if rng.random::<f64>() < share_of_own(count as f64, kernels) => own,
            _ => rng.random_range(0..count) as f64,
        },
    }
}

fn draw_normal(kernel: Option<(f64, f64)>, rng: &mut impl Rng) -> f64 {
    let (mean, sigma) = kernel.unwrap_or((PRIOR_MEAN, PRIOR_SIGMA));
    // A third of the draws are inside at the least: the mean is.
    std::iter::repeat_with(|| mean + sigma * normal(rng))
        .take(1_000)
        .find(|x| (0.0..=1.0).contains(x))
        .unwrap_or(mean)
}

/// A draw from the standard normal distribution (Box and Muller).
pub(super) fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}
