//! What enters where a method touches the forward pass first, for every image of a split.
//!
//! It is a function of (backbone, images, preprocessing) alone, so where it fits into memory it is computed once and
//! reused over epochs and trials. Whether it is depends on sizes only, never on what else is cached: a trial takes the
//! same path, and so gives the same bits, wherever and after whatever it runs.

use std::rc::Rc;

use sweeps::recipe::Normalization;
use tch::{Device, Kind, Tensor};

use crate::backbone::Backbone;
use crate::data::{self, Split};
use crate::tuning::{Entry, Linear, Step};

/// Largest prefix of one split that is kept, in bytes.
pub(super) const PREFIX_LIMIT: usize = 1 << 30;

/// Images in one forward pass without gradients.
pub(super) const CHUNK: i64 = 64;

/// The frozen part of the forward pass.
#[derive(Debug, Clone)]
pub(super) struct Frozen {
    pub backbone: Rc<Backbone>,
    /// Says which weights these are, and how they are read.
    pub identity: String,
    /// Of the weights' file.
    pub sha256: String,
    pub normalization: Normalization,
    /// It ends here.
    pub entry: Entry,
    pub device: Device,
}

impl Frozen {
    /// Images u8 `[B, 3, S, S]` to what enters at `entry`: normalised images, tokens, or what is pooled.
    pub(super) fn entering(&self, images: &Tensor) -> Tensor {
        tch::no_grad(|| {
            let images = data::normalise(&images.to_device(self.device), self.normalization);
            let Entry::Block(first) = self.entry else { return images };
            let (backbone, plain) = (&self.backbone, Linear::new(self.backbone.arch()));
            let x = backbone.blocks(backbone.embed(&images), 0..first, &plain, Step::evaluation(1));
            if first == backbone.arch().depth() as usize { backbone.essence(x) } else { x }
        })
    }

    /// Bytes that keeping it takes for `images` images of `size` pixels. Images themselves are kept already.
    pub(super) fn bytes(&self, images: i64, size: i64) -> Option<usize> {
        let Entry::Block(first) = self.entry else { return None };
        let numbers = images.checked_mul(self.backbone.arch().entering(first, size))?;
        usize::try_from(numbers).ok()?.checked_mul(4)
    }

    /// What enters for a whole split, in its order, kept where its images are.
    pub(super) fn prefix(&self, split: &Split) -> Tensor {
        let n = split.images.size()[0];
        let chunks: Vec<Tensor> = (0..n)
            .step_by(CHUNK as usize)
            .map(|at| self.entering(&split.images.narrow(0, at, CHUNK.min(n - at))).to_device(Device::Cpu))
            .collect();
        Tensor::cat(&chunks, 0)
    }
}

/// A split, ready to be asked for batches.
#[derive(Debug)]
pub(super) struct Inputs {
    pub split: Rc<Split>,
    /// What enters for the whole split, if it is kept.
    pub prefix: Option<Rc<Tensor>>,
    pub frozen: Frozen,
}

impl Inputs {
    /// Number of images.
    pub(super) fn len(&self) -> i64 {
        self.split.labels.size()[0]
    }

    /// Normalised images `[B, 3, S, S]` by index (i64 `[B]`, on the CPU), on the device.
    pub(super) fn images(&self, index: &Tensor) -> Tensor {
        let images = self.split.images.index_select(0, index).to_device(self.frozen.device);
        data::normalise(&images, self.frozen.normalization)
    }

    /// What enters, `[B, …]`, and the labels `[B]` of the images at `index` (i64 `[B]`, on the CPU), on the device.
    pub(super) fn batch(&self, index: &Tensor) -> (Tensor, Tensor) {
        let entering = match &self.prefix {
            Some(prefix) => prefix.index_select(0, index).to_device(self.frozen.device),
            None => self.frozen.entering(&self.split.images.index_select(0, index)),
        };
        (entering, self.split.labels.index_select(0, index).to_device(self.frozen.device))
    }

    /// All batches of at most [`CHUNK`] images, in the order of the split.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (Tensor, Tensor)> + '_ {
        self.batches(CHUNK)
    }

    /// All batches of at most `size` images, in the order of the split.
    pub(super) fn batches(&self, size: i64) -> impl Iterator<Item = (Tensor, Tensor)> + '_ {
        let n = self.len();
        (0..n).step_by(size as usize).map(move |at| {
            self.batch(&Tensor::arange_start(at, n.min(at + size), (Kind::Int64, Device::Cpu)))
        })
    }
}
