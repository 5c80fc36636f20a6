//! A trial's parameters, typed, and which method reads which key.
//!
//! A recipe has two outer forms with the same keys: the flat [`Settings`](crate::Settings) of a sweep file's `base`, and the JSON
//! object of the wire, which `worker train` reads too. Both are read strictly: an unknown key, or one that the
//! method does not read, is an error.

mod error;
mod family;
mod hash;
mod keys;
mod method;
mod names;
mod prefix;
mod pruning;
mod read;
mod read_method;
mod setr;
mod write;

pub use self::error::{Fault, RecipeError};
pub use self::family::{Family, known_family};
pub(crate) use self::hash::hex;
pub use self::keys::{KEYS, Key, METHODS, method_reads, methods_reading};
pub(crate) use self::keys::{is_key, list, unknown};
pub use self::method::{
    AlsoTrain, CrossInsertion, Cvpt, Deep, E2vpt, Fidelity, KvBlocks, KvPosition, Location, Method, Pooling,
    PromptInit, Spt, SptInit, Vpt,
};
pub(crate) use self::names::choices;
pub use self::names::{check_name, check_task_name, known_depth, known_width};
pub use self::prefix::Prefix;
pub use self::pruning::{Importance, Pruning, Rewind, RewindLr, Scope};
pub(crate) use self::read::Source;
pub use self::setr::Setr;

pub(crate) const DEFAULT_BATCH_SIZE: u32 = 64;

/// Everything that a trainer needs to run a trial, apart from its seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    pub backbone: String,
    pub task: String,
    pub split: Split,
    /// Key `recipe`.
    pub preprocessing: Preprocessing,
    pub normalization: Normalization,
    /// Side of the square input image in pixels.
    pub image_size: u32,
    pub method: Method,
    pub head_init: HeadInit,
    pub epochs: u32,
    /// Steps of an epoch; `None`: as many as it takes to see every training image once.
    pub epoch_steps: Option<u32>,
    pub batch_size: u32,
    /// Peak learning rate, `scaled_by` already applied.
    pub lr: f64,
    pub wd: f64,
    /// Weight decay of the head; `None`: as `wd`.
    pub wd_head: Option<f64>,
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    pub pruning: Option<Pruning>,
    /// `None`: an image has one label. `Some`: every pixel has one.
    pub setr: Option<Setr>,
}

/// Names of the label files that a trial trains on, is scored on each epoch, and is tested on once at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    pub train: String,
    pub eval: String,
    /// `None` (`test: null`): the test images are not touched.
    pub test: Option<String>,
}

/// How an image file becomes pixels in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preprocessing {
    /// Straight to the square, bilinear without antialiasing (VPT on VTAB-1k).
    VptTf,
    /// Straight to the square, bicubic (NOAH and its descendants).
    Noah,
    /// Short side to the square's side, bicubic, then the centre (SPT).
    Spt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalization {
    /// ImageNet's mean and standard deviation.
    Imagenet,
    /// Mean and standard deviation 0.5: pixels in [-1, 1].
    Inception,
    /// Pixels stay in [0, 1].
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadInit {
    /// W ~ N(0, 2/C), b = −ln 99 (VPT).
    Vpt,
    /// W ~ N(0, 0.02²), b = 0 (SPT).
    Spt,
    /// W = 0, b = 0.
    Zero,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Optimizer {
    Sgd {
        momentum: f64,
    },
    /// Torch's: the decay comes before the update.
    AdamW {
        beta1: f64,
        beta2: f64,
        eps: f64,
    },
    /// The VPT code's: eps enters before the bias correction, the decay comes after the update and spares biases.
    AdamWVpt {
        beta1: f64,
        beta2: f64,
        eps: f64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    Constant,
    Cosine {
        warmup_epochs: u32,
        warmup: Warmup,
    },
    /// The SPT code's: a new rate in every step, from 0 over the peak to `min_lr`.
    CosineSpt {
        warmup_epochs: u32,
        min_lr: f64,
    },
    /// mmsegmentation's: `min + (peak − min) (1 − t)^power`, a new rate in every step, t the share of the steps done.
    Poly {
        power: f64,
        min_lr: f64,
    },
    /// The CVPT code's: from `warmup_lr` over the peak to `min_lr`, one epoch late.
    CosineCvpt {
        warmup_epochs: u32,
        warmup_lr: f64,
        min_lr: f64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warmup {
    /// As the VPT code: factor e / W in epoch e, so that epoch 0 trains nothing.
    Vpt,
    /// Factor (e + 1) / (W + 1): no epoch is wasted.
    Nonzero,
}

impl Recipe {
    /// Epochs of all phases together.
    #[must_use]
    pub fn epochs_in_all(&self) -> u32 {
        self.pruning.map_or(self.epochs, |pruning| pruning.prune_at.saturating_add(pruning.epochs))
    }

    /// Checks what depends on the backbone's number of blocks. [`Recipe::from_settings`] does so already where the
    /// backbone's name tells its depth; whoever has the weights knows better and checks again.
    ///
    /// # Errors
    /// Prompts that would enter a block the backbone does not have.
    pub fn check_depth(&self, depth: u32) -> Result<(), RecipeError> {
        if let Method::PartialK { blocks, .. } = self.method
            && blocks > depth
        {
            return Err(RecipeError::new(
                "trained_blocks",
                format!("is {blocks}, but `{}` has {depth} blocks: use 1 to {depth}", self.backbone),
            ));
        }
        if let Some(last) = self.setr.as_ref().and_then(|setr| setr.aux_blocks(depth).pop())
            && last >= depth
        {
            let message = format!(
                "block {last} is not there: `{}` has {depth} blocks, 0 to {}",
                self.backbone,
                depth.saturating_sub(1)
            );
            return Err(RecipeError::new("aux_blocks", message));
        }
        let Some((insertion_depth, prompted_blocks)) = self.method.range() else { return Ok(()) };
        let backbone = &self.backbone;
        if insertion_depth >= depth {
            let last = depth.saturating_sub(1);
            return Err(RecipeError::new(
                "insertion_depth",
                format!("is {insertion_depth}, but `{backbone}` has {depth} blocks: use 0 to {last}"),
            ));
        }
        match prompted_blocks {
            Some(blocks) if blocks > depth - insertion_depth => Err(RecipeError::new(
                "prompted_blocks",
                format!(
                    "{blocks} blocks from insertion_depth {insertion_depth} on go beyond the {depth} blocks of \
                     `{backbone}`: use at most {}",
                    depth - insertion_depth
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Checks what depends on the width of the backbone's tokens, as [`Recipe::check_depth`] does with its blocks.
    ///
    /// # Errors
    /// Segments that do not divide the width; a bottleneck of width 0.
    pub fn check_width(&self, width: u32) -> Result<(), RecipeError> {
        let backbone = &self.backbone;
        match &self.method {
            Method::E2vpt(method) if !width.is_multiple_of(method.segments) => Err(RecipeError::new(
                "segments",
                format!("is {}, which does not divide the {width} of `{backbone}`", method.segments),
            )),
            Method::Adapter { reduction, .. } if *reduction > width => Err(RecipeError::new(
                "reduction",
                format!("is {reduction}, more than the width {width} of `{backbone}`"),
            )),
            _ => Ok(()),
        }
    }

    /// Checks all of it against what is offered under the backbone's name: a family that may be empty or unknown, then
    /// nothing but the depth counts, blocks, and width.
    ///
    /// # Errors
    /// As [`Recipe::check_family`], [`Recipe::check_depth`] and [`Recipe::check_width`].
    pub fn check_offered(&self, family: &str, depth: u32, width: u32) -> Result<(), RecipeError> {
        if let Some(family) = Family::from_name(family) {
            self.check_family(family)?;
            self.check_width(width)?;
        }
        self.check_depth(depth)
    }

    /// Checks what depends on the number of classes of the task.
    ///
    /// # Errors
    /// Prompts of classes that are not as many as those.
    pub fn check_classes(&self, classes: u32) -> Result<(), RecipeError> {
        match &self.method {
            Method::Vpt(vpt) if vpt.init.is_of_classes() && vpt.prompt_length != classes => {
                Err(RecipeError::new(
                    "prompt_length",
                    format!(
                        "is {}, but `prompt_init` makes one prompt of each class, and `{}` has {classes}: use {classes}",
                        vpt.prompt_length, self.task
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Checks what depends on the number of patches of an image.
    ///
    /// # Errors
    /// More prompts than patches where they take the patches' place.
    pub fn check_patches(&self, patches: u32) -> Result<(), RecipeError> {
        match &self.method {
            Method::Vpt(Vpt {
                prompt_length,
                insertion_depth: 1..,
                fidelity: Fidelity::Code,
                deep: Some(_),
                ..
            }) if *prompt_length > patches => Err(RecipeError::new(
                "prompt_length",
                format!(
                    "is {prompt_length}, but with `fidelity: code` prompts take the place of patches, of which \
                         an image has {patches}: use fewer, or `fidelity: paper`"
                ),
            )),
            _ => Ok(()),
        }
    }
}
