//! Names: of the choices of a recipe, and which names backbones, tasks and splits may have.

use super::{
    AlsoTrain, CrossInsertion, Fidelity, HeadInit, Importance, KvBlocks, KvPosition, Location, Method,
    Normalization, Optimizer, Pooling, Preprocessing, PromptInit, RewindLr, Schedule, SptInit, Warmup,
};

pub(super) const PREPROCESSING: &[(&str, Preprocessing)] =
    &[("vpt_tf", Preprocessing::VptTf), ("noah", Preprocessing::Noah), ("spt", Preprocessing::Spt)];
pub(super) const NORMALIZATION: &[(&str, Normalization)] = &[
    ("imagenet", Normalization::Imagenet),
    ("inception", Normalization::Inception),
    ("none", Normalization::None),
];
pub(super) const HEAD_INIT: &[(&str, HeadInit)] =
    &[("vpt", HeadInit::Vpt), ("spt", HeadInit::Spt), ("zero", HeadInit::Zero)];
/// Whether each labels pixels.
pub(super) const HEAD: &[(&str, bool)] = &[("linear", false), ("setr_pup", true)];
pub(super) const WARMUP: &[(&str, Warmup)] = &[("vpt", Warmup::Vpt), ("nonzero", Warmup::Nonzero)];

pub(super) const FIDELITY: &[(&str, Fidelity)] = &[("paper", Fidelity::Paper), ("code", Fidelity::Code)];
pub(super) const LOCATION: &[(&str, Location)] = &[
    ("prepend", Location::Prepend),
    ("prepend_pixel", Location::PrependPixel),
    ("add", Location::Add),
    ("add_1", Location::Add1),
    ("pad", Location::Pad),
    ("below", Location::Below),
];
pub(super) const PROMPT_INIT: &[(&str, PromptInit)] = &[
    ("uniform", PromptInit::Uniform),
    ("gaussian", PromptInit::Gaussian),
    ("imagenet", PromptInit::Imagenet),
    ("class_final", PromptInit::ClassFinal),
    ("class_entering", PromptInit::ClassEntering),
    ("class_leaving", PromptInit::ClassLeaving),
];
pub(super) const POOLING: &[(&str, Pooling)] = &[
    ("original", Pooling::Original),
    ("image", Pooling::Image),
    ("prompt", Pooling::Prompt),
    ("image_prompt", Pooling::ImagePrompt),
];
pub(super) const ALSO_TRAIN: &[(&str, AlsoTrain)] = &[
    ("none", AlsoTrain::None),
    ("bias", AlsoTrain::Bias),
    ("cls", AlsoTrain::Cls),
    ("cls_reinit", AlsoTrain::ClsReinit),
];
pub(super) const KV_POSITION: &[(&str, KvPosition)] =
    &[("before", KvPosition::Before), ("after", KvPosition::After)];
pub(super) const KV_BLOCKS: &[(&str, KvBlocks)] = &[("all", KvBlocks::All), ("first", KvBlocks::First)];
pub(super) const SPT_INIT: &[(&str, SptInit)] = &[
    ("random", SptInit::Random),
    ("mean_pooling", SptInit::MeanPooling),
    ("max_pooling", SptInit::MaxPooling),
    ("kmeans", SptInit::Kmeans),
];
pub(super) const IMPORTANCE: &[(&str, Importance)] = &[
    ("abs", Importance::Abs),
    ("signed", Importance::Signed),
    ("taylor", Importance::Taylor),
    ("leave_one_out", Importance::LeaveOneOut),
];
pub(super) const REWIND_LR: &[(&str, RewindLr)] =
    &[("restart", RewindLr::Restart), ("continue", RewindLr::Continue)];
pub(super) const CROSS_INSERTION: &[(&str, CrossInsertion)] = &[
    ("before_attention", CrossInsertion::BeforeAttention),
    ("parallel", CrossInsertion::Parallel),
    ("after_attention", CrossInsertion::AfterAttention),
    ("into_mlp", CrossInsertion::IntoMlp),
    ("after_mlp", CrossInsertion::AfterMlp),
];

/// The name of a choice in its table, which holds every one.
pub(super) fn name_of<T: PartialEq>(table: &[(&'static str, T)], choice: &T) -> &'static str {
    table.iter().find(|(_, found)| found == choice).map_or("", |(name, _)| name)
}

/// The names that a key may have, where they are few.
pub(crate) fn choices(key: &str) -> Vec<&'static str> {
    fn names<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
        table.iter().map(|(name, _)| *name).collect()
    }
    match key {
        "recipe" => names(PREPROCESSING),
        "normalization" => names(NORMALIZATION),
        "head" => names(HEAD),
        "head_init" => names(HEAD_INIT),
        "warmup" => names(WARMUP),
        "importance" => names(IMPORTANCE),
        "rewind_lr" => names(REWIND_LR),
        "location" => names(LOCATION),
        "pooling" => names(POOLING),
        "also_train" => names(ALSO_TRAIN),
        "kv_position" => names(KV_POSITION),
        "kv_blocks" => names(KV_BLOCKS),
        "cross_insertion" => names(CROSS_INSERTION),
        "fidelity" => names(FIDELITY),
        "prompt_init" => [names(PROMPT_INIT), names(SPT_INIT)].concat(),
        _ => Vec::new(),
    }
}

const MAX_NAME: usize = 128;

impl Preprocessing {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Preprocessing::VptTf => "vpt_tf",
            Preprocessing::Noah => "noah",
            Preprocessing::Spt => "spt",
        }
    }
}

impl Normalization {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Normalization::Imagenet => "imagenet",
            Normalization::Inception => "inception",
            Normalization::None => "none",
        }
    }
}

impl HeadInit {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            HeadInit::Vpt => "vpt",
            HeadInit::Spt => "spt",
            HeadInit::Zero => "zero",
        }
    }
}

impl Warmup {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Warmup::Vpt => "vpt",
            Warmup::Nonzero => "nonzero",
        }
    }
}

impl Optimizer {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Optimizer::Sgd { .. } => "sgd",
            Optimizer::AdamW { .. } => "adamw",
            Optimizer::AdamWVpt { .. } => "adamw_vpt",
        }
    }
}

impl Schedule {
    /// Epochs before the peak.
    #[must_use]
    pub fn warmup_epochs(self) -> u32 {
        match self {
            Schedule::Constant | Schedule::Poly { .. } => 0,
            Schedule::Cosine { warmup_epochs, .. }
            | Schedule::CosineSpt { warmup_epochs, .. }
            | Schedule::CosineCvpt { warmup_epochs, .. } => warmup_epochs,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Schedule::Constant => "constant",
            Schedule::Cosine { .. } => "cosine",
            Schedule::CosineSpt { .. } => "cosine_spt",
            Schedule::CosineCvpt { .. } => "cosine_cvpt",
            Schedule::Poly { .. } => "poly",
        }
    }
}

impl Method {
    /// One of [`METHODS`](super::METHODS).
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Method::Linear => "linear",
            Method::MlpK { .. } => "mlp_k",
            Method::Full { .. } => "full",
            Method::PartialK { .. } => "partial_k",
            Method::Bias { .. } => "bias",
            Method::Cls { .. } => "cls",
            Method::Adapter { .. } => "adapter",
            Method::Sidetune => "sidetune",
            Method::Lora { .. } => "lora",
            Method::Ssf => "ssf",
            Method::Vpt(vpt) => match vpt.deep {
                None => "vpt_shallow",
                Some(deep) if deep.is_condensed => "condense",
                Some(_) => "vpt_deep",
            },
            Method::E2vpt(_) => "e2vpt",
            Method::Gated { .. } => "gated",
            Method::Spt(spt) if spt.deep => "spt_deep",
            Method::Spt(_) => "spt_shallow",
            Method::Cvpt(_) => "cvpt",
        }
    }
}

/// Checks the name of a backbone or a split: it may name a file, so it is one plain path component.
///
/// # Errors
/// A sentence to be read after the key.
pub fn check_name(name: &str) -> Result<(), String> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if name.len() > MAX_NAME {
        Err(format!("is longer than {MAX_NAME} characters"))
    } else if !starts_well || !is_plain || name.contains("..") {
        Err(format!(
            "{name:?} is no name: use letters, digits, `_`, `-` and single `.`, beginning with a letter or a digit"
        ))
    } else {
        Ok(())
    }
}

/// Checks the name of a task: `name` or `group/name`, each part as in [`check_name`].
///
/// # Errors
/// A sentence to be read after the key.
pub fn check_task_name(name: &str) -> Result<(), String> {
    match name.split_once('/') {
        None => check_name(name),
        Some((_, rest)) if rest.contains('/') => {
            Err(format!("{name:?} has more than one `/`: write `group/name`"))
        }
        Some((group, task)) => check_name(group).and_then(|()| check_name(task)),
    }
}

/// The number of blocks that a backbone's name promises by the usual naming of ViTs: `vit_b16_in21k`,
/// `vit_large_patch16`, `dinov2_vits14`, `deit_tiny`. `None` for every other name.
#[must_use]
pub fn known_depth(backbone: &str) -> Option<u32> {
    known_size(backbone).map(|(depth, _)| depth)
}

/// As [`known_depth`], the width of a token.
#[must_use]
pub fn known_width(backbone: &str) -> Option<u32> {
    known_size(backbone).map(|(_, width)| width)
}

/// Blocks and width.
fn known_size(backbone: &str) -> Option<(u32, u32)> {
    let name = backbone.to_ascii_lowercase();
    let starts = name
        .match_indices("vit")
        .map(|(at, _)| (at, at + 3))
        .chain(name.match_indices("deit").map(|(at, _)| (at, at + 4)));
    starts.filter(|(at, _)| !name[..*at].ends_with(|c: char| c.is_ascii_alphanumeric())).find_map(
        |(_, end)| {
            let size = name[end..].trim_start_matches(['_', '-', '.']);
            let letters = size.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(size.len());
            match &size[..letters] {
                "ti" | "tiny" => Some((12, 192)),
                "s" | "small" => Some((12, 384)),
                "b" | "base" => Some((12, 768)),
                "l" | "large" => Some((24, 1024)),
                "h" | "huge" => Some((32, 1280)),
                _ => None,
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_folder_are_refused() {
        for name in ["vit_b16_in21k", "dinov2_vits14_imgfocus", "a", "0.5-x", "train800val200"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        let long = "a".repeat(129);
        for name in
            ["", ".", "..", "a..b", "/etc", "a/b", "a\\b", "-rf", "_x", "a b", "a\0", "é", "a\n", &long]
        {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["vtab/dtd", "digits", "elpv/type"] {
            assert_eq!(check_task_name(name), Ok(()), "{name}");
        }
        for name in ["/dtd", "vtab/", "vtab//dtd", "a/b/c", "../dtd", "vtab/..", "./x"] {
            assert!(check_task_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn depth_follows_from_usual_names_only() {
        for name in ["vit_ti16", "vit_s16", "vit_b16_in21k", "vit_base_patch16_224", "dinov2_vits14_imgfocus"]
        {
            assert_eq!(known_depth(name), Some(12), "{name}");
        }
        for name in ["mocov3-vit-small", "deit_tiny_patch16", "mae_vit_base", "ViT-B16"] {
            assert_eq!(known_depth(name), Some(12), "{name}");
        }
        assert_eq!(known_depth("vit_l16"), Some(24));
        assert_eq!(known_depth("dinov2_vitl14"), Some(24));
        assert_eq!(known_depth("vit_huge_patch14"), Some(32));
        for name in ["swin_b", "vit", "vit_giant", "vitamin_large", "invit_b16", "resnet50", "vitg14"] {
            assert_eq!(known_depth(name), None, "{name}");
        }
    }
}
