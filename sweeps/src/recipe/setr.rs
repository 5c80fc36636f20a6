//! Dense prediction (`head: setr_pup`): what a head that labels every pixel has to be told, and what it cannot stand on.

use super::names::HEAD;
use super::read::{Fields, real, whole};
use super::{Fidelity, Location, Method, RecipeError, Vpt};
use crate::value::Value;

/// A SETR-PUP head with its auxiliary heads, the crops that it is trained on, and the windows that it is scored by.
#[derive(Debug, Clone, PartialEq)]
pub struct Setr {
    /// Of the heads' convolutions.
    pub channels: u32,
    /// Factor of the heads' learning rate.
    pub lr_factor: f64,
    /// The blocks, from 0 and ascending, behind which auxiliary heads stand; `None`: see [`Setr::aux_blocks`].
    pub aux_blocks: Option<Vec<u32>>,
    /// Of an auxiliary head's loss; the main head's counts 1.
    pub aux_weight: f64,
    /// Pixels from one window to the next.
    pub stride: u32,
    /// Sizes in which test images are seen once more, each with its mirror image; none: at a single scale alone.
    pub scales: Vec<f64>,
    /// A crop of which one class covers this or more is drawn again.
    pub cat_max_ratio: f64,
    /// Whether crops change their colours.
    pub photometric: bool,
}

impl Setr {
    /// Where the auxiliary heads stand in a backbone of `depth` blocks; by default the places of blocks 5 and 9 of twelve
    /// (Gated Prompt Tuning).
    #[must_use]
    pub fn aux_blocks(&self, depth: u32) -> Vec<u32> {
        self.aux_blocks.clone().unwrap_or_else(|| vec![depth * 5 / 12, depth * 9 / 12])
    }
}

/// The keys that only such a head reads.
const KEYS: &[&str] = &[
    "head_channels",
    "head_lr_factor",
    "aux_blocks",
    "aux_weight",
    "stride",
    "scales",
    "cat_max_ratio",
    "photometric",
];
/// The keys that mean nothing to it.
const FOREIGN: &[&str] = &["recipe", "head_init", "pooling", "pruning_ratio", "segment_ratio"];

/// Reads `head` and the keys that go with it. `None`: a head that gives an image one label.
pub(super) fn read(top: &Fields<'_>, method: &Method, image_size: u32) -> Result<Option<Setr>, RecipeError> {
    let is_given = |key: &&&str| top.source.get(key).is_some();
    if !top.choice("head", Some(false), HEAD)? {
        return match KEYS.iter().find(is_given) {
            Some(key) => Err(RecipeError::foreign(key, "is read with `head: setr_pup` alone")),
            None => Ok(None),
        };
    }
    if let Some(key) = FOREIGN.iter().find(is_given) {
        return Err(RecipeError::foreign(key, "is not read with `head: setr_pup`: leave it out"));
    }
    check_method(method)?;
    let positive = |key, default| top.float(key, Some(default), "a number > 0", |x| x > 0.0);
    Ok(Some(Setr {
        channels: top.int("head_channels", Some(256), 1..=4096)?,
        lr_factor: positive("head_lr_factor", 10.0)?,
        aux_blocks: aux_blocks(top)?,
        aux_weight: positive("aux_weight", 0.4)?,
        stride: stride(top, image_size)?,
        scales: scales(top)?,
        cat_max_ratio: top
            .float("cat_max_ratio", Some(0.75), "a number with 0 < x <= 1", |x| x > 0.0 && x <= 1.0)?,
        photometric: top.bool("photometric", true)?,
    }))
}

/// The head stands on the patches of the last block: a method must leave each of them in its place.
fn check_method(method: &Method) -> Result<(), RecipeError> {
    let refused = |key: &str, message: &str| Err(RecipeError::new(key, message));
    match method {
        Method::MlpK { .. } => {
            refused("method", "`mlp_k` is a head for whole images: use `linear` with `setr_pup`")
        }
        Method::Sidetune => refused(
            "method",
            "`sidetune` adds to the feature of a whole image: choose another with `setr_pup`",
        ),
        Method::Vpt(Vpt { location: Location::Pad, .. }) => refused(
            "location",
            "`pad` adds patches that no pixel of the labels belongs to: choose another with `setr_pup`",
        ),
        Method::Vpt(Vpt { insertion_depth: 1.., deep: Some(_), fidelity: Fidelity::Code, .. }) => refused(
            "fidelity",
            "`code` overwrites patches that `setr_pup` stands on: use `paper`, or `insertion_depth: 0`",
        ),
        _ => Ok(()),
    }
}

fn stride(top: &Fields<'_>, image_size: u32) -> Result<u32, RecipeError> {
    match top.source.get("stride") {
        None | Some(Value::Null) => Ok((image_size * 2 / 3).max(1)),
        Some(_) => {
            let stride = top.int("stride", None, 1..=4096)?;
            if stride <= image_size {
                return Ok(stride);
            }
            let message = format!(
                "is {stride}, but windows are {image_size} pixels wide: pixels between them would not be seen; use at most \
                 {image_size}"
            );
            Err(RecipeError::new("stride", message))
        }
    }
}

fn aux_blocks(top: &Fields<'_>) -> Result<Option<Vec<u32>>, RecipeError> {
    let what = "a list of blocks like [5, 9], from 0 and ascending, or null";
    let wrong = |found: &Value| {
        Err(RecipeError::new("aux_blocks", format!("must be {what}, found {}", found.describe())))
    };
    let list = match top.source.get("aux_blocks") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::List(list)) => list,
        Some(other) => return wrong(other),
    };
    let mut blocks: Vec<u32> = Vec::new();
    for item in list {
        let Some(block) = whole(item).filter(|block| *block < 10_000) else { return wrong(item) };
        if blocks.last().is_some_and(|last| *last >= block) {
            return Err(RecipeError::new("aux_blocks", format!("must be {what}: {block} does not ascend")));
        }
        blocks.push(block);
    }
    if blocks.len() > MAX_HEADS {
        return Err(RecipeError::new("aux_blocks", format!("has more than {MAX_HEADS} blocks")));
    }
    Ok(Some(blocks))
}

fn scales(top: &Fields<'_>) -> Result<Vec<f64>, RecipeError> {
    let wrong = |found: &Value| {
        let found = found.describe();
        let message =
            format!("must be a list of up to {MAX_SCALES} numbers from 0.1 to 8, or null, found {found}");
        RecipeError::new("scales", message)
    };
    match top.source.get("scales") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::List(list)) if (1..=MAX_SCALES).contains(&list.len()) => {
            let scale = |item| real(item).filter(|x| (0.1..=8.0).contains(x)).ok_or_else(|| wrong(item));
            list.iter().map(scale).collect()
        }
        Some(other) => Err(wrong(other)),
    }
}

const MAX_HEADS: usize = 64;
const MAX_SCALES: usize = 64;

#[cfg(test)]
#[path = "setr_tests.rs"]
mod tests;
