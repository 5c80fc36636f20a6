//! Swin transformers: attention within windows, four stages, no class token.

mod arch;
mod backbone;
#[cfg(test)]
mod tests;
mod window;

pub use arch::{Arch, Stage};
pub use backbone::Swin;
pub use window::Order;
