//! Classification scores of one member over a split.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

/// Sums over the images seen so far, for K members at once.
#[derive(Debug)]
pub struct Scores {
    images: i64,
    /// Sum of the cross entropy, `[K]` float64.
    loss: Tensor,
    /// Hits among the five best (all of them when there are fewer classes), `[K]`.
    top5: Tensor,
    /// Hits by true class, `[K, C]`.
    hits: Tensor,
    /// Images by true class, `[C]`.
    support: Tensor,
}

impl Scores {
    pub fn new(members: i64, classes: i64, like: &Tensor) -> Scores {
        let zeros = |shape: &[i64], kind| Tensor::zeros(shape, (kind, like.device()));
        Scores {
            images: 0,
            loss: zeros(&[members], Kind::Double),
            top5: zeros(&[members], Kind::Int64),
            hits: zeros(&[members, classes], Kind::Int64),
            support: zeros(&[classes], Kind::Int64),
        }
    }

    /// Adds a batch: logits `[K, B, C]`, labels `[B]` in 0..C.
    pub fn add(&mut self, logits: &Tensor, labels: &Tensor) {
        let (members, batch, classes) = logits.size3().expect("logits have three axes");
        let truth = labels.unsqueeze(0).expand([members, batch], false);
        let losses = -logits
            .to_kind(Kind::Double)
            .log_softmax(-1, Kind::Double)
            .gather(2, &truth.unsqueeze(2), false)
            .squeeze_dim(2); // [K, B]
        self.loss += losses.sum_dim_intlist(1, false, Kind::Double);
        let best = logits.topk(5.min(classes), -1, true, true).1; // [K, B, ≤5]
        let hit = best.eq_tensor(&truth.unsqueeze(2));
        self.top5 += hit.any_dim(2, false).sum_dim_intlist(1, false, Kind::Int64);
        let first = hit.select(2, 0).to_kind(Kind::Int64); // [K, B]
        let _ = self.hits.scatter_add_(1, &truth, &first);
        let _ = self.support.scatter_add_(0, labels, &labels.ones_like());
        self.images += batch;
    }

    /// `top1`, `top5`, `per_class` in percent and the mean `loss` of a member, each under `prefix/`.
    /// `per_class` is the mean over the classes that occur.
    pub fn of(&self, member: i64, prefix: &str) -> BTreeMap<String, f64> {
        let total = self.images as f64;
        let hits = self.hits.get(member).to_kind(Kind::Double);
        let occurs = self.support.gt(0);
        let recall =
            (hits.shallow_clone() / self.support.clamp_min(1)).masked_select(&occurs).mean(Kind::Double);
        BTreeMap::from([
            (format!("{prefix}/top1"), 100.0 * hits.sum(Kind::Double).double_value(&[]) / total),
            (format!("{prefix}/top5"), 100.0 * self.top5.double_value(&[member]) / total),
            (format!("{prefix}/per_class"), 100.0 * recall.double_value(&[])),
            (format!("{prefix}/loss"), self.loss.double_value(&[member]) / total),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_of_a_small_example() {
        // Three classes, of which class 2 never occurs; two members, the second always wrong.
        let good = [[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [1.0, 0.0, 0.0]];
        let bad = [[0.0, 0.0, 9.0]; 3];
        let flat: Vec<f32> = good.iter().chain(&bad).flatten().copied().collect();
        let logits = Tensor::from_slice(&flat).reshape([2, 3, 3]);
        let labels = Tensor::from_slice(&[0i64, 1, 1]);
        let mut scores = Scores::new(2, 3, &logits);
        scores.add(&logits.narrow(1, 0, 2), &labels.narrow(0, 0, 2));
        scores.add(&logits.narrow(1, 2, 1), &labels.narrow(0, 2, 1));
        let first = scores.of(0, "val");
        assert!((first["val/top1"] - 200.0 / 3.0).abs() < 1e-9);
        assert_eq!(first["val/top5"], 100.0);
        assert_eq!(first["val/per_class"], 75.0);
        let expected = [(2.0f64, [2.0f64, 1.0, 0.0]), (3.0, [0.0, 3.0, 0.0]), (0.0, [1.0, 0.0, 0.0])];
        let loss: f64 =
            expected.iter().map(|(x, row)| row.iter().map(|v| v.exp()).sum::<f64>().ln() - x).sum();
        assert!((first["val/loss"] - loss / 3.0).abs() < 1e-6);
        assert_eq!(scores.of(1, "test")["test/top1"], 0.0);
    }
}
