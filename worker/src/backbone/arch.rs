//! The shape of a backbone, as its sidecar states it: numbers only, no tensors.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::vit;

/// Everything about a backbone's shape that its weights do not say by themselves, and what they say for the check.
///
/// In JSON the family stands beside the numbers; a description without one is a ViT's.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "family", rename_all = "snake_case")]
pub enum Arch {
    Vit(vit::Arch),
}

/// One tensor of a checkpoint: its name and its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorShape {
    pub name: String,
    pub shape: Vec<usize>,
}

/// Why the numbers of an [`Arch`] do not make a backbone, or not one for these images.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchError {
    #[error("`{0}` must be at least 1")]
    Zero(&'static str),
    #[error("`heads` ({heads}) must divide `dim` ({dim})")]
    Heads { heads: u32, dim: u32 },
    #[error("`patch_size` ({patch_size}) must divide `image_size` ({image_size})")]
    Patches { patch_size: u32, image_size: u32 },
    #[error(
        "an image of {size} pixels cannot be cut into the backbone's patches of {patch_size}; use a multiple of it"
    )]
    ImageSize { size: i64, patch_size: u32 },
    #[error("`layer_norm_eps` must be a positive number")]
    Eps,
}

impl Arch {
    /// The family's name in sidecars and messages.
    pub fn family(&self) -> &'static str {
        match self {
            Arch::Vit(_) => "vit",
        }
    }

    /// Number of blocks.
    pub fn depth(&self) -> u32 {
        match self {
            Arch::Vit(arch) => arch.depth,
        }
    }

    /// Width of the feature that feeds the head.
    pub fn dim(&self) -> u32 {
        match self {
            Arch::Vit(arch) => arch.dim,
        }
    }

    /// Checks that the numbers fit each other.
    pub fn check(&self) -> Result<(), ArchError> {
        match self {
            Arch::Vit(arch) => arch.check(),
        }
    }

    /// Checks that images of `size` pixels can be taken.
    pub fn check_image_size(&self, size: i64) -> Result<(), ArchError> {
        match self {
            Arch::Vit(arch) => arch.check_image_size(size),
        }
    }

    /// Numbers that enter block `first` for one image of `size` pixels, or the head if there is no such block.
    pub fn entering(&self, first: usize, size: i64) -> i64 {
        match self {
            Arch::Vit(arch) => arch.entering(first, size),
        }
    }

    /// Parameters without a head: 85,798,656 for ViT-B/16 at 224 pixels.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|t| t.shape.iter().product::<usize>()).sum()
    }

    /// Every tensor of the checkpoint, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<TensorShape> {
        match self {
            Arch::Vit(arch) => arch.tensors(),
        }
    }

    /// What keeps tensors of these names and shapes from being this backbone: missing, unexpected, of another shape.
    pub fn problems(&self, found: &BTreeMap<String, Vec<usize>>) -> Vec<String> {
        let mut left: BTreeMap<&str, &Vec<usize>> =
            found.iter().map(|(name, shape)| (name.as_str(), shape)).collect();
        let (mut missing, mut problems) = (Vec::new(), Vec::new());
        for TensorShape { name, shape } in self.tensors() {
            match left.remove(name.as_str()) {
                None => missing.push(name),
                Some(found) if *found != shape => {
                    problems.push(format!("`{name}` is {found:?}, not {shape:?}"))
                }
                Some(_) => {}
            }
        }
        let unexpected = left.into_keys().map(str::to_owned).collect();
        for (what, names) in [("missing", missing), ("unexpected", unexpected)] {
            if !names.is_empty() {
                problems.push(format!("{what}: {}", quoted(&names)));
            }
        }
        problems
    }
}

/// At most eight names, and how many more there are.
fn quoted(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(8).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(8) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// In one line, for people.
impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arch::Vit(vit::Arch { dim, depth, heads, patch_size, image_size, .. }) => write!(
                f,
                "{depth} blocks, width {dim}, {heads} heads, patches of {patch_size} at {image_size} pixels"
            ),
        }
    }
}

impl From<vit::Arch> for Arch {
    fn from(arch: vit::Arch) -> Arch {
        Arch::Vit(arch)
    }
}

impl<'de> Deserialize<'de> for Arch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Arch, D::Error> {
        let mut fields = Map::deserialize(deserializer)?;
        let family = fields.remove("family").unwrap_or_else(|| "vit".into());
        let fields = Value::Object(fields);
        match family.as_str() {
            Some("vit") => vit::Arch::deserialize(fields).map(Arch::Vit).map_err(D::Error::custom),
            _ => Err(D::Error::custom(format!("`family` is {family}, which is none of \"vit\""))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::tiny;

    #[test]
    fn a_description_without_a_family_is_a_vits() {
        let arch = Arch::Vit(tiny::arch());
        let mut json = serde_json::to_value(&arch).unwrap();
        assert_eq!(json["family"], "vit");
        assert_eq!(Arch::deserialize(&json).unwrap(), arch);
        json.as_object_mut().unwrap().remove("family");
        assert_eq!(Arch::deserialize(&json).unwrap(), arch);
    }

    #[test]
    fn an_unknown_family_or_field_is_named() {
        let error = |change: fn(&mut Map<String, Value>)| {
            let mut json = serde_json::to_value(Arch::Vit(tiny::arch())).unwrap();
            change(json.as_object_mut().unwrap());
            Arch::deserialize(json).unwrap_err().to_string()
        };
        let family = error(|json| _ = json.insert("family".into(), "mamba".into()));
        assert!(family.contains("mamba") && family.contains("\"vit\""), "{family}");
        assert!(error(|json| _ = json.insert("colour".into(), 1.into())).contains("`colour`"));
        assert!(error(|json| _ = json.remove("heads")).contains("`heads`"));
    }
}
