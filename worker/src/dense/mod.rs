//! Dense prediction: semantic segmentation with a SETR-PUP head on a tuned ViT (Zheng et al., CVPR 2021; the setting of the
//! ADE20K tables of VPT and Gated Prompt Tuning).
//!
//! What is tuned in the backbone, and how, is a method as everywhere else. Here lie the folder of images and label maps,
//! the crops, the heads, and the scores.

mod crop;
mod folder;
mod head;
mod run;
mod scores;
mod segmenter;
#[cfg(test)]
mod tests;
mod windows;

pub use crop::Cropping;
pub use folder::{Folder, FolderError, Sample};
pub use head::{Head, HeadShape};
pub use run::{SegmentError, Settings, run};
pub use scores::Confusion;
pub use segmenter::{AUXILIARY_WEIGHT, Segmenter};
pub use windows::{Scale, Sliding};

/// The label of a pixel that counts neither in the loss nor in the scores.
pub const IGNORED: i64 = 255;
