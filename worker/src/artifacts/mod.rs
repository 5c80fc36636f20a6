//! What outlives a trainer: the tuned tensors of finished trials, and checkpoints of unfinished ones.
//!
//! `Artifacts` is the folder or bucket that they lie in, `file` their form: one safetensors file each, named by trial
//! and attempt, so that no two attempts ever write the same place.

mod file;
mod store;

pub use file::{Contents, FileError};
pub use store::{Artifacts, Place, StoreError};
