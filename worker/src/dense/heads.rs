//! The heads of one segmentation: one behind each of a few blocks while training, and the one that counts behind the last.

use sweeps::recipe::Setr;
use tch::{Device, Kind, Reduction, Tensor};

use super::head::{Head, HeadShape};
use crate::data::IGNORED;
use crate::tuning::Param;
use crate::vit;

/// `head` and `auxiliary.N`.
#[derive(Debug)]
pub struct Heads {
    main: Head,
    auxiliary: Vec<Head>,
    /// Behind which blocks the auxiliary heads stand, ascending.
    blocks: Vec<usize>,
    /// Of an auxiliary head's loss.
    weight: f64,
    patch: i64,
}

impl Heads {
    pub fn new(setr: &Setr, arch: &vit::Arch, classes: i64, seed: i64, options: (Kind, Device)) -> Heads {
        let (dim, channels) = (i64::from(arch.dim), i64::from(setr.channels));
        let head = |name: &str, shape| Head::new(name, shape, dim, classes, setr.lr_factor, seed, options);
        let blocks: Vec<usize> = setr.aux_blocks(arch.depth).iter().map(|&block| block as usize).collect();
        let auxiliary = |n| head(&format!("auxiliary.{n}"), HeadShape::auxiliary(channels));
        Heads {
            main: head("head", HeadShape::main(channels)),
            auxiliary: (0..blocks.len()).map(auxiliary).collect(),
            blocks,
            weight: setr.aux_weight,
            patch: i64::from(arch.patch_size),
        }
    }

    pub fn params(&self) -> Vec<Param> {
        self.all().flat_map(Head::params).collect()
    }

    /// Running means and variances.
    pub fn buffers(&self) -> Vec<Param> {
        self.all().flat_map(Head::buffers).collect()
    }

    fn all(&self) -> impl Iterator<Item = &Head> {
        [&self.main].into_iter().chain(&self.auxiliary)
    }

    /// The blocks whose output [`Heads::loss`] asks for, besides the last one's.
    pub fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    /// The mean over all pixels, of which the ignored ones count 0 (mmsegmentation's default), of the main head's cross
    /// entropy and `aux_weight` of each auxiliary head's. `tokens` `[B, T, D]`: what [`Heads::blocks`] and the last block hand
    /// on; `labels` `[B, S, S]`.
    pub fn loss(&self, tokens: &[Tensor], labels: &Tensor, training: bool) -> Tensor {
        let side = labels.size()[2];
        let loss = |head: &Head, tokens: &Tensor| {
            let logits = brought_to(&head.forward(&self.patches(tokens, side), training), side);
            let losses = logits.cross_entropy_loss(labels, None::<&Tensor>, Reduction::None, IGNORED, 0.0);
            losses.mean(logits.kind())
        };
        let (last, taps) = tokens.split_last().expect("the last block hands something on");
        let auxiliary =
            self.auxiliary.iter().zip(taps).map(|(head, tokens)| loss(head, tokens) * self.weight);
        auxiliary.fold(loss(&self.main, last), |sum, loss| sum + loss)
    }

    /// Logits `[B, C, S, S]` of the main head, from what the last block hands on for images of `side` pixels.
    pub fn logits(&self, tokens: &Tensor, side: i64) -> Tensor {
        brought_to(&self.main.forward(&self.patches(tokens, side), false), side)
    }

    /// Patches come last, whatever prompts stand before them.
    fn patches(&self, tokens: &Tensor, side: i64) -> Tensor {
        let patches = (side / self.patch).pow(2);
        tokens.narrow(1, tokens.size()[1] - patches, patches)
    }
}

/// Logits `[B, C, h, h]` in another size: bilinear, half-pixel centres.
fn brought_to(logits: &Tensor, side: i64) -> Tensor {
    if logits.size()[2] == side {
        return logits.shallow_clone();
    }
    logits.upsample_bilinear2d([side, side], false, None, None)
}

/// Numbers that a training step keeps for its gradients on one image of `side` pixels, `grid`² patches of width `dim`: the
/// input, output and ReLU of each convolution, and the softmax in the size of the labels. A lower bound.
pub fn kept_numbers(setr: &Setr, arch: &vit::Arch, classes: u64, side: u64) -> u64 {
    let grid = side / u64::from(arch.patch_size);
    let of_head = |shape: HeadShape| {
        let (up, channels) = (shape.upsampling.unsigned_abs(), shape.channels.unsigned_abs());
        let (mut size, mut numbers) = (grid, u64::from(arch.dim) * grid * grid);
        for _ in 0..shape.convolutions {
            numbers += 2 * channels * size * size;
            size *= up;
            numbers += channels * size * size;
        }
        numbers + classes * side * side
    };
    let channels = i64::from(setr.channels);
    let auxiliary = setr.aux_blocks(arch.depth).len() as u64;
    of_head(HeadShape::main(channels)) + auxiliary * of_head(HeadShape::auxiliary(channels))
}
