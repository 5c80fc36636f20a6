//! Dense prediction: semantic segmentation with a SETR-PUP head on a tuned ViT (Zheng et al., CVPR 2021; the setting of the
//! ADE20K tables of VPT and Gated Prompt Tuning), as mmsegmentation builds it.
//!
//! What is tuned in the backbone, and how, is a method as everywhere else, and the trainer runs it as any other trial. Here lie
//! the crops, the heads and their loss, the windows and the scores.

mod colour;
mod crop;
mod head;
mod heads;
mod scores;
#[cfg(test)]
mod tests;
mod windows;

pub use colour::Colours;
pub use crop::Cropping;
pub use head::{Head, HeadShape};
pub use heads::{Heads, kept_numbers};
pub use scores::Confusion;
pub use windows::{Scale, Sliding};
