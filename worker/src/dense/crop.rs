//! Crops to train on: a random scale, a random square, a random mirror image.

use tch::{Device, Kind, Tensor};

use super::IGNORED;
use super::windows::resized;
use crate::tuning::{seeded, stream};

/// How crops are drawn, as mmsegmentation does on ADE20K, but without its changes of colour.
#[derive(Debug, Clone, Copy)]
pub struct Cropping {
    /// Side of a crop in pixels.
    pub side: i64,
    /// The image's short side becomes `side` times a number drawn from this range.
    pub scale: (f64, f64),
    /// A crop of which one class covers more than this is drawn again, ten times at most.
    pub largest_class: f64,
}

impl Cropping {
    pub fn new(side: i64) -> Cropping {
        Cropping { side, scale: (0.5, 2.0), largest_class: 0.75 }
    }

    /// A crop of an image `[3, H, W]` and its labels `[H, W]`: `[3, S, S]` and `[S, S]`. What lies beyond the image is 0
    /// and [`IGNORED`]. Which one is a function of the seed and the position alone.
    pub fn draw(&self, image: &Tensor, labels: &Tensor, seed: i64, position: u64) -> (Tensor, Tensor) {
        let draws: Vec<f64> = seeded(stream(seed, "crop", position), || {
            let numbers = Tensor::rand([2 + 2 * TRIES as i64], (Kind::Double, Device::Cpu));
            Vec::try_from(numbers).expect("a vector of doubles")
        });
        let (height, width) = (labels.size()[0], labels.size()[1]);
        let (low, high) = self.scale;
        let factor = self.side as f64 * (low + (high - low) * draws[0]) / height.min(width) as f64;
        let size = [height, width].map(|n| ((n as f64 * factor).round() as i64).max(1));
        let image = resized(image, size);
        let labels = nearest(labels, size);
        let place = |free: i64, draw: f64| ((free + 1) as f64 * draw) as i64;
        let cut = |tensor: &Tensor, [y, x]: [i64; 2]| {
            let axis = tensor.dim() as i64 - 2;
            let part = tensor.narrow(axis, y, self.side.min(size[0]));
            part.narrow(axis + 1, x, self.side.min(size[1]))
        };
        let mut corner = [0, 0];
        for tried in draws[2..].chunks_exact(2) {
            corner = [0, 1].map(|k| place((size[k] - self.side).max(0), tried[k]));
            if self.is_mixed(&cut(&labels, corner)) {
                break;
            }
        }
        let (image, labels) = (self.filled(&cut(&image, corner), 0.0), cut(&labels, corner));
        let labels = self.filled(&labels, IGNORED as f64);
        if draws[1] < 0.5 { (image.flip([2]), labels.flip([1])) } else { (image, labels) }
    }

    /// Whether no class covers too much of what is labelled.
    fn is_mixed(&self, labels: &Tensor) -> bool {
        let known = labels.masked_select(&labels.not_equal(IGNORED));
        let total = known.numel();
        let counts = known.bincount(None::<&Tensor>, 0);
        total > 0
            && counts.max().int64_value(&[]) as f64 <= self.largest_class * total as f64
            && counts.gt(0).sum(Kind::Int64).int64_value(&[]) > 1
    }

    fn filled(&self, tensor: &Tensor, value: f64) -> Tensor {
        let size = tensor.size();
        let (bottom, right) = (self.side - size[size.len() - 2], self.side - size[size.len() - 1]);
        tensor.f_pad([0, right, 0, bottom], "constant", value).expect("a crop is no larger than its side")
    }
}

const TRIES: usize = 10;

/// Labels `[H, W]` of the nearest pixel.
fn nearest(labels: &Tensor, size: [i64; 2]) -> Tensor {
    let maps = labels.to_kind(Kind::Float).unsqueeze(0).unsqueeze(0);
    maps.upsample_nearest2d(size, None, None).squeeze_dim(0).squeeze_dim(0).to_kind(Kind::Int64)
}
