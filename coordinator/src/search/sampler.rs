//! Samplers: what a study tries next, from what is known. Pure, and a function of its arguments alone: the seed, the
//! number of the suggestion and the history decide, so that a suggestion can be made again by anybody.

use std::collections::HashSet;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use sha2::{Digest, Sha256};
use sweeps::study::{Adaptive, Algorithm, Point, Scale, Study};

use super::cma_es::{self, Strategy};
use super::tpe;

/// A study's arms: the scales of their axes, and which axis is which, for arms share them.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    pub arms: Vec<Vec<usize>>,
    /// By the numbers that the arms hold.
    pub scales: Vec<Scale>,
}

/// A configuration of a study, and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    pub point: Point,
    pub outcome: Outcome,
    /// Of [`cma_es`]: the generation that it was drawn for.
    pub generation: Option<u32>,
    /// When it ended, by any clock; 0: it has not.
    pub ended: i64,
}

/// What became of a configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// Some of its trials have not ended: a liar says that it will be bad, so that nobody tries the same.
    Pending,
    /// All seeds have a score; less is better.
    Scored(f64),
    /// Some seeds have none, or were stopped early: worse than all that have.
    Partial(f64),
    /// It diverged, ran out of memory or time, …: worse still.
    Bad,
    /// Nothing that tells anything of the configuration: cancelled, or a matter of data or machines.
    Void,
}

/// What is suggested.
#[derive(Debug, Clone, PartialEq)]
pub struct Suggestion {
    /// Best first: the caller takes the first that is a configuration, and new.
    pub points: Vec<Point>,
    pub generation: Option<u32>,
}

/// A way to choose.
pub trait Sampler {
    /// What to try next. `history` is in the order in which the configurations were made.
    fn suggest(&self, shape: &Shape, history: &[Observation], rng: &mut ChaCha12Rng) -> Suggestion;
}

impl Shape {
    /// The shape of a study.
    #[must_use]
    pub fn of(adaptive: &Adaptive, study: &Study) -> Self {
        let arms: Vec<Vec<usize>> = study.arms.iter().map(|arm| arm.axes.clone()).collect();
        let axes = arms.iter().flatten().max().map_or(0, |last| last + 1);
        let mut scales = vec![Scale::Unordered(1); axes];
        for arm in &study.arms {
            for (axis, scale) in arm.axes.iter().zip(adaptive.scales(arm)) {
                scales[*axis] = scale;
            }
        }
        Self { arms, scales }
    }

    /// A point for shares from 0 to 1: the first chooses the arm, each further one is an axis of it.
    fn at(&self, mut share: impl FnMut(u32) -> f64) -> Point {
        let arm = ((share(0) * self.arms.len() as f64) as usize).min(self.arms.len().saturating_sub(1));
        let axes = (1..).zip(&self.arms[arm]);
        let at = axes.map(|(dimension, axis)| self.scales[*axis].coordinate(share(dimension))).collect();
        Point { arm, at }
    }

    fn draw(&self, rng: &mut impl Rng) -> Point {
        self.at(|_| rng.random())
    }
}

impl Outcome {
    /// A number to rank by: less is better. `None`: it is not to be ranked.
    #[must_use]
    pub fn rank(self) -> Option<(u8, f64)> {
        match self {
            Self::Scored(value) => Some((0, value)),
            Self::Partial(value) => Some((1, value)),
            Self::Bad => Some((2, 0.0)),
            Self::Pending | Self::Void => None,
        }
    }
}

/// Compares ranks; less is better.
#[must_use]
pub fn compare(a: (u8, f64), b: (u8, f64)) -> std::cmp::Ordering {
    a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
}

/// Rounds of suggestions in which nothing new was found, before points are drawn evenly.
const MODELLED: u32 = 4;
/// Points in a round that are drawn evenly.
const DRAWS: usize = 256;

/// The `attempt`-th answer to what the `number`-th configuration of a study should be, best first. Attempts after the
/// first are for when there was nothing new among the answers before.
#[must_use]
pub fn suggest(
    adaptive: &Adaptive,
    study: &Study,
    history: &[Observation],
    strategy: &Strategy,
    number: u32,
    attempt: u32,
) -> Suggestion {
    let shape = Shape::of(adaptive, study);
    let digest = Sha256::digest(format!("{}\n{}\n{number}\n{attempt}", adaptive.seed, study.key));
    let mut rng = ChaCha12Rng::from_seed(digest.into());
    let ended = history.iter().filter(|seen| seen.outcome.rank().is_some()).count();
    let draw = |mut rng: ChaCha12Rng| {
        let points = (0..DRAWS).map(|_| shape.draw(&mut rng)).collect();
        Suggestion { points, generation: None }
    };
    if attempt >= MODELLED {
        return draw(rng);
    }
    match adaptive.algorithm {
        Algorithm::Tpe if ended < adaptive.startup as usize => match attempt {
            0 => Suggestion {
                points: vec![start(&shape, adaptive.seed, &study.key, number)],
                generation: None,
            },
            _ => draw(rng),
        },
        Algorithm::Tpe => tpe::Tpe.suggest(&shape, history, &mut rng),
        Algorithm::CmaEs => cma_es::CmaEs { strategy }.suggest(&shape, history, &mut rng),
    }
}

/// The `number`-th point of a start that is spread evenly: an Owen-scrambled Sobol sequence.
fn start(shape: &Shape, seed: u64, key: &str, number: u32) -> Point {
    let digest = Sha256::digest(format!("{seed}\n{key}"));
    let seed = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]);
    shape.at(|dimension| {
        f64::from(sobol_burley::sample(number, dimension % sobol_burley::NUM_DIMENSIONS, seed))
    })
}

/// All points of a small study that has but few left, in their order; `None`: it is not small.
#[must_use]
pub fn rest(adaptive: &Adaptive, study: &Study, history: &[Observation], most: usize) -> Option<Vec<Point>> {
    let shape = Shape::of(adaptive, study);
    let seen: HashSet<String> = history.iter().map(|seen| format!("{:?}", seen.point)).collect();
    let mut points = Vec::new();
    for (arm, axes) in shape.arms.iter().enumerate() {
        let counts = axes.iter().map(|axis| shape.scales[*axis].count());
        let counts: Vec<u64> = counts.collect::<Option<_>>()?;
        let size = counts.iter().try_fold(1_u64, |size, count| size.checked_mul(*count))?;
        if size.saturating_add(points.len() as u64) > most as u64 {
            return None;
        }
        for mut index in 0..size {
            let mut at = vec![0.0; counts.len()];
            for (at, count) in at.iter_mut().zip(&counts).rev() {
                *at = (index % count) as f64;
                index /= count;
            }
            points.push(Point { arm, at });
        }
    }
    points.retain(|point| !seen.contains(&format!("{point:?}")));
    Some(points)
}
