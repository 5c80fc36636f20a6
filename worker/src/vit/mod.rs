//! Pre-norm Vision Transformers with the hook sites that tuning methods use.

pub mod arch;
mod backbone;
mod block;
mod position;

pub use arch::{Arch, Pool, PositionResize};
pub use backbone::Vit;
pub use block::Block;
pub use position::resize_positions;
