//! Mean intersection over union.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::IGNORED;

/// Pixels by true and by predicted class, over all images seen.
#[derive(Debug)]
pub struct Confusion {
    /// `[C, C]`, i64.
    pixels: Tensor,
    classes: i64,
}

impl Confusion {
    pub fn new(classes: i64) -> Confusion {
        Confusion { pixels: Tensor::zeros([classes, classes], (Kind::Int64, Device::Cpu)), classes }
    }

    /// Adds an image: predictions and labels, both `[H, W]`.
    pub fn add(&mut self, predicted: &Tensor, labels: &Tensor) {
        let (predicted, labels) = (predicted.to_device(Device::Cpu), labels.to_device(Device::Cpu));
        let known = labels.not_equal(IGNORED);
        let pairs = (&labels * self.classes + predicted).masked_select(&known);
        let counts = pairs.bincount(None::<&Tensor>, self.classes * self.classes);
        self.pixels += counts.reshape([self.classes, self.classes]);
    }

    /// `miou` over the classes that occur or are predicted, `mean_accuracy` over those that occur, and `pixel_accuracy`,
    /// all in percent, each under `prefix/`. NaN where nothing was seen.
    pub fn scores(&self, prefix: &str) -> BTreeMap<String, f64> {
        let pixels = self.pixels.to_kind(Kind::Double);
        let hits = pixels.diagonal(0, 0, 1);
        let (truth, guessed) =
            (pixels.sum_dim_intlist(1, false, Kind::Double), pixels.sum_dim_intlist(0, false, Kind::Double));
        let union = &truth + guessed - &hits;
        let mean = |over: &Tensor| {
            (&hits / over).masked_select(&over.gt(0.0)).mean(Kind::Double).double_value(&[]) * 100.0
        };
        let all = hits.sum(Kind::Double).double_value(&[]) / truth.sum(Kind::Double).double_value(&[]);
        BTreeMap::from([
            (format!("{prefix}/miou"), mean(&union)),
            (format!("{prefix}/mean_accuracy"), mean(&truth)),
            (format!("{prefix}/pixel_accuracy"), 100.0 * all),
        ])
    }
}
