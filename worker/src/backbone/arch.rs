//! The shape of a backbone, as its sidecar states it: numbers only, no tensors.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use sweeps::recipe::Family;

use crate::convnet::{convnext, resnet};
use crate::{swin, vit};

/// Everything about a backbone's shape that its weights do not say by themselves, and what they say for the check.
///
/// In JSON the family stands beside the numbers; a description without one is a ViT's.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "family", rename_all = "snake_case")]
pub enum Arch {
    Vit(vit::Arch),
    Swin(swin::Arch),
    Resnet(resnet::Arch),
    Convnext(convnext::Arch),
}

/// Where a tensor of a checkpoint is read first in the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Where images become what enters block 0.
    Embedding,
    /// In a block, or between it and the next one.
    Block(usize),
    /// Behind the last block.
    Norm,
}

/// One tensor of a checkpoint: its name and its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorShape {
    pub name: String,
    pub shape: Vec<usize>,
}

impl TensorShape {
    /// Whether it is a parameter and not a statistic of a batch norm, which is neither trained nor counted.
    pub fn is_parameter(&self) -> bool {
        !(self.name.ends_with(".running_mean") || self.name.ends_with(".running_var"))
    }
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
    #[error("`batch_norm_eps` must be a positive number")]
    BatchNormEps,
    #[error("{stages} stages from width {dim} on are more than a Swin transformer has")]
    Stages { stages: u32, dim: u32 },
    #[error("`image_size` ({image_size}) must be a multiple of {unit}, so that windows tile every stage")]
    Windows { image_size: u32, unit: u64 },
    #[error(
        "the backbone takes images of {only} pixels and no others, not {size}: its windows belong to that size; set \
         `image_size: {only}`"
    )]
    OneSize { size: i64, only: i64 },
    #[error("an image of {size} pixels is too small for the backbone's stages; use at least {least}")]
    TooSmall { size: i64, least: i64 },
}

impl Arch {
    pub fn family(&self) -> Family {
        match self {
            Arch::Vit(_) => Family::Vit,
            Arch::Swin(_) => Family::Swin,
            Arch::Resnet(_) => Family::Resnet,
            Arch::Convnext(_) => Family::Convnext,
        }
    }

    /// Number of blocks.
    pub fn depth(&self) -> u32 {
        match self {
            Arch::Vit(arch) => arch.depth,
            Arch::Swin(arch) => arch.depth(),
            Arch::Resnet(arch) => arch.depth(),
            Arch::Convnext(arch) => arch.depth(),
        }
    }

    /// Width of the feature that feeds the head.
    pub fn dim(&self) -> u32 {
        match self {
            Arch::Vit(arch) => arch.dim,
            Arch::Swin(arch) => arch.feature_dim(),
            Arch::Resnet(arch) => arch.feature_dim(),
            Arch::Convnext(arch) => arch.feature_dim(),
        }
    }

    /// Checks that the numbers fit each other.
    pub fn check(&self) -> Result<(), ArchError> {
        match self {
            Arch::Vit(arch) => arch.check(),
            Arch::Swin(arch) => arch.check(),
            Arch::Resnet(arch) => arch.check(),
            Arch::Convnext(arch) => arch.check(),
        }
    }

    /// Checks that images of `size` pixels can be taken.
    pub fn check_image_size(&self, size: i64) -> Result<(), ArchError> {
        match self {
            Arch::Vit(arch) => arch.check_image_size(size),
            Arch::Swin(arch) => arch.check_image_size(size),
            Arch::Resnet(_) => Ok(()),
            Arch::Convnext(arch) => arch.check_image_size(size),
        }
    }

    /// Numbers that enter block `first` for one image of `size` pixels, or what is pooled if there is no such block.
    pub fn entering(&self, first: usize, size: i64) -> i64 {
        match self {
            Arch::Vit(arch) => arch.entering(first, size),
            Arch::Swin(arch) => arch.entering(first),
            Arch::Resnet(arch) => arch.entering(first, size),
            Arch::Convnext(arch) => arch.entering(first, size),
        }
    }

    /// Where the tensor of this name is read first.
    pub fn place(&self, name: &str) -> Place {
        match self {
            Arch::Vit(arch) => arch.place(name),
            Arch::Swin(arch) => arch.place(name),
            Arch::Resnet(arch) => arch.place(name),
            Arch::Convnext(arch) => arch.place(name),
        }
    }

    /// Parameters without a head: 85,798,656 for ViT-B/16 at 224 pixels.
    pub fn parameters(&self) -> usize {
        let parameters = self.tensors().into_iter().filter(TensorShape::is_parameter);
        parameters.map(|t| t.shape.iter().product::<usize>()).sum()
    }

    /// Every tensor of the checkpoint, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<TensorShape> {
        match self {
            Arch::Vit(arch) => arch.tensors(),
            Arch::Swin(arch) => arch.tensors(),
            Arch::Resnet(arch) => arch.tensors(),
            Arch::Convnext(arch) => arch.tensors(),
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
        let depths = |depths: Vec<u32>| depths.iter().map(u32::to_string).collect::<Vec<_>>().join("+");
        match self {
            Arch::Vit(vit::Arch { dim, depth, heads, patch_size, image_size, .. }) => write!(
                f,
                "ViT, {depth} blocks, width {dim}, {heads} heads, patches of {patch_size} at {image_size} pixels"
            ),
            Arch::Swin(arch) => write!(
                f,
                "Swin, {} blocks, width {} to {}, windows of {}, patches of {} at {} pixels",
                depths(arch.stages.iter().map(|stage| stage.depth).collect()),
                arch.dim,
                arch.feature_dim(),
                arch.window,
                arch.patch_size,
                arch.image_size
            ),
            Arch::Resnet(arch) => write!(
                f,
                "ResNet, {} blocks, feature of {}",
                depths(arch.stages.iter().map(|stage| stage.depth).collect()),
                arch.feature_dim()
            ),
            Arch::Convnext(arch) => write!(
                f,
                "ConvNeXt, {} blocks, feature of {}",
                depths(arch.stages.iter().map(|stage| stage.depth).collect()),
                arch.feature_dim()
            ),
        }
    }
}

impl From<vit::Arch> for Arch {
    fn from(arch: vit::Arch) -> Arch {
        Arch::Vit(arch)
    }
}

impl From<swin::Arch> for Arch {
    fn from(arch: swin::Arch) -> Arch {
        Arch::Swin(arch)
    }
}

impl From<resnet::Arch> for Arch {
    fn from(arch: resnet::Arch) -> Arch {
        Arch::Resnet(arch)
    }
}

impl From<convnext::Arch> for Arch {
    fn from(arch: convnext::Arch) -> Arch {
        Arch::Convnext(arch)
    }
}

impl<'de> Deserialize<'de> for Arch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Arch, D::Error> {
        let mut fields = Map::deserialize(deserializer)?;
        let family = fields.remove("family").unwrap_or_else(|| "vit".into());
        let fields = Value::Object(fields);
        match family.as_str().and_then(Family::from_name) {
            Some(Family::Vit) => vit::Arch::deserialize(fields).map(Arch::Vit),
            Some(Family::Swin) => swin::Arch::deserialize(fields).map(Arch::Swin),
            Some(Family::Resnet) => resnet::Arch::deserialize(fields).map(Arch::Resnet),
            Some(Family::Convnext) => convnext::Arch::deserialize(fields).map(Arch::Convnext),
            None => Err(serde_json::Error::custom(format!(
                "`family` is {family}, which is none of {}",
                Family::ALL.map(Family::name).join(", ")
            ))),
        }
        .map_err(D::Error::custom)
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
        assert!(family.contains("mamba") && family.contains("vit, swin"), "{family}");
        assert!(error(|json| _ = json.insert("colour".into(), 1.into())).contains("`colour`"));
        assert!(error(|json| _ = json.remove("heads")).contains("`heads`"));
    }
}
