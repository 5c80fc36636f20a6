//! All randomness of a run. Every draw starts from (seed, purpose, position), so that a run can be repeated to the bit,
//! continued from a checkpoint, or fused with others without any generator state to carry.

use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

/// libtorch has one generator per process.
static GENERATOR: Mutex<()> = Mutex::new(());

/// The seed of one stream of draws.
pub fn stream(seed: i64, purpose: &str, position: u64) -> i64 {
    let hash = Sha256::new()
        .chain_update(seed.to_le_bytes())
        .chain_update(position.to_le_bytes())
        .chain_update(purpose)
        .finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    i64::from_le_bytes(first)
}

/// Runs `draw` with libtorch's generator set to `stream`.
pub fn seeded<T>(stream: i64, draw: impl FnOnce() -> T) -> T {
    let _alone = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(stream);
    draw()
}

/// Where the dropout of one training step draws from.
#[derive(Debug, Clone, Copy)]
pub struct Noise<'a> {
    /// One per member.
    pub seeds: &'a [i64],
    /// Training steps taken before this one.
    pub position: u64,
}

impl Noise<'_> {
    /// Inverted dropout on `[K·B, …]`: each member draws from its own stream, one per (step, purpose).
    pub(crate) fn dropout(self, x: &Tensor, p: f64, purpose: &str) -> Tensor {
        let size = x.size();
        x * self.mask(x, p, purpose, &size[1..])
    }

    /// Stochastic depth on a branch `[K·B, …]`: whole samples are dropped.
    pub(crate) fn drop_path(self, x: &Tensor, p: f64, purpose: &str) -> Tensor {
        x * self.mask(x, p, purpose, &vec![1; x.dim() - 1])
    }

    /// 0 with chance p, else 1/(1 − p), `[K·B, shape…]`.
    fn mask(self, x: &Tensor, p: f64, purpose: &str, shape: &[i64]) -> Tensor {
        let batch = x.size()[0] / self.seeds.len() as i64;
        let shape = [&[batch], shape].concat();
        let masks: Vec<Tensor> = self
            .seeds
            .iter()
            .map(|&seed| {
                let stream = stream(seed, purpose, self.position);
                let mut blank = Tensor::empty(shape.as_slice(), (Kind::Float, x.device()));
                seeded(stream, || blank.bernoulli_float_(1.0 - p))
            })
            .collect();
        (Tensor::cat(&masks, 0) / (1.0 - p)).to_kind(x.kind())
    }
}
