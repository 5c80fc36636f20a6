//! Whole images through a network that sees squares: windows that slide, and images in several sizes.

use tch::{Kind, Tensor};

/// Windows of `side` pixels, one every `stride`; the last ones are moved back to the border.
#[derive(Debug, Clone, Copy)]
pub struct Sliding {
    pub side: i64,
    pub stride: i64,
}

/// One look at an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// Of the size in which it is seen at a single scale.
    pub factor: f64,
    pub is_mirrored: bool,
}

impl Scale {
    pub const SINGLE: &'static [Scale] = &[Scale { factor: 1.0, is_mirrored: false }];

    /// Each size with its mirror image.
    pub fn with_mirror_images(factors: &[f64]) -> Vec<Scale> {
        let both = |&factor| [false, true].map(|is_mirrored| Scale { factor, is_mirrored });
        factors.iter().flat_map(both).collect()
    }
}

/// The longest side of an image that is seen at a single scale, over its short side.
pub(super) const LONGEST: f64 = 4.0;

impl Sliding {
    /// Corners of the windows on a line of `length` pixels.
    pub fn corners(self, length: i64) -> Vec<i64> {
        let last = (length - self.side).max(0);
        let count = (last + self.stride - 1) / self.stride + 1;
        (0..count).map(|i| (i * self.stride).min(last)).collect()
    }

    /// Logits `[C, H, W]` of an image `[3, H, W]` (normalised), each pixel's the mean over the windows that see it. `see`
    /// gives logits `[C, S, S]` of a window `[3, S, S]`; windows are filled up with 0 below and to the right.
    pub fn logits(self, image: &Tensor, see: &dyn Fn(&Tensor) -> Tensor) -> Tensor {
        let (height, width) = (image.size()[1], image.size()[2]);
        let missing = |length: i64| (self.side - length).max(0);
        let filled = image.constant_pad_nd([0, missing(width), 0, missing(height)]);
        let size = [filled.size()[1], filled.size()[2]];
        let (mut sum, mut seen) = (None::<Tensor>, Tensor::zeros(size, (Kind::Float, image.device())));
        for y in self.corners(size[0]) {
            for x in self.corners(size[1]) {
                let window = |t: &Tensor| {
                    let axis = t.dim() as i64 - 2;
                    t.narrow(axis, y, self.side).narrow(axis + 1, x, self.side)
                };
                let logits = see(&window(&filled));
                let total = sum.get_or_insert_with(|| {
                    Tensor::zeros([logits.size()[0], size[0], size[1]], (Kind::Float, image.device()))
                });
                let _ = window(total).g_add_(&logits);
                let _ = window(&seen).g_add_scalar_(1.0);
            }
        }
        seen = seen.narrow(0, 0, height).narrow(1, 0, width);
        sum.expect("there is a window").narrow(1, 0, height).narrow(2, 0, width) / seen
    }

    /// Probabilities of each pixel's classes, `[C, H, W]`, averaged over the scales. At a single scale the image's short
    /// side is brought to `side` pixels, but its long side to no more than four times that.
    pub fn probabilities(self, image: &Tensor, scales: &[Scale], see: &dyn Fn(&Tensor) -> Tensor) -> Tensor {
        let size = [image.size()[1], image.size()[2]];
        let (short, long) = (size[0].min(size[1]) as f64, size[0].max(size[1]) as f64);
        let unit = (self.side as f64 / short).min(LONGEST * self.side as f64 / long);
        let look = |scale: &Scale| {
            let target = size.map(|n| ((n as f64 * unit * scale.factor).round() as i64).max(1));
            let seen = mirrored(resized(image, target), scale.is_mirrored);
            let logits = mirrored(self.logits(&seen, see), scale.is_mirrored);
            resized(&logits, size).softmax(0, Kind::Float)
        };
        let sum = scales.iter().map(look).reduce(|a, b| a + b).expect("there is a scale");
        sum / scales.len() as f64
    }
}

fn mirrored(map: Tensor, is_mirrored: bool) -> Tensor {
    if is_mirrored { map.flip([2]) } else { map }
}

/// A map `[C, H, W]` in another size: bilinear, half-pixel centres.
pub(super) fn resized(map: &Tensor, size: [i64; 2]) -> Tensor {
    if map.size()[1..] == size {
        return map.shallow_clone();
    }
    map.unsqueeze(0).upsample_bilinear2d(size, false, None, None).squeeze_dim(0)
}
