//! A trial's parameters, typed, and which method reads which key.

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
    pub batch_size: u32,
    /// Peak learning rate, `scaled_by` already applied.
    pub lr: f64,
    pub wd: f64,
    pub optimizer: Optimizer,
    pub schedule: Schedule,
}

/// Names of the label files that a trial trains on, is scored on each epoch, and is tested on once at the end.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    pub train: String,
    pub eval: String,
    /// `None` (`test: null`): the test images are not touched.
    pub test: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preprocessing {
    VptTf,
    Noah,
    Spt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalization {
    Imagenet,
    Inception,
    None,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    Linear,
    VptShallow {
        prompt_length: u32,
        insertion_depth: u32,
        prompt_dropout: f64,
    },
    VptDeep {
        prompt_length: u32,
        insertion_depth: u32,
        /// `None`: every block from `insertion_depth` on.
        prompted_blocks: Option<u32>,
        prompt_dropout: f64,
    },
    Gated {
        prompt_length: u32,
        insertion_depth: u32,
        prompt_dropout: f64,
        gate_init: f64,
        /// Whether the attention temperatures are trained; if not, they are 1.
        temperature: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadInit {
    /// W ~ N(0, 2/C), b = −ln 99 (VPT).
    Vpt,
    /// W ~ truncated N(0, 0.02²), b = 0 (SPT).
    Spt,
    /// W = 0, b = 0.
    Zero,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Optimizer {
    Sgd { momentum: f64 },
    AdamW { beta1: f64, beta2: f64, eps: f64 },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    Constant,
    Cosine { warmup_epochs: u32, warmup: Warmup },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warmup {
    /// As the VPT code: factor e / W in epoch e, so that epoch 0 trains nothing.
    Vpt,
    /// Factor (e + 1) / (W + 1): no epoch is wasted.
    Nonzero,
}
