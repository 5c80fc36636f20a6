//! Frozen backbones: pre-norm Vision Transformers with the hook sites that tuning methods use.

pub mod arch;
mod backbone;
mod block;
mod position;
#[cfg(test)]
pub(crate) mod tiny;
mod weights;

pub use arch::{Arch, Pool, PositionResize};
pub use backbone::Vit;
pub use block::Block;
pub use position::resize_positions;
pub use weights::{Weights, WeightsError};
