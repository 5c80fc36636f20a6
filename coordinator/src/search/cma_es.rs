//! The covariance matrix adaptation evolution strategy (Hansen, "The CMA Evolution Strategy: A Tutorial",
//! arXiv:1604.00772v2, with active weights), in the unit cube of a study's axes.
//!
//! A generation is drawn from N(m, σ² C). When λ = 4 + ⌊3 ln d⌋ of its configurations have ended, the first λ to end
//! move m, σ and C, and the next is drawn from the new ones. Who asks before that gets one more of the same
//! generation: no slot waits for another, and what comes too late for its generation is left out of the strategy (not
//! of the results).
//!
//! ```text
//! m  ← m + σ ⟨y⟩          ⟨y⟩ = Σᵢ≤μ wᵢ yᵢ,  yᵢ = (xᵢ − m) / σ, best first
//! pσ ← (1 − cσ) pσ + √(cσ (2 − cσ) μ_eff) C^(−1/2) ⟨y⟩
//! σ  ← σ exp(cσ/dσ (‖pσ‖ / E‖N(0, I)‖ − 1))
//! pc ← (1 − cc) pc + hσ √(cc (2 − cc) μ_eff) ⟨y⟩
//! C  ← (1 + c₁ δ(hσ) − c₁ − cμ Σ wᵢ) C + c₁ pc pcᵀ + cμ Σᵢ wᵢ° yᵢ yᵢᵀ
//! ```

use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};
use sweeps::study::Point;

use super::sampler::{Observation, Sampler, Shape, Suggestion, compare};
use super::tpe::normal;

/// A sixth of the range: the start covers most of it.
const FIRST_SIGMA: f64 = 1.0 / 6.0;
/// Points that are drawn for a suggestion.
const CANDIDATES: usize = 24;
/// Draws until one lies in the cube; then it is moved to its edge.
const MAX_DRAWS: usize = 100;

/// Where a strategy stands after so many generations. A function of the history, kept with the study so that it is not
/// worked out from the start for each suggestion.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Strategy {
    pub generation: u32,
    mean: Vec<f64>,
    sigma: f64,
    /// C, row by row.
    covariance: Vec<Vec<f64>>,
    path_sigma: Vec<f64>,
    path_c: Vec<f64>,
}

/// The strategy at work on a study.
#[derive(Debug, Clone, Copy)]
pub struct CmaEs<'a> {
    pub strategy: &'a Strategy,
}

impl Sampler for CmaEs<'_> {
    fn suggest(&self, shape: &Shape, history: &[Observation], rng: &mut ChaCha12Rng) -> Suggestion {
        let strategy = advance(self.strategy, shape, history);
        let free = free(shape);
        let (values, vectors) = eigen(&strategy.covariance);
        let points = (0..CANDIDATES).map(|_| {
            let x = strategy.draw(&values, &vectors, rng);
            let mut at = vec![0.0; shape.arms[0].len()];
            for (place, x) in free.iter().zip(x) {
                at[*place] = shape.scales[shape.arms[0][*place]].coordinate(x);
            }
            Point { arm: 0, at }
        });
        Suggestion { points: points.collect(), generation: Some(strategy.generation) }
    }
}

/// The strategy after all generations that are complete. `history` may leave out those before it.
#[must_use]
pub fn advance(from: &Strategy, shape: &Shape, history: &[Observation]) -> Strategy {
    let free = free(shape);
    let mut strategy = if from.mean.is_empty() { Strategy::new(free.len()) } else { from.clone() };
    let size = population(free.len());
    loop {
        let is_of = |seen: &&Observation| seen.generation == Some(strategy.generation);
        let mut ended: Vec<(&Observation, (u8, f64))> =
            history.iter().filter(is_of).filter_map(|seen| Some((seen, seen.outcome.rank()?))).collect();
        if ended.len() < size {
            return strategy;
        }
        // Who ends later changes nothing any more.
        ended.sort_by_key(|(seen, _)| seen.ended);
        ended.truncate(size);
        ended.sort_by(|(_, a), (_, b)| compare(*a, *b));
        let ranked: Vec<_> = ended.iter().map(|(seen, _)| vector(shape, &free, &seen.point)).collect();
        strategy.tell(&ranked);
    }
}

/// λ of a space of so many axes.
fn population(axes: usize) -> usize {
    4 + (3.0 * (axes.max(1) as f64).ln()).floor() as usize
}

/// The axes along which there is more than one value, by their places in the one arm.
fn free(shape: &Shape) -> Vec<usize> {
    let is_free = |place: &usize| shape.scales[shape.arms[0][*place]].count() != Some(1);
    (0..shape.arms[0].len()).filter(is_free).collect()
}

fn vector(shape: &Shape, free: &[usize], point: &Point) -> Vec<f64> {
    let at = |place: &usize| match shape.scales[shape.arms[0][*place]].count() {
        None => point.at[*place],
        Some(count) => (point.at[*place] + 0.5) / count as f64,
    };
    free.iter().map(at).collect()
}

impl Strategy {
    fn new(axes: usize) -> Self {
        let unit = |row: usize| (0..axes).map(|column| f64::from(u8::from(row == column))).collect();
        Self {
            generation: 0,
            mean: vec![0.5; axes],
            sigma: FIRST_SIGMA,
            covariance: (0..axes).map(unit).collect(),
            path_sigma: vec![0.0; axes],
            path_c: vec![0.0; axes],
        }
    }

    /// A draw from N(m, σ² C) within the cube.
    fn draw(&self, values: &[f64], vectors: &[Vec<f64>], rng: &mut ChaCha12Rng) -> Vec<f64> {
        let mut x = Vec::new();
        for _ in 0..MAX_DRAWS {
            let z: Vec<f64> = values.iter().map(|value| value.sqrt() * normal(rng)).collect();
            let y = (0..self.mean.len()).map(|row| dot(&vectors[row], &z));
            x = y.zip(&self.mean).map(|(y, mean)| mean + self.sigma * y).collect();
            if x.iter().all(|x| (0.0..=1.0).contains(x)) {
                return x;
            }
        }
        x.iter().map(|x| x.clamp(0.0, 1.0)).collect()
    }

    /// The step that a generation makes, given best first.
    fn tell(&mut self, ranked: &[Vec<f64>]) {
        let d = self.mean.len() as f64;
        let Parameters { weights, parents, mu_eff, c1, c_mu, c_sigma, d_sigma, c_c, norm } =
            Parameters::of(d, ranked.len());
        let ys: Vec<Vec<f64>> = ranked
            .iter()
            .map(|x| x.iter().zip(&self.mean).map(|(x, mean)| (x - mean) / self.sigma).collect())
            .collect();
        let mut step = vec![0.0; self.mean.len()];
        for (y, weight) in ys.iter().zip(&weights).take(parents) {
            step.iter_mut().zip(y).for_each(|(step, y)| *step += weight * y);
        }
        self.mean.iter_mut().zip(&step).for_each(|(mean, step)| *mean += self.sigma * step);
        let (values, vectors) = eigen(&self.covariance);
        let whiten = |y: &[f64]| -> Vec<f64> {
            let turned = (0..values.len()).map(|column| {
                let along: f64 = vectors.iter().zip(y).map(|(row, y)| row[column] * y).sum();
                along / values[column].sqrt()
            });
            let turned: Vec<f64> = turned.collect();
            vectors.iter().map(|row| dot(row, &turned)).collect()
        };
        let factor = (c_sigma * (2.0 - c_sigma) * mu_eff).sqrt();
        let white = whiten(&step);
        self.path_sigma.iter_mut().zip(&white).for_each(|(p, w)| *p = (1.0 - c_sigma) * *p + factor * w);
        let length = dot(&self.path_sigma, &self.path_sigma).sqrt();
        self.sigma = (self.sigma * ((c_sigma / d_sigma) * (length / norm - 1.0)).exp()).clamp(1e-12, 10.0);
        let past = 1.0 - (1.0 - c_sigma).powf(2.0 * f64::from(self.generation + 1));
        let h = f64::from(u8::from(length / past.sqrt() < (1.4 + 2.0 / (d + 1.0)) * norm));
        let factor = h * (c_c * (2.0 - c_c) * mu_eff).sqrt();
        self.path_c.iter_mut().zip(&step).for_each(|(p, y)| *p = (1.0 - c_c) * *p + factor * y);
        let signed = |weight: f64, y: &[f64]| {
            let white = whiten(y);
            if weight >= 0.0 { weight } else { weight * d / (dot(&white, &white) + 1e-8) }
        };
        let signed: Vec<f64> = ys.iter().zip(&weights).map(|(y, weight)| signed(*weight, y)).collect();
        let keep = 1.0 + c1 * (1.0 - h) * c_c * (2.0 - c_c) - c1 - c_mu * weights.iter().sum::<f64>();
        for row in 0..self.mean.len() {
            for column in 0..self.mean.len() {
                let rank_mu: f64 =
                    ys.iter().zip(&signed).map(|(y, weight)| weight * y[row] * y[column]).sum();
                let rank_one = self.path_c[row] * self.path_c[column];
                let entry = &mut self.covariance[row][column];
                *entry = keep * *entry + c1 * rank_one + c_mu * rank_mu;
            }
        }
        self.generation += 1;
    }
}

/// The constants of a space of d axes, by the names of the tutorial (table 1).
struct Parameters {
    weights: Vec<f64>,
    /// μ
    parents: usize,
    mu_eff: f64,
    c1: f64,
    c_mu: f64,
    c_sigma: f64,
    d_sigma: f64,
    c_c: f64,
    /// E‖N(0, I)‖
    norm: f64,
}

impl Parameters {
    fn of(d: f64, size: usize) -> Self {
        let parents = size / 2;
        let raw: Vec<f64> = (1..=size).map(|i| ((size as f64 + 1.0) / 2.0).ln() - (i as f64).ln()).collect();
        let effective = |weights: &[f64]| {
            weights.iter().sum::<f64>().powi(2) / weights.iter().map(|weight| weight * weight).sum::<f64>()
        };
        let (mu_eff, mu_eff_minus) = (effective(&raw[..parents]), effective(&raw[parents..]));
        let c1 = 2.0 / ((d + 1.3).powi(2) + mu_eff);
        let c_mu = (2.0 * (mu_eff - 2.0 + 1.0 / mu_eff) / ((d + 2.0).powi(2) + mu_eff)).min(1.0 - c1 - 1e-8);
        let least = (1.0 + c1 / c_mu)
            .min(1.0 + 2.0 * mu_eff_minus / (mu_eff + 2.0))
            .min((1.0 - c1 - c_mu) / (d * c_mu));
        let positive: f64 = raw.iter().filter(|weight| **weight > 0.0).sum();
        let negative: f64 = -raw.iter().filter(|weight| **weight < 0.0).sum::<f64>();
        let weights = raw.iter().map(|w| if *w >= 0.0 { w / positive } else { w * least / negative });
        let c_sigma = (mu_eff + 2.0) / (d + mu_eff + 5.0);
        Self {
            weights: weights.collect(),
            parents,
            mu_eff,
            c1,
            c_mu,
            c_sigma,
            d_sigma: 1.0 + 2.0 * (((mu_eff - 1.0) / (d + 1.0)).sqrt() - 1.0).max(0.0) + c_sigma,
            c_c: (4.0 + mu_eff / d) / (d + 4.0 + 2.0 * mu_eff / d),
            norm: d.sqrt() * (1.0 - 1.0 / (4.0 * d) + 1.0 / (21.0 * d * d)),
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Eigenvalues (not below 10⁻¹⁶) and, in columns, eigenvectors of a symmetric matrix: Jacobi's rotations.
fn eigen(matrix: &[Vec<f64>]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n = matrix.len();
    let mut a = matrix.to_vec();
    let mut v: Vec<Vec<f64>> =
        (0..n).map(|row| (0..n).map(|column| f64::from(u8::from(row == column))).collect()).collect();
    for _ in 0..50 {
        let off: f64 =
            (0..n).flat_map(|p| (p + 1..n).map(move |q| (p, q))).map(|(p, q)| a[p][q].powi(2)).sum();
        let diagonal: f64 = (0..n).map(|p| a[p][p].powi(2)).sum();
        if off <= 1e-30 * diagonal {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let (c, s) = (1.0 / (t * t + 1.0).sqrt(), t / (t * t + 1.0).sqrt());
                for row in a.iter_mut() {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
                let (upper, lower) = a.split_at_mut(q);
                for (x, y) in upper[p].iter_mut().zip(&mut lower[0]) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
                for row in v.iter_mut() {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
            }
        }
    }
    ((0..n).map(|i| a[i][i].max(1e-16)).collect(), v)
}
