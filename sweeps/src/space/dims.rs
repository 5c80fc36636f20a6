//! What a space is made of: layers of settings, and dimensions that are walked or sampled.

use std::sync::Arc;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::value::{Settings, Value};
use crate::yaml::{Entry, Kind, Mark};

/// Where something was written, and its path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    pub(crate) at: Mark,
    pub(crate) path: String,
}

/// Settings that stand together in the file: `base`, a block's `set`, an entry of `include` or `exclude`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layer {
    pub(crate) place: Place,
    pub(crate) settings: Settings,
    pub(crate) entries: Vec<Entry>,
}

impl Layer {
    pub(crate) fn new(place: Place, entries: &[Entry]) -> Layer {
        let settings = entries.iter().map(|entry| (entry.key.clone(), entry.value.to_value())).collect();
        Layer { place, settings, entries: entries.to_vec() }
    }

    /// Where `key` (or its value, or a key within its value) was written.
    pub(crate) fn find(&self, key: &str, field: Option<&str>, wants_key: bool) -> Option<Place> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        let mut path = format!("{}.{key}", self.place.path);
        let mut at = if wants_key { entry.at } else { entry.value.at };
        if let (Some(field), Kind::Map(inner)) = (field, &entry.value.kind) {
            path = format!("{path}.{field}");
            at = inner.iter().find(|entry| entry.key == field).map_or(at, |entry| entry.value.at);
        }
        Some(Place { at, path })
    }
}

/// One direction of a block's space: an axis, or a group of keys that are walked together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dim {
    pub(crate) keys: Vec<(String, Place)>,
    pub(crate) choices: Choices,
    /// Whether the recipe's `lr` is the written value × batch_size / 256.
    pub(crate) is_scaled: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Choices {
    /// One value for each key, with its place.
    Rows(Vec<Vec<(Value, Place)>>),
    Range(Range),
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Range {
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) is_log: bool,
    pub(crate) is_int: bool,
    pub(crate) points: Points,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Points {
    /// All numbers from min to max: only a sampler that draws can use it.
    All,
    /// This many (>= 1), both ends included.
    Num(u64),
    /// min, min + step, … up to max, both ends included.
    Step { step: f64, count: u64 },
}

/// One alternative of the space.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// `None`: the plain axes.
    pub(crate) name: Option<Arc<str>>,
    pub(crate) place: Place,
    pub(crate) set: Layer,
    pub(crate) dims: Vec<Arc<Dim>>,
}

impl Block {
    /// The number of grid points; `None` if a dimension has no end or the number is beyond 64 bits.
    pub(crate) fn len(&self) -> Option<u64> {
        self.dims.iter().try_fold(1_u64, |product, dim| product.checked_mul(dim.len()?))
    }

    /// The settings of the `index`-th grid point, the last dimension varying fastest.
    pub(crate) fn point(&self, mut index: u64) -> Settings {
        let mut point = Settings::new();
        for dim in self.dims.iter().rev() {
            let len = dim.len().unwrap_or(1);
            dim.insert(index % len, &mut point);
            index /= len;
        }
        point
    }

    /// Settings drawn at random.
    pub(crate) fn draw(&self, rng: &mut impl Rng) -> Settings {
        let mut point = Settings::new();
        for dim in &self.dims {
            match (&dim.choices, dim.len()) {
                (_, Some(len)) => dim.insert(rng.random_range(0..len), &mut point),
                (Choices::Range(range), None) => {
                    let value = range.sample(rng);
                    point.extend(dim.keys.iter().map(|(key, _)| (key.clone(), value.clone())));
                }
                (Choices::Rows(_), None) => {}
            }
        }
        point
    }

    /// Settings at a share of the way through every dimension, from 0 up to but not including 1.
    pub(crate) fn at(&self, share: impl Fn(&Arc<Dim>) -> f64) -> Settings {
        let mut point = Settings::new();
        for dim in &self.dims {
            let share = share(dim);
            match (&dim.choices, dim.len()) {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    clippy::cast_precision_loss,
                    reason = "a share of a length that is far below 2^53"
                )]
                (_, Some(len)) => dim.insert((share * len as f64) as u64, &mut point),
                (Choices::Range(range), None) => {
                    let value = range.drawn(share);
                    point.extend(dim.keys.iter().map(|(key, _)| (key.clone(), value.clone())));
                }
                (Choices::Rows(_), None) => {}
            }
        }
        point
    }

    /// Whether the learning rate of this block's configurations is scaled.
    pub(crate) fn is_lr_scaled(&self) -> bool {
        self.dims.iter().any(|dim| dim.is_scaled)
    }
}

impl Dim {
    pub(crate) fn len(&self) -> Option<u64> {
        match &self.choices {
            Choices::Rows(rows) => Some(rows.len() as u64),
            Choices::Range(range) => range.len(),
        }
    }

    pub(crate) fn insert(&self, index: u64, point: &mut Settings) {
        match &self.choices {
            Choices::Rows(rows) => {
                #[expect(clippy::cast_possible_truncation, reason = "an index into a list in memory")]
                let row = &rows[index as usize];
                point.extend(
                    self.keys.iter().zip(row).map(|((key, _), (value, _))| (key.clone(), value.clone())),
                );
            }
            Choices::Range(range) => {
                point.extend(self.keys.iter().map(|(key, _)| (key.clone(), range.value(index))));
            }
        }
    }

    /// Where `key` of this dimension, or the value that it has in `point`, was written.
    pub(crate) fn find(&self, key: &str, point: &Settings, wants_key: bool) -> Option<Place> {
        let column = self.keys.iter().position(|(name, _)| name == key)?;
        let place = &self.keys[column].1;
        match &self.choices {
            Choices::Rows(rows) if !wants_key => {
                let written = point.get(key)?;
                let row = rows.iter().find(|row| row[column].0 == *written);
                Some(row.map_or(place, |row| &row[column].1).clone())
            }
            _ => Some(place.clone()),
        }
    }
}

impl Range {
    pub(crate) fn len(&self) -> Option<u64> {
        match self.points {
            Points::All => None,
            Points::Num(count) | Points::Step { count, .. } => Some(count),
        }
    }

    /// The `index`-th point. Both ends are exact; points between are rounded to 12 digits, so that 0.1 + 2 × 0.1
    /// is 0.3 and files do not differ by the last bit of a logarithm.
    #[expect(clippy::cast_precision_loss, reason = "ranges have far fewer points than 2^53")]
    pub(crate) fn value(&self, index: u64) -> Value {
        let Range { min, max, .. } = *self;
        let x = match self.points {
            Points::Step { step, .. } => (min + step * index as f64).min(max),
            Points::All => min,
            Points::Num(_) if index == 0 => min,
            Points::Num(num) if index + 1 == num => max,
            Points::Num(num) => self.at(index as f64 / (num - 1) as f64),
        };
        let is_end = x == min || x == max;
        self.typed(if is_end { x } else { round(x, 12).clamp(min, max) })
    }

    /// A draw: uniform, or uniform in the logarithm. Integers are equally likely each (linear).
    fn sample(&self, rng: &mut impl Rng) -> Value {
        self.drawn(rng.random())
    }

    pub(crate) fn drawn(&self, share: f64) -> Value {
        if self.is_int && !self.is_log {
            let span = self.max - self.min + 1.0;
            return self.typed((self.min + (share * span).floor()).min(self.max));
        }
        // Six digits are plenty for a draw, easy to read, and the same on every machine.
        self.typed(round(self.at(share), 6).clamp(self.min, self.max))
    }

    /// The point at this share of the way from min to max.
    fn at(&self, share: f64) -> f64 {
        if self.is_log {
            (self.min.ln() + share * (self.max.ln() - self.min.ln())).exp()
        } else {
            self.min + share * (self.max - self.min)
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the ends of integer ranges are checked to be exact integers"
    )]
    fn typed(&self, x: f64) -> Value {
        if self.is_int { Value::Int(x.round() as i64) } else { Value::Float(x) }
    }
}

fn round(x: f64, digits: usize) -> f64 {
    format!("{x:.*e}", digits - 1).parse().unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    use super::*;

    fn range(min: f64, max: f64, points: Points) -> Range {
        Range { min, max, is_log: false, is_int: false, points }
    }

    fn values(range: Range) -> Vec<Value> {
        (0..range.len().unwrap()).map(|i| range.value(i)).collect()
    }

    fn floats(xs: &[f64]) -> Vec<Value> {
        xs.iter().copied().map(Value::Float).collect()
    }

    #[test]
    fn both_ends_are_included_and_points_are_round() {
        assert_eq!(values(range(0.1, 0.5, Points::Num(5))), floats(&[0.1, 0.2, 0.3, 0.4, 0.5]));
        assert_eq!(values(range(0.1, 0.3, Points::Step { step: 0.1, count: 3 })), floats(&[0.1, 0.2, 0.3]));
        let log = Range { is_log: true, ..range(0.05, 50.0, Points::Num(4)) };
        assert_eq!(values(log), floats(&[0.05, 0.5, 5.0, 50.0]));
        let int = Range { is_int: true, ..range(1.0, 10.0, Points::Num(4)) };
        assert_eq!(values(int), [1, 4, 7, 10].map(Value::Int));
        assert_eq!(values(range(0.3, 9.0, Points::Num(1))), floats(&[0.3]));
    }

    #[test]
    fn draws_stay_within_the_range_and_reach_both_ends() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let int = Range { is_int: true, ..range(3.0, 6.0, Points::All) };
        let mut counts = [0; 4];
        for _ in 0..4_000 {
            let Value::Int(i) = int.sample(&mut rng) else { panic!() };
            counts[usize::try_from(i - 3).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");

        let log = Range { is_log: true, ..range(1e-4, 1.0, Points::All) };
        let mut below = 0;
        for _ in 0..4_000 {
            let Value::Float(x) = log.sample(&mut rng) else { panic!() };
            assert!((1e-4..=1.0).contains(&x));
            below += i32::from(x < 1e-2);
        }
        assert!((1_850..2_150).contains(&below), "half of the draws lie below the geometric mean: {below}");
    }
}
