//! Crops to train on: a random scale, a random square, a random mirror image, random colours.

use tch::{Device, Kind, Tensor};

use super::colour::Colours;
use super::windows::{LONGEST, resized};
use crate::data::{IGNORED, Sample};
use crate::tuning::{seeded, stream};

/// How crops are drawn: mmsegmentation's pipeline for ADE20K.
#[derive(Debug, Clone, Copy)]
pub struct Cropping {
    /// Side of a crop in pixels.
    pub side: i64,
    /// The image's short side becomes `side`, but its long side no more than four times that, times a number drawn from
    /// this range.
    pub scale: (f64, f64),
    /// A crop of which one class covers this share or more of what is labelled is drawn again, ten times at most; 1: never.
    pub cat_max_ratio: f64,
    /// Whether colours change.
    pub photometric: bool,
}

/// Squares that are tried; the last one is taken as it is.
const TRIES: usize = 11;

impl Cropping {
    pub const SCALE: (f64, f64) = (0.5, 2.0);

    /// A crop of a sample, normalised: `[3, S, S]` and its labels `[S, S]`. What lies beyond the image is 0 and [`IGNORED`].
    /// Which one is a function of the seed and the position alone.
    pub fn draw(
        &self,
        sample: &Sample,
        normalise: &dyn Fn(&Tensor) -> Tensor,
        seed: i64,
        position: u64,
    ) -> (Tensor, Tensor) {
        let draws: Vec<f64> = seeded(stream(seed, "crop", position), || {
            let count = 2 + Colours::DRAWS + 2 * TRIES;
            Vec::try_from(Tensor::rand([count as i64], (Kind::Double, Device::Cpu)))
                .expect("a vector of doubles")
        });
        let (first, squares) = draws.split_at(2 + Colours::DRAWS);
        let size = self.size(&sample.labels, first[0]);
        let labels = nearest(&sample.labels, size);
        let corner = self.corner(&labels, size, squares);
        let image = self.cut(&resized(&sample.image, size), corner, size);
        let image = if self.photometric { Colours::drawn(&first[2..]).apply(&image) } else { image };
        let image = self.filled(&normalise(&image), 0.0);
        let labels = self.filled(&self.cut(&labels, corner, size), IGNORED as f64);
        if first[1] < 0.5 { (image.flip([2]), labels.flip([1])) } else { (image, labels) }
    }

    /// The size that the image is brought to.
    fn size(&self, labels: &Tensor, draw: f64) -> [i64; 2] {
        let size = [labels.size()[0], labels.size()[1]];
        let (short, long) = (size[0].min(size[1]) as f64, size[0].max(size[1]) as f64);
        let (low, high) = self.scale;
        let side = self.side as f64 * (low + (high - low) * draw);
        let factor = (side / short).min(LONGEST * side / long);
        size.map(|n| ((n as f64 * factor).round() as i64).max(1))
    }

    /// The upper left corner of the first square that is mixed enough, or else of the last.
    fn corner(&self, labels: &Tensor, size: [i64; 2], draws: &[f64]) -> [i64; 2] {
        let place = |free: i64, draw: f64| ((free + 1) as f64 * draw) as i64;
        let corner = |drawn: &[f64]| [0, 1].map(|k| place((size[k] - self.side).max(0), drawn[k]));
        let corners: Vec<[i64; 2]> = draws.chunks_exact(2).map(corner).collect();
        let is_mixed = |corner: &&[i64; 2]| self.is_mixed(&self.cut(labels, **corner, size));
        let found = if self.cat_max_ratio < 1.0 {
            corners[..TRIES - 1].iter().find(is_mixed).unwrap_or(&corners[TRIES - 1])
        } else {
            &corners[0]
        };
        *found
    }

    fn cut(&self, map: &Tensor, [y, x]: [i64; 2], size: [i64; 2]) -> Tensor {
        let axis = map.dim() as i64 - 2;
        map.narrow(axis, y, self.side.min(size[0])).narrow(axis + 1, x, self.side.min(size[1]))
    }

    /// Whether there are several classes, none of which covers too much of what is labelled.
    fn is_mixed(&self, labels: &Tensor) -> bool {
        let known = labels.masked_select(&labels.not_equal(IGNORED));
        let total = known.numel();
        if total == 0 {
            return false;
        }
        let counts = known.bincount(None::<&Tensor>, 0);
        let largest = counts.max().int64_value(&[]) as f64;
        largest < self.cat_max_ratio * total as f64 && counts.gt(0).sum(Kind::Int64).int64_value(&[]) > 1
    }

    fn filled(&self, tensor: &Tensor, value: f64) -> Tensor {
        let size = tensor.size();
        let (bottom, right) = (self.side - size[size.len() - 2], self.side - size[size.len() - 1]);
        tensor.f_pad([0, right, 0, bottom], "constant", value).expect("a crop is no larger than its side")
    }
}

/// Labels `[H, W]` of the nearest pixel.
fn nearest(labels: &Tensor, size: [i64; 2]) -> Tensor {
    let maps = labels.to_kind(Kind::Float).unsqueeze(0).unsqueeze(0);
    maps.upsample_nearest2d(size, None, None).squeeze_dim(0).squeeze_dim(0).to_kind(Kind::Int64)
}
