//! VPT's location `pad`: a frame of w pixels around the image. Left and right are put on first, then top and bottom, so
//! the image becomes (S + 2w)². The grid of patches grows, and what does not fill a patch is cut off.

use sweeps::recipe::{self, Pooling, PromptInit};
use tch::Tensor;

use super::pixels::strip;
use super::vpt::pooled;
use super::{Entry, Init, Param, Step, Tuning, batch_of, per_sample};
use crate::backbone::Backbone;
use crate::data;

#[derive(Debug)]
pub(super) struct Pad {
    /// `[K, 1, 3, 2w, S + 2w]`: top, then bottom.
    top_bottom: Param,
    /// `[K, 1, 3, S, 2w]`: left, then right.
    left_right: Param,
    is_normalised: bool,
    pooling: Pooling,
}

impl Pad {
    pub(super) fn new(method: &recipe::Vpt, image_size: i64, init: &Init<'_>) -> Pad {
        let (side, both) = (image_size, 2 * i64::from(method.prompt_length));
        // A frame never starts uniformly, so the patches' side does not matter.
        let frame = |shape: &[i64]| strip(method.init, 1, 1, init, shape);
        Pad {
            top_bottom: Param::new("prompt.tb", frame(&[1, 3, both, side + both])),
            left_right: Param::new("prompt.lr", frame(&[1, 3, side, both])),
            is_normalised: method.init == PromptInit::Imagenet,
            pooling: method.pooling,
        }
    }
}

impl Tuning for Pad {
    fn params(&self) -> Vec<Param> {
        vec![self.top_bottom.share(), self.left_right.share()]
    }

    fn entry(&self) -> Entry {
        Entry::Images
    }

    fn images(&self, images: Tensor, step: Step<'_>) -> Tensor {
        let batch = batch_of(&images, step);
        let frame = |param: &Param| {
            let pixels = param.value.select(1, 0);
            per_sample(&if self.is_normalised { data::to_imagenet(&pixels) } else { pixels }, batch)
        };
        let around = |images: Tensor, frame: Tensor, axis: i64| {
            let width = frame.size()[axis as usize] / 2;
            Tensor::cat(&[frame.narrow(axis, 0, width), images, frame.narrow(axis, width, width)], axis)
        };
        let wide = around(images, frame(&self.left_right), 3); // [K·B, 3, S, S + 2w]
        around(wide, frame(&self.top_bottom), 2) // [K·B, 3, S + 2w, S + 2w]
    }

    fn pool(&self, backbone: &Backbone, x: &Tensor) -> Tensor {
        pooled(self.pooling, 0, backbone, x)
    }
}
