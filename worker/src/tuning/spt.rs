//! Self-Prompt Tuning (Wang et al., ICML 2024): VPT whose prompts start as tokens of training images.
//!
//! The prompts of block i are P of the patch tokens that enter it (for block 0 without positions), or of their pools,
//! in a pass without prompts. The authors hold the tokens of all drawn images in memory; here it is decided first, by
//! index, which tokens are wanted, and only the images that hold one are passed through the backbone, in small batches.
//! That is the same draw. k-means gets 64 tokens per centre, drawn in the same way.

use std::collections::BTreeMap;

use sweeps::recipe::{Spt, SptInit};
use tch::{Device, Kind, Tensor};

use super::{Linear, Step, seeded, stream};
use crate::backbone::Backbone;

/// Images in one forward pass.
const CHUNK: usize = 16;
/// Tokens drawn for each centre of k-means, and its passes over them.
const TOKENS_PER_CENTRE: i64 = 64;
const PASSES: usize = 25;

/// How a row of a prompt is made of an image's patch tokens `[N, D]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// One of N tokens.
    Token,
    /// The mean or the maximum of one of `windows` windows: all but the last hold ⌊N / (windows − 1)⌋ consecutive
    /// tokens, the last the remaining ones of N. If none remains, it holds all N (the authors' slice `[-0:]`).
    Mean {
        windows: i64,
    },
    Max {
        windows: i64,
    },
}

/// Which rows become prompts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draw {
    /// Indices into the training set, drawn with replacement.
    pub images: Vec<i64>,
    /// Per prompted block and prompt: (index into `images`, token or window).
    pub rows: Vec<Vec<(i64, i64)>>,
    pub reduction: Reduction,
}

impl Draw {
    /// Draws rows for `blocks` blocks from a training set of `train` images of `patches` patches.
    pub fn new(method: &Spt, blocks: usize, train: i64, patches: i64, seed: i64) -> Draw {
        let n = method.init_images.map_or(train, i64::from);
        let p = i64::from(method.prompt_length);
        let (reduction, choices) = match method.init {
            // Shallow prompts are drawn from the tokens, whatever the deep ones do.
            _ if !method.deep && method.init != SptInit::Kmeans => (Reduction::Token, patches),
            SptInit::Random | SptInit::Kmeans => (Reduction::Token, patches),
            SptInit::MeanPooling => (Reduction::Mean { windows: p }, p),
            SptInit::MaxPooling => (Reduction::Max { windows: p }, p),
        };
        let wanted = if method.init == SptInit::Kmeans { p * TOKENS_PER_CENTRE } else { p };
        let wanted = wanted.min(n * choices);
        let integers = (Kind::Int64, Device::Cpu);
        let images = seeded(stream(seed, "spt images", 0), || Tensor::randint(train, [n], integers));
        let rows = (0..blocks).map(|block| {
            let flat = distinct(n * choices, wanted, stream(seed, "spt rows", block as u64));
            flat.into_iter().map(|i| (i / choices, i % choices)).collect()
        });
        let rows = rows.collect();
        Draw { images: Vec::try_from(images).unwrap_or_default(), rows, reduction }
    }

    /// The drawn rows `[blocks, rows, D]`. `images` gives normalised images `[b, 3, S, S]` of the training set by index.
    pub fn gather(&self, backbone: &Backbone, images: impl Fn(&[i64]) -> Tensor) -> Tensor {
        let mut by_image: BTreeMap<i64, Vec<(usize, usize, i64)>> = BTreeMap::new();
        for (block, rows) in self.rows.iter().enumerate() {
            for (slot, &(draw, part)) in rows.iter().enumerate() {
                let image = self.images[draw as usize];
                by_image.entry(image).or_default().push((block, slot, part));
            }
        }
        let empty = || Tensor::zeros([i64::from(backbone.arch().dim())], backbone.options());
        let mut found: Vec<Vec<Tensor>> =
            self.rows.iter().map(|rows| rows.iter().map(|_| empty()).collect()).collect();
        let all: Vec<i64> = by_image.keys().copied().collect();
        for chunk in all.chunks(CHUNK) {
            let features = patch_tokens(backbone, &images(chunk), self.rows.len());
            for (b, image) in chunk.iter().enumerate() {
                for &(block, slot, part) in &by_image[image] {
                    found[block][slot] = self.reduction.of(&features[block].get(b as i64), part);
                }
            }
        }
        let blocks: Vec<Tensor> = found.iter().map(|rows| Tensor::stack(rows, 0)).collect();
        Tensor::stack(&blocks, 0)
    }
}

impl Reduction {
    /// Row `part` of an image's tokens `[N, D]`: `[D]`.
    fn of(self, tokens: &Tensor, part: i64) -> Tensor {
        let windows = match self {
            Reduction::Token => return tokens.get(part),
            Reduction::Mean { windows } | Reduction::Max { windows } => windows,
        };
        let n = tokens.size()[0];
        // More windows than tokens: each token is its own.
        let width = (n / (windows - 1)).max(1);
        let rest = n % width;
        let window = if part < windows - 1 {
            tokens.narrow(0, (part * width).min(n - width), width)
        } else if rest > 0 {
            tokens.narrow(0, n - rest, rest)
        } else {
            tokens.shallow_clone()
        };
        match self {
            Reduction::Max { .. } => window.amax([0].as_slice(), false),
            _ => window.mean_dim(0, false, None::<Kind>),
        }
    }
}

/// The patch tokens that enter each of the first `blocks` blocks, `[b, N, D]`: for block 0 the patch embedding alone, for
/// the others what the block before hands on, without CLS.
pub fn patch_tokens(backbone: &Backbone, images: &Tensor, blocks: usize) -> Vec<Tensor> {
    tch::no_grad(|| {
        let mut all: Vec<Tensor> = backbone.vit().iter().map(|vit| vit.patches(images)).collect();
        let mut x = backbone.embed(images);
        let plain = Linear::new(backbone.arch());
        for layer in 1..blocks {
            x = backbone.blocks(x, layer - 1..layer, &plain, Step::evaluation(1));
            all.push(x.narrow(1, 1, x.size()[1] - 1));
        }
        all
    })
}

/// The prompts `[blocks, P, D]` of a new run.
pub fn prompts(
    method: &Spt,
    backbone: &Backbone,
    image_size: i64,
    train: i64,
    seed: i64,
    images: impl Fn(&[i64]) -> Tensor,
) -> Tensor {
    let blocks = if method.deep { backbone.arch().depth() as usize } else { 1 };
    let grid = backbone.vit().map_or(1, |vit| image_size / i64::from(vit.arch().patch_size));
    let rows = Draw::new(method, blocks, train, grid * grid, seed).gather(backbone, images);
    let p = i64::from(method.prompt_length);
    if method.init == SptInit::Kmeans {
        let centres: Vec<Tensor> = (0..blocks as i64).map(|i| centres(&rows.get(i), p)).collect();
        return Tensor::stack(&centres, 0);
    }
    // A training set with fewer tokens than prompts gives each of them several times.
    let index = Tensor::arange(p, (Kind::Int64, rows.device())).remainder(rows.size()[1]);
    rows.index_select(1, &index)
}

/// Lloyd's k-means of rows `[n, D]` in random order: `[k, D]`. It starts from the first k rows; a centre that no row is
/// nearest to stays where it is.
fn centres(rows: &Tensor, k: i64) -> Tensor {
    let index = Tensor::arange(k, (Kind::Int64, rows.device())).remainder(rows.size()[0]);
    let mut centres = rows.index_select(0, &index);
    for _ in 0..PASSES {
        let distances = rows.square().sum_dim_intlist(1, true, None::<Kind>)
            - rows.matmul(&centres.tr()) * 2.0
            + centres.square().sum_dim_intlist(1, false, None::<Kind>); // [n, k]
        let mine = distances.argmin(1, false).one_hot(k).to_kind(rows.kind()); // [n, k]
        let counts = mine.sum_dim_intlist(0, false, None::<Kind>).unsqueeze(1);
        let means = mine.tr().matmul(rows) / counts.clamp_min(1.0);
        centres = means.where_self(&counts.gt(0.0), &centres);
    }
    centres
}

/// `k` distinct integers below `n`, each set and order of them equally likely.
fn distinct(n: i64, k: i64, stream: i64) -> Vec<i64> {
    use rand::SeedableRng;
    let mut generator = rand_chacha::ChaCha8Rng::seed_from_u64(stream as u64);
    let amount = usize::try_from(k.min(n)).unwrap_or(0);
    let length = usize::try_from(n).unwrap_or(0);
    rand::seq::index::sample(&mut generator, length, amount).into_iter().map(|i| i as i64).collect()
}
