//! The methods: what each of them is told, typed.

/// How a frozen backbone is tuned.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// The head alone.
    Linear,
    /// A head of `layers` linear layers (VPT's MLP-k).
    MlpK {
        layers: u32,
        dropout: f64,
    },
    /// Every tensor of the backbone.
    Full {
        /// Dropout inside the backbone in training.
        dropout: f64,
        drop_path: f64,
    },
    /// The last `blocks` blocks, and the last norm unless told otherwise.
    PartialK {
        blocks: u32,
        norm: bool,
    },
    /// Every bias of the backbone (BitFit).
    Bias {
        lr_factor: f64,
    },
    /// The class token.
    Cls {
        reinit: bool,
    },
    /// `vpt_shallow`, `vpt_deep` and `condense`.
    Vpt(Vpt),
    E2vpt(E2vpt),
    Gated {
        prompt_length: u32,
        insertion_depth: u32,
        prompt_dropout: f64,
        gate_init: f64,
        /// Whether the attention temperatures are trained; if not, they are 1.
        temperature: bool,
    },
    /// `spt_shallow` and `spt_deep`.
    Spt(Spt),
    Cvpt(Cvpt),
    /// A bottleneck of width D / `reduction` behind each MLP (Pfeiffer).
    Adapter {
        reduction: u32,
        fidelity: Fidelity,
    },
    /// A small convolutional network beside the backbone.
    Sidetune,
    /// Low-rank updates of the query and value projections.
    Lora {
        rank: u32,
        alpha: f64,
    },
    /// Scales and shifts behind every operation.
    Ssf,
}

/// What to follow where a paper and its authors' code differ in numbers (docs/methods.md lists where).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fidelity {
    #[default]
    Paper,
    Code,
}

/// Visual Prompt Tuning.
#[derive(Debug, Clone, PartialEq)]
pub struct Vpt {
    pub location: Location,
    /// Prompt tokens; the width of the frame for `pad`, channels for `below`; 0 for `add` and `add_1`, which have as
    /// many as there are tokens, and one.
    pub prompt_length: u32,
    /// First block whose input is prompted.
    pub insertion_depth: u32,
    pub prompt_dropout: f64,
    pub init: PromptInit,
    /// Whether prompts are trained, or stay as they start (VPT's prompt-noupdate).
    pub is_trained: bool,
    /// Width of the prompts before one linear layer that all blocks share; `None`: the backbone's width, no layer.
    pub project: Option<u32>,
    pub pooling: Pooling,
    pub also_train: AlsoTrain,
    /// Factor of the learning rate of the backbone's biases, where they are trained too.
    pub bias_lr_factor: f64,
    /// `None`: shallow.
    pub deep: Option<Deep>,
    /// `code`: the first prompts behind block 0 take the place of patches; on Swin windows get prompts in the code's order.
    pub fidelity: Fidelity,
}

/// What only deep prompts have.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Deep {
    /// `None`: every block from `insertion_depth` on.
    pub prompted_blocks: Option<u32>,
    /// The same prompts in every block.
    pub shared: bool,
    /// The slots are taken out behind the last prompted block.
    pub noexpand: bool,
    /// Blocks are to keep different numbers of prompts: the method `condense`.
    pub is_condensed: bool,
}

/// Where prompts meet the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// Tokens behind the class token.
    Prepend,
    /// A strip of pixels that goes through the patch embedding.
    PrependPixel,
    /// One vector added to each token.
    Add,
    /// One vector added to all tokens.
    Add1,
    /// A frame of pixels around the image.
    Pad,
    /// Further channels of the image.
    Below,
}

/// How prompts start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptInit {
    /// U(−v, v), v = √(6 / (3p² + d)).
    Uniform,
    /// N(0, 1).
    Gaussian,
    /// U(0, 1), brought to ImageNet's mean and deviation in each forward pass.
    Imagenet,
    /// The class token of each class, its mean over the training images, behind the last block.
    ClassFinal,
    /// The same as it enters the block that is prompted.
    ClassEntering,
    /// The same as it leaves that block.
    ClassLeaving,
}

/// Which tokens make the head's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// As the backbone does.
    #[default]
    Original,
    /// The mean of the patches.
    Image,
    /// The mean of the prompts.
    Prompt,
    /// The mean of both.
    ImagePrompt,
}

/// What of the backbone is trained beside prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AlsoTrain {
    #[default]
    None,
    Bias,
    Cls,
    ClsReinit,
}

/// Effective and Efficient Visual Prompt Tuning.
#[derive(Debug, Clone, PartialEq)]
pub struct E2vpt {
    pub prompt_length: u32,
    pub prompt_dropout: f64,
    /// Key-value prompts in each head.
    pub kv_prompt_length: u32,
    /// Keys and values get the same prompts.
    pub kv_share: bool,
    pub kv_position: KvPosition,
    pub kv_blocks: KvBlocks,
    /// Segments that the mask of a token has.
    pub segments: u32,
    /// `code`: the masks are trained, and what is pruned stays as zero vectors.
    pub fidelity: Fidelity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvPosition {
    Before,
    After,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvBlocks {
    All,
    First,
}

/// Self-Prompt Tuning.
#[derive(Debug, Clone, PartialEq)]
pub struct Spt {
    pub deep: bool,
    pub prompt_length: u32,
    pub init: SptInit,
    /// Training images drawn, with replacement; `None`: as many as there are.
    pub init_images: Option<u32>,
    pub drop_path: f64,
}

/// How prompts are made of the training images' tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SptInit {
    Random,
    MeanPooling,
    MaxPooling,
    Kmeans,
}

/// Cross Visual Prompt Tuning.
#[derive(Debug, Clone, PartialEq)]
pub struct Cvpt {
    pub prompt_length: u32,
    pub prompt_dropout: f64,
    pub insertion: CrossInsertion,
    pub drop_path: f64,
    /// `code`: the head's bias is decayed too.
    pub fidelity: Fidelity,
}

/// Where the cross-attention joins a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrossInsertion {
    BeforeAttention,
    Parallel,
    AfterAttention,
    IntoMlp,
    AfterMlp,
}

impl Location {
    /// Whether blocks can have prompts of their own there. Pixels enter before block 0.
    #[must_use]
    pub fn has_deep_form(self) -> bool {
        matches!(self, Location::Prepend | Location::Add | Location::Add1)
    }
}

impl PromptInit {
    /// Whether there is one prompt of each class.
    #[must_use]
    pub fn is_of_classes(self) -> bool {
        matches!(self, PromptInit::ClassFinal | PromptInit::ClassEntering | PromptInit::ClassLeaving)
    }
}

impl Vpt {
    /// Prompts in front of the patches, every other setting at its default.
    #[must_use]
    pub fn shallow(prompt_length: u32) -> Vpt {
        Vpt {
            location: Location::Prepend,
            prompt_length,
            insertion_depth: 0,
            prompt_dropout: 0.0,
            init: PromptInit::Uniform,
            is_trained: true,
            project: None,
            pooling: Pooling::Original,
            also_train: AlsoTrain::None,
            bias_lr_factor: 1.0,
            deep: None,
            fidelity: Fidelity::Paper,
        }
    }

    /// As [`Vpt::shallow`], but with prompts of their own in every block.
    #[must_use]
    pub fn deep(prompt_length: u32) -> Vpt {
        Vpt { prompt_dropout: 0.1, deep: Some(Deep::default()), ..Vpt::shallow(prompt_length) }
    }

    /// Blocks with prompts, of a backbone of `depth`.
    #[must_use]
    pub fn blocks(&self, depth: u32) -> u32 {
        match self.deep {
            None => 1,
            Some(Deep { prompted_blocks, .. }) => {
                prompted_blocks.unwrap_or(depth.saturating_sub(self.insertion_depth))
            }
        }
    }
}

impl Method {
    /// First block whose input is prompted.
    #[must_use]
    pub fn first_block(&self) -> u32 {
        self.range().map_or(0, |(first, _)| first)
    }

    /// First prompted block and number of prompted blocks, if the settings say them.
    pub(super) fn range(&self) -> Option<(u32, Option<u32>)> {
        match self {
            Method::Vpt(vpt) => Some((vpt.insertion_depth, vpt.deep.and_then(|deep| deep.prompted_blocks))),
            Method::Gated { insertion_depth, .. } => Some((*insertion_depth, None)),
            _ => None,
        }
    }
}
