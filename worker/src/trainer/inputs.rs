//! What enters the first block that a method touches, for every image of a split.
//!
//! It is a function of (backbone, images, preprocessing) alone, so where it fits into memory it is computed once and
//! reused over epochs and trials. Whether it is depends on sizes only, never on what else is cached: a trial takes the
//! same path, and so gives the same bits, wherever and after whatever it runs.

use std::rc::Rc;

use sweeps::recipe::Normalization;
use tch::{Device, Kind, Tensor};

use crate::data::{self, Split};
use crate::tuning::{Linear, Step};
use crate::vit::{Pool, Vit};

/// Largest prefix of one split that is kept, in bytes.
pub(super) const PREFIX_LIMIT: usize = 1 << 30;

/// Images in one forward pass without gradients.
pub(super) const CHUNK: i64 = 64;

/// The frozen part of the forward pass.
#[derive(Debug, Clone)]
pub(super) struct Frozen {
    pub vit: Rc<Vit>,
    /// Says which weights these are, and how they are read.
    pub identity: String,
    /// The position table for the trial's image size.
    pub positions: Rc<Tensor>,
    pub normalization: Normalization,
    /// Blocks `0..first` belong to it.
    pub first: usize,
    pub device: Device,
}

impl Frozen {
    /// Behind the last block only CLS is read, where CLS is what feeds the head: the rest need not be kept.
    fn is_cls_enough(&self) -> bool {
        let arch = self.vit.arch();
        self.first == arch.depth as usize && arch.pool == Pool::Cls
    }

    /// Images u8 `[B, 3, S, S]` to the tokens entering block `first`, `[B, T, D]`.
    fn tokens(&self, images: &Tensor) -> Tensor {
        tch::no_grad(|| {
            let images = data::normalise(&images.to_device(self.device), self.normalization);
            let x = self.vit.embed(&images, &self.positions);
            let plain = Linear::new(self.vit.arch());
            let x = self.vit.blocks(x, 0..self.first, &plain, Step::evaluation(1));
            if self.is_cls_enough() { x.narrow(1, 0, 1).contiguous() } else { x }
        })
    }

    /// Bytes of the tokens of `images` images.
    pub(super) fn bytes(&self, images: i64) -> usize {
        let tokens = if self.is_cls_enough() { 1 } else { self.positions.size()[1] };
        usize::try_from(images * tokens * i64::from(self.vit.arch().dim) * 4).unwrap_or(usize::MAX)
    }

    /// The tokens of a whole split, in its order, kept where its images are.
    pub(super) fn prefix(&self, split: &Split) -> Tensor {
        let n = split.images.size()[0];
        let chunks: Vec<Tensor> = (0..n)
            .step_by(CHUNK as usize)
            .map(|at| self.tokens(&split.images.narrow(0, at, CHUNK.min(n - at))).to_device(Device::Cpu))
            .collect();
        Tensor::cat(&chunks, 0)
    }
}

/// A split, ready to be asked for batches.
#[derive(Debug)]
pub(super) struct Inputs {
    pub split: Rc<Split>,
    /// Tokens of the whole split, if they are kept.
    pub prefix: Option<Rc<Tensor>>,
    pub frozen: Frozen,
}

impl Inputs {
    /// Number of images.
    pub(super) fn len(&self) -> i64 {
        self.split.labels.size()[0]
    }

    /// Tokens `[B, T, D]` and labels `[B]` of the images at `index` (i64 `[B]`, on the CPU), on the device.
    pub(super) fn batch(&self, index: &Tensor) -> (Tensor, Tensor) {
        let tokens = match &self.prefix {
            Some(prefix) => prefix.index_select(0, index).to_device(self.frozen.device),
            None => self.frozen.tokens(&self.split.images.index_select(0, index)),
        };
        (tokens, self.split.labels.index_select(0, index).to_device(self.frozen.device))
    }

    /// All batches of at most [`CHUNK`] images, in the order of the split.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (Tensor, Tensor)> + '_ {
        let n = self.len();
        (0..n).step_by(CHUNK as usize).map(move |at| {
            self.batch(&Tensor::arange_start(at, n.min(at + CHUNK), (Kind::Int64, Device::Cpu)))
        })
    }
}
