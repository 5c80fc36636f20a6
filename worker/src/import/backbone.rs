//! Importing a backbone's weights: names are brought to ours, what the tensors say is inferred, what they do not say is
//! asked for, and all is checked.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sweeps::recipe::Family;

use super::infer::infer;
use super::tensors::Tensors;
use super::{ImportError, names, npz, read_failed, sha256, write_at_once};
use crate::backbone::Arch;
use crate::home::{BackboneEntry, Home, HomeError, Normalisation, Sidecar};
use crate::vit::{Pool, PositionResize};

/// What the user says about a backbone. What is not said is read off the tensors, or is the family's default.
#[derive(Debug, Clone)]
pub struct BackboneWish {
    pub name: String,
    pub heads: Option<u32>,
    pub pool: Option<Pool>,
    /// Of the norms: 10⁻⁶ for ViT and ConvNeXt, 10⁻⁵ for Swin and ResNet.
    pub eps: Option<f64>,
    pub image_size: Option<u32>,
    pub position_resize: Option<PositionResize>,
    pub normalisation: Normalisation,
    pub source: Option<String>,
}

/// A pixel normalisation by its usual name.
pub fn normalisation(name: &str) -> Result<Normalisation, ImportError> {
    match name {
        "imagenet" => Ok(Normalisation { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }),
        "inception" => Ok(Normalisation { mean: [0.5; 3], std: [0.5; 3] }),
        _ => Err(ImportError::Normalisation { name: name.to_owned() }),
    }
}

/// Checks a file of weights and puts it into the home with a sidecar. Repeating it changes nothing.
pub fn backbone(home: &Home, file: &Path, wish: &BackboneWish) -> Result<BackboneEntry, ImportError> {
    let (weights, sidecar_file) = home.backbone_files(&wish.name)?;
    let (read, heads) = match file.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => (fs::read(file).map_err(read_failed(file))?, None),
        Some("npz") => npz::to_safetensors(file)?,
        Some("pth" | "pt" | "bin" | "ckpt" | "tar" | "pkl") => {
            return Err(ImportError::Pickle { path: file.to_owned() });
        }
        _ => return Err(ImportError::Format { path: file.to_owned() }),
    };
    let (arch, bytes) = canonical(file, &read, wish, heads)?;
    let file_name = || file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let sidecar = Sidecar {
        source: wish.source.clone().unwrap_or_else(file_name),
        sha256: sha256(&bytes),
        arch,
        normalisation: wish.normalisation,
    };
    match home.backbone(&wish.name) {
        Ok(there) if !is_same(&there.sidecar, &sidecar) => {
            return Err(ImportError::Taken { path: there.path });
        }
        Ok(_) | Err(HomeError::Unknown { .. }) => {}
        Err(broken) => return Err(broken.into()),
    }
    let mut description = serde_json::to_vec_pretty(&sidecar).unwrap_or_default();
    description.push(b'\n');
    write_at_once(&weights, &bytes)?;
    write_at_once(&sidecar_file, &description)?;
    Ok(home.backbone(&wish.name)?)
}

/// The shape of the backbone in a file, and a file of exactly its tensors under our names: the same one if it is that.
fn canonical<'a>(
    file: &Path,
    read: &'a [u8],
    wish: &BackboneWish,
    heads: Option<usize>,
) -> Result<(Arch, Cow<'a, [u8]>), ImportError> {
    let broken = |source| ImportError::Safetensors { path: file.to_owned(), source };
    let unfit = |problems| ImportError::Unfit { path: file.to_owned(), problems };
    let stored = SafeTensors::deserialize(read).map_err(broken)?;
    let found = names::find(&stored.names().into_iter().collect())
        .ok_or_else(|| ImportError::Unknown { path: file.to_owned() })?;
    let mut tensors = Tensors::take(&stored, &found).map_err(|problem| unfit(vec![problem]))?;
    if found.family == Family::Vit {
        tensors.keep_norm(wish.pool.unwrap_or(Pool::Cls).norm());
    }
    let shapes = tensors.shapes();
    let arch = infer(found.family, &shapes, wish, heads).map_err(|problem| unfit(vec![problem]))?;
    arch.check().map_err(ImportError::Arch)?;
    let problems = arch.problems(&shapes);
    if !problems.is_empty() {
        return Err(unfit(problems));
    }
    if tensors.is_whole(&stored) {
        return Ok((arch, Cow::Borrowed(read)));
    }
    Ok((arch, Cow::Owned(tensors.serialise().map_err(broken)?)))
}

/// The same weights, read in the same way; where they came from may be said in other words.
fn is_same(there: &Sidecar, new: &Sidecar) -> bool {
    there.sha256 == new.sha256 && there.arch == new.arch && there.normalisation == new.normalisation
}

/// Tensors of 32-bit floats as a safetensors file.
pub(super) fn serialise(
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, (shape, values))| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, data)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), data)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    safetensors::serialize(views, None)
}

#[cfg(test)]
#[path = "backbone_tests.rs"]
mod tests;
