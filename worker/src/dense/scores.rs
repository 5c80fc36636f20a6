//! Mean intersection over union.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::data::IGNORED;

/// Pixels by true and by predicted class, over all images seen.
#[derive(Debug)]
pub struct Confusion {
    /// `[C, C]`, i64.
    pixels: Tensor,
    classes: i64,
    /// Sum of the cross entropy of the labelled pixels.
    loss: f64,
}

impl Confusion {
    pub fn new(classes: i64) -> Confusion {
        let pixels = Tensor::zeros([classes, classes], (Kind::Int64, Device::Cpu));
        Confusion { pixels, classes, loss: 0.0 }
    }

    /// Adds an image: probabilities `[C, H, W]` and labels `[H, W]`.
    pub fn add(&mut self, probabilities: &Tensor, labels: &Tensor) {
        let known = labels.not_equal(IGNORED);
        let truth = labels.masked_fill(&known.logical_not(), 0).unsqueeze(0);
        let of_truth = probabilities.gather(0, &truth, false).squeeze_dim(0).masked_select(&known);
        // A probability below what float32 holds is no infinite loss; NaN stays NaN.
        let losses = -of_truth.to_kind(Kind::Double).clamp_min(f64::from(f32::MIN_POSITIVE)).log();
        self.loss += losses.sum(Kind::Double).double_value(&[]);
        self.count(&probabilities.argmax(0, false), labels);
    }

    /// Predictions and labels, both `[H, W]`.
    fn count(&mut self, predicted: &Tensor, labels: &Tensor) {
        let (predicted, labels) = (predicted.to_device(Device::Cpu), labels.to_device(Device::Cpu));
        let known = labels.not_equal(IGNORED);
        let pairs = (&labels * self.classes + predicted).masked_select(&known);
        let counts = pairs.bincount(None::<&Tensor>, self.classes * self.classes);
        self.pixels += counts.reshape([self.classes, self.classes]);
    }

    /// `miou` over the classes that occur or are predicted, `mean_accuracy` over those that occur, and `accuracy` of all
    /// pixels, in percent, and `loss`, the mean cross entropy of a labelled pixel. NaN where nothing was seen.
    pub fn scores(&self) -> BTreeMap<&'static str, f64> {
        let pixels = self.pixels.to_kind(Kind::Double);
        let hits = pixels.diagonal(0, 0, 1);
        let (truth, guessed) =
            (pixels.sum_dim_intlist(1, false, Kind::Double), pixels.sum_dim_intlist(0, false, Kind::Double));
        let union = &truth + guessed - &hits;
        let mean = |over: &Tensor| {
            (&hits / over).masked_select(&over.gt(0.0)).mean(Kind::Double).double_value(&[]) * 100.0
        };
        let seen = truth.sum(Kind::Double).double_value(&[]);
        BTreeMap::from([
            ("miou", mean(&union)),
            ("mean_accuracy", mean(&truth)),
            ("accuracy", 100.0 * hits.sum(Kind::Double).double_value(&[]) / seen),
            ("loss", self.loss / seen),
        ])
    }
}
