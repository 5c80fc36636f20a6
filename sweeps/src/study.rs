//! Studies: what an adaptive sampler chooses from, one configuration after another, while results come in.
//!
//! `search.per` parts the space of a file into studies, each with a sampler and a history of its own. A study is a list
//! of arms (blocks, with what `per` fixes of them), an arm a list of axes. A sampler knows of it no more than the
//! [`Scale`] of each axis and answers with a [`Point`]; [`Adaptive::child`] makes a configuration of that. Everything is
//! stored as JSON with the sweep, so that the file is never read again.

use serde::{Deserialize, Serialize};

use crate::recipe::{Recipe, Source, hex};
use crate::space::{Points, Range};
use crate::stage::{self, Child};
use crate::value::{Settings, Value};

/// How a study chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// The tree-structured Parzen estimator.
    Tpe,
    /// The covariance matrix adaptation evolution strategy.
    CmaEs,
}

/// What decides which workers can run a configuration.
const NEEDED: [&str; 4] = ["backbone", "method", "split", "task"];

/// What the studies of a sweep have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adaptive {
    pub algorithm: Algorithm,
    /// Configurations of each study.
    pub trials: u32,
    /// So many configurations of a study must have ended before the algorithm chooses.
    pub startup: u32,
    pub seed: u64,
    /// What tells studies apart.
    pub per: Vec<String>,
    /// `base` of the file, and `split` and `set` of the first stage.
    pub(crate) base: Settings,
    pub(crate) exclude: Vec<Settings>,
    pub(crate) axes: Vec<Axis>,
}

/// The studies of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Studies {
    pub adaptive: Adaptive,
    pub list: Vec<Study>,
}

/// A space with a sampler of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Study {
    /// What its configurations have in common, as canonical JSON: the keys of `per`.
    pub key: String,
    pub arms: Vec<Arm>,
}

/// One alternative of a study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    pub block: Option<String>,
    /// What the block sets, and what `per` fixes of its axes.
    pub set: Settings,
    pub is_lr_scaled: bool,
    /// Indices into the axes of the search.
    pub axes: Vec<usize>,
}

/// One direction of the space: a key, or several that are walked together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Axis {
    pub(crate) keys: Vec<String>,
    pub(crate) values: Values,
    /// Whether the learning rate on it is multiplied by batch_size / 256.
    pub(crate) is_scaled: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Values {
    /// One value for each key.
    Rows(Vec<Vec<Value>>),
    /// Numbers, ascending.
    Numbers(Vec<Value>),
    Range(Range),
}

/// What a sampler has to know of an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// A coordinate from 0 to 1.
    Continuous,
    /// One of so many steps in a row: a coordinate 0, 1, …
    Ordered(u64),
    /// One of so many things that are not between each other: a coordinate 0, 1, …
    Unordered(u64),
}

/// A place in a study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub arm: usize,
    /// A coordinate on each axis of the arm.
    pub at: Vec<f64>,
}

impl Scale {
    /// How many coordinates there are; `None`: no end of them.
    #[must_use]
    pub fn count(self) -> Option<u64> {
        match self {
            Scale::Continuous => None,
            Scale::Ordered(count) | Scale::Unordered(count) => Some(count),
        }
    }

    /// The coordinate at a share of the way, from 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "axes have far fewer values than 2^53")]
    pub fn coordinate(self, share: f64) -> f64 {
        match self.count() {
            None => share,
            Some(count) => (share * count as f64).floor().clamp(0.0, count.saturating_sub(1) as f64),
        }
    }
}

impl Axis {
    pub(crate) fn scale(&self) -> Scale {
        match &self.values {
            Values::Rows(rows) => Scale::Unordered(rows.len() as u64),
            Values::Numbers(numbers) => Scale::Ordered(numbers.len() as u64),
            Values::Range(range) => range.scale(),
        }
    }

    /// The values at a coordinate, one for each key.
    fn values(&self, at: f64) -> Vec<Value> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small index")]
        let index = |length: usize| (at as usize).min(length.saturating_sub(1));
        match &self.values {
            Values::Rows(rows) => rows[index(rows.len())].clone(),
            Values::Numbers(numbers) => vec![numbers[index(numbers.len())].clone()],
            Values::Range(range) => vec![range.at_coordinate(at)],
        }
    }

    /// The coordinate of a setting, if it lies on the axis.
    fn find(&self, settings: &Settings) -> Option<f64> {
        let of = |key: &String| settings.get(key);
        #[expect(clippy::cast_precision_loss, reason = "an index into a list in memory")]
        let place = |place: Option<usize>| place.map(|place| place as f64);
        match &self.values {
            Values::Rows(rows) => place(rows.iter().position(|row| {
                self.keys.iter().zip(row).all(|(key, value)| of(key).is_some_and(|found| found.same(value)))
            })),
            Values::Numbers(numbers) => {
                let found = of(self.keys.first()?)?;
                place(numbers.iter().position(|value| value.same(found)))
            }
            Values::Range(range) => range.coordinate(of(self.keys.first()?)?),
        }
    }
}

impl Range {
    fn scale(&self) -> Scale {
        match self.points {
            Points::Num(count) | Points::Step { count, .. } => Scale::Ordered(count),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "exact integers")]
            Points::All if self.is_int && !self.is_log => Scale::Ordered((self.max - self.min) as u64 + 1),
            Points::All => Scale::Continuous,
        }
    }

    fn at_coordinate(&self, at: f64) -> Value {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        match (self.points, self.scale()) {
            (Points::All, Scale::Ordered(count)) =>
            {
                #[expect(clippy::cast_precision_loss, reason = "exact integers are below 2^53")]
                self.drawn((at + 0.5) / count as f64)
            }
            (Points::All, _) => self.drawn(at.clamp(0.0, 1.0)),
            _ => self.value(at as u64),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "exact integers are below 2^53")]
    fn coordinate(&self, found: &Value) -> Option<f64> {
        let x = match found {
            Value::Int(i) => *i as f64,
            Value::Float(x) => *x,
            _ => return None,
        };
        if !(self.min..=self.max).contains(&x) || (self.is_int && x.fract() != 0.0) {
            return None;
        }
        let share = if self.is_log {
            (x.ln() - self.min.ln()) / (self.max.ln() - self.min.ln())
        } else {
            (x - self.min) / (self.max - self.min)
        };
        match (self.points, self.scale()) {
            (Points::All, Scale::Ordered(_)) => Some(x - self.min),
            (Points::All, _) => Some(share.clamp(0.0, 1.0)),
            (_, Scale::Ordered(count)) => {
                let index = (share * (count - 1) as f64).round();
                self.at_coordinate(index).same(found).then_some(index)
            }
            _ => None,
        }
    }
}

impl Algorithm {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Tpe => "tpe",
            Algorithm::CmaEs => "cma_es",
        }
    }
}

impl Adaptive {
    /// Configurations of a study that need different workers, if any do: of each arm one, and one for each other
    /// backbone, task, split and method.
    #[must_use]
    pub fn examples(&self, study: &Study) -> Vec<Child> {
        let mut examples = Vec::new();
        for (number, arm) in study.arms.iter().enumerate() {
            let scales = self.scales(arm);
            let at =
                |share: f64| -> Vec<f64> { scales.iter().map(|scale| scale.coordinate(share)).collect() };
            let tried = [0.5, 0.0, 0.999_999, 0.25, 0.75];
            let mut points: Vec<Vec<f64>> = tried.into_iter().map(at).collect();
            for (place, axis) in arm.axes.iter().enumerate() {
                if self.axes[*axis].keys.iter().any(|key| NEEDED.contains(&key.as_str())) {
                    let values = 0..scales[place].count().unwrap_or(0);
                    #[expect(clippy::cast_precision_loss, reason = "an index into a list in memory")]
                    points.extend(values.flat_map(|value| {
                        tried.into_iter().map(at).map(move |mut point| {
                            point[place] = value as f64;
                            point
                        })
                    }));
                }
            }
            let child = |at: Vec<f64>| self.child(study, &Point { arm: number, at });
            examples.extend(points.into_iter().filter_map(child));
        }
        examples
    }
    /// The scales of an arm's axes.
    #[must_use]
    pub fn scales(&self, arm: &Arm) -> Vec<Scale> {
        arm.axes.iter().map(|axis| self.axes[*axis].scale()).collect()
    }

    /// The configuration at a point; `None` where there is none: it is excluded, or no recipe.
    #[must_use]
    pub fn child(&self, study: &Study, point: &Point) -> Option<Child> {
        let arm = study.arms.get(point.arm)?;
        let mut settings = arm.set.clone();
        for (axis, at) in arm.axes.iter().map(|axis| &self.axes[*axis]).zip(&point.at) {
            settings.extend(axis.keys.iter().cloned().zip(axis.values(*at)));
        }
        let layers = [&self.base, &settings];
        let source = Source { layers: &layers };
        let is_excluded = self.exclude.iter().any(|entry| {
            entry.iter().all(|(key, value)| source.get(key).is_some_and(|found| found.same(value)))
        });
        let recipe: Recipe = stage::resolve(&layers, arm.is_lr_scaled).ok().filter(|_| !is_excluded)?;
        let hash = hex(&recipe.digest());
        Some(Child { settings, recipe, hash, is_lr_scaled: arm.is_lr_scaled })
    }

    /// Where a configuration lies that was not drawn from the study, if it does.
    #[must_use]
    pub fn find(&self, study: &Study, settings: &Settings) -> Option<Point> {
        let mut all = self.base.clone();
        all.extend(settings.iter().map(|(key, value)| (key.clone(), value.clone())));
        study.arms.iter().enumerate().find_map(|(number, arm)| {
            let is_set =
                |(key, value): (&String, &Value)| all.get(key).is_some_and(|found| found.same(value));
            // `lr` of a single configuration is used as written, a scaled axis is not.
            if arm.is_lr_scaled || !arm.set.iter().all(is_set) {
                return None;
            }
            let at = arm.axes.iter().map(|axis| self.axes[*axis].find(&all)).collect::<Option<_>>()?;
            Some(Point { arm: number, at })
        })
    }

    /// The group of an opening to which all of a study's configurations belong.
    #[must_use]
    pub fn group(&self, study: &Study, opening: &stage::Opening) -> String {
        let arm = &study.arms[0];
        let known = arm.set.clone();
        opening.key(&known, arm.block.as_deref())
    }
}

impl Study {
    /// How many configurations there are, excluded ones included; `None`: more than can be counted.
    pub(crate) fn len(&self, search: &Adaptive) -> Option<u64> {
        let of_arm = |arm: &Arm| {
            search
                .scales(arm)
                .into_iter()
                .try_fold(1_u64, |product, scale| product.checked_mul(scale.count()?))
        };
        self.arms.iter().try_fold(0_u64, |sum, arm| sum.checked_add(of_arm(arm)?))
    }
}
