//! Importing a ViT's weights: what the tensors say is inferred, what they do not say is asked for, all is checked.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::{ImportError, npz, read_failed, sha256, write_at_once};
use crate::backbone::Arch;
use crate::home::{BackboneEntry, Home, HomeError, Normalisation, Sidecar};
use crate::vit::{self, Pool, PositionResize};

/// What the user says about a backbone.
#[derive(Debug, Clone)]
pub struct BackboneWish {
    pub name: String,
    pub heads: Option<u32>,
    pub pool: Pool,
    pub layer_norm_eps: f64,
    pub image_size: Option<u32>,
    pub position_resize: PositionResize,
    pub normalisation: Normalisation,
    pub source: Option<String>,
}

type Shapes = BTreeMap<String, Vec<usize>>;

/// Widths of a head in every published ViT.
const HEAD_WIDTH: usize = 64;

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
    let (bytes, heads) = match file.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => (fs::read(file).map_err(read_failed(file))?, None),
        Some("npz") => npz::to_safetensors(file)?,
        _ => return Err(ImportError::Format { path: file.to_owned() }),
    };
    let unfit = |problems| ImportError::Unfit { path: file.to_owned(), problems };
    let shapes = read_shapes(file, &bytes)?;
    let arch = Arch::Vit(infer(&shapes, wish, heads).map_err(unfit)?);
    arch.check().map_err(ImportError::Arch)?;
    let problems = arch.problems(&shapes);
    if !problems.is_empty() {
        return Err(unfit(problems));
    }
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

/// The same weights, read in the same way; where they came from may be said in other words.
fn is_same(there: &Sidecar, new: &Sidecar) -> bool {
    there.sha256 == new.sha256 && there.arch == new.arch && there.normalisation == new.normalisation
}

/// Names and shapes, the head left aside.
fn read_shapes(file: &Path, bytes: &[u8]) -> Result<Shapes, ImportError> {
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|source| ImportError::Safetensors { path: file.to_owned(), source })?;
    let mut shapes = Shapes::new();
    for (name, view) in tensors.iter().filter(|(name, _)| !name.starts_with("head.")) {
        if !matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64) {
            let problems = vec![format!("`{name}` holds {:?}, not floating point numbers", view.dtype())];
            return Err(ImportError::Unfit { path: file.to_owned(), problems });
        }
        shapes.insert(name.to_owned(), view.shape().to_vec());
    }
    Ok(shapes)
}

/// The shape of the transformer, from the shapes of its tensors. The error names what is missing for that.
fn infer(shapes: &Shapes, wish: &BackboneWish, heads: Option<usize>) -> Result<vit::Arch, Vec<String>> {
    let size = |name: &str, rank: usize, axis: usize| match shapes.get(name) {
        Some(shape) if shape.len() == rank => Ok(shape[axis]),
        Some(shape) => Err(format!("`{name}` is {shape:?}, which is not of rank {rank}")),
        None => Err(format!("missing: `{name}`")),
    };
    let infer = || {
        let dim = size("pos_embed", 3, 2)?;
        let patch_size = size("patch_embed.proj.weight", 4, 3)?;
        let patches = size("pos_embed", 3, 1)?.saturating_sub(1);
        let grid = patches.isqrt();
        if grid == 0 || grid * grid != patches {
            return Err(format!("`pos_embed` has places for {patches} patches, which is not a square"));
        }
        let number = |n: usize| u32::try_from(n).map_err(|_| format!("{n} is no sensible size"));
        let image_size = number(grid.saturating_mul(patch_size))?;
        if let Some(wanted) = wish.image_size.filter(|wanted| *wanted != image_size) {
            return Err(format!("`pos_embed` belongs to images of {image_size} pixels, not {wanted}"));
        }
        let block = |name: &str| name.strip_prefix("blocks.")?.split('.').next()?.parse::<u32>().ok();
        let heads = heads.unwrap_or((dim / HEAD_WIDTH).max(1));
        Ok(vit::Arch {
            dim: number(dim)?,
            depth: shapes
                .keys()
                .filter_map(|name| block(name))
                .max()
                .map_or(0, |last| last.saturating_add(1)),
            heads: wish.heads.unwrap_or(number(heads)?),
            patch_size: number(patch_size)?,
            image_size,
            mlp_dim: number(size("blocks.0.mlp.fc1.weight", 2, 0)?)?,
            layer_norm_eps: wish.layer_norm_eps,
            layer_scale: shapes.contains_key("blocks.0.ls1.gamma"),
            pool: wish.pool,
            position_resize: wish.position_resize,
        })
    };
    let arch = infer().map_err(|problem| vec![problem])?;
    // A file that says `blocks.4000000000.x` must not make a list of that length.
    if arch.depth as usize > shapes.len() {
        return Err(vec![format!("{} tensors cannot make {} blocks", shapes.len(), arch.depth)]);
    }
    Ok(arch)
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
