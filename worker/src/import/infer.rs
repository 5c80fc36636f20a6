//! The shape of a backbone, from the shapes of its tensors and from what the user says.

use std::collections::BTreeMap;

use sweeps::recipe::Family;

use super::backbone::BackboneWish;
use crate::backbone::Arch;
use crate::convnet::{convnext, resnet};
use crate::swin;
use crate::vit::{self, Pool, PositionResize};

pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// Widths of a head in every published ViT.
const HEAD_WIDTH: usize = 64;

/// The error names what is missing for that.
pub(super) fn infer(
    family: Family,
    shapes: &Shapes,
    wish: &BackboneWish,
    heads: Option<usize>,
) -> Result<Arch, String> {
    let read = Read { shapes };
    let foreign = [
        ("--heads", wish.heads.is_some(), family == Family::Vit),
        ("--pool", wish.pool.is_some(), family == Family::Vit),
        ("--position-resize", wish.position_resize.is_some(), family == Family::Vit),
        ("--image-size", wish.image_size.is_some(), matches!(family, Family::Vit | Family::Swin)),
    ];
    if let Some((option, ..)) = foreign.into_iter().find(|(_, is_given, is_read)| *is_given && !is_read) {
        return Err(format!("{option} means nothing for a {} backbone; leave it away", family.name()));
    }
    match family {
        Family::Vit => read.vit(wish, heads).map(Arch::Vit),
        Family::Swin => read.swin(wish).map(Arch::Swin),
        Family::Resnet => read.resnet(wish).map(Arch::Resnet),
        Family::Convnext => read.convnext(wish).map(Arch::Convnext),
    }
}

struct Read<'a> {
    shapes: &'a Shapes,
}

fn number(n: usize) -> Result<u32, String> {
    u32::try_from(n).map_err(|_| format!("{n} is no sensible size"))
}

impl Read<'_> {
    /// An axis of a tensor that must be there.
    fn size(&self, name: &str, rank: usize, axis: usize) -> Result<u32, String> {
        match self.shapes.get(name) {
            Some(shape) if shape.len() == rank => number(shape[axis]),
            Some(shape) => Err(format!("`{name}` is {shape:?}, which is not of rank {rank}")),
            None => Err(format!("missing: `{name}`")),
        }
    }

    /// How many of `prefix.0.`, `prefix.1.`, … there are: one more than the last. A file that says
    /// `blocks.4000000000.x` must not make a list of that length.
    fn count(&self, prefix: &str) -> Result<u32, String> {
        let index = |name: &String| name.strip_prefix(prefix)?.split('.').next()?.parse::<u32>().ok();
        let count = self.shapes.keys().filter_map(index).max().map_or(0, |last| last.saturating_add(1));
        if count as usize > self.shapes.len() {
            return Err(format!("{} tensors cannot make {count} of `{prefix}…`", self.shapes.len()));
        }
        Ok(count)
    }

    fn vit(&self, wish: &BackboneWish, heads: Option<usize>) -> Result<vit::Arch, String> {
        let dim = self.size("pos_embed", 3, 2)?;
        let patch_size = self.size("patch_embed.proj.weight", 4, 3)?;
        let patches = self.size("pos_embed", 3, 1)?.saturating_sub(1);
        let grid = patches.isqrt();
        if grid == 0 || grid * grid != patches {
            return Err(format!("`pos_embed` has places for {patches} patches, which is not a square"));
        }
        let image_size = number(grid as usize * patch_size as usize)?;
        if let Some(wanted) = wish.image_size.filter(|wanted| *wanted != image_size) {
            return Err(format!("`pos_embed` belongs to images of {image_size} pixels, not {wanted}"));
        }
        let heads = heads.unwrap_or((dim as usize / HEAD_WIDTH).max(1));
        Ok(vit::Arch {
            dim,
            depth: self.count("blocks.")?,
            heads: wish.heads.unwrap_or(number(heads)?),
            patch_size,
            image_size,
            mlp_dim: self.size("blocks.0.mlp.fc1.weight", 2, 0)?,
            layer_norm_eps: wish.eps.unwrap_or(1e-6),
            layer_scale: self.shapes.contains_key("blocks.0.ls1.gamma"),
            pool: wish.pool.unwrap_or(Pool::Cls),
            position_resize: wish.position_resize.unwrap_or(PositionResize::Bicubic),
        })
    }

    fn swin(&self, wish: &BackboneWish) -> Result<swin::Arch, String> {
        let stage = |s: u32| {
            let block = format!("layers.{s}.blocks.0");
            Ok(swin::Stage {
                depth: self.count(&format!("layers.{s}.blocks."))?,
                heads: self.size(&format!("{block}.attn.relative_position_bias_table"), 2, 1)?,
                mlp_dim: self.size(&format!("{block}.mlp.fc1.weight"), 2, 0)?,
            })
        };
        let offsets = self.size("layers.0.blocks.0.attn.relative_position_bias_table", 2, 0)?;
        Ok(swin::Arch {
            image_size: wish.image_size.unwrap_or(224),
            patch_size: self.size("patch_embed.proj.weight", 4, 3)?,
            dim: self.size("patch_embed.proj.weight", 4, 0)?,
            window: offsets.isqrt().div_ceil(2),
            stages: (0..self.count("layers.")?).map(stage).collect::<Result<_, String>>()?,
            layer_norm_eps: wish.eps.unwrap_or(1e-5),
        })
    }

    fn resnet(&self, wish: &BackboneWish) -> Result<resnet::Arch, String> {
        let is_bottleneck = self.shapes.contains_key("layer1.0.conv3.weight");
        let stage = |s: u32| {
            Ok(resnet::Stage {
                depth: self.count(&format!("layer{s}."))?,
                width: self.size(&format!("layer{s}.0.conv1.weight"), 4, 0)?,
            })
        };
        let stages = (1..).take_while(|s| self.shapes.contains_key(&format!("layer{s}.0.conv1.weight")));
        Ok(resnet::Arch {
            block: if is_bottleneck { resnet::BlockKind::Bottleneck } else { resnet::BlockKind::Basic },
            stem: self.size("conv1.weight", 4, 0)?,
            stages: stages.map(stage).collect::<Result<_, String>>()?,
            batch_norm_eps: wish.eps.unwrap_or(1e-5),
        })
    }

    fn convnext(&self, wish: &BackboneWish) -> Result<convnext::Arch, String> {
        let stage = |s: u32| {
            Ok(convnext::Stage {
                depth: self.count(&format!("stages.{s}."))?,
                dim: self.size(&format!("stages.{s}.0.dwconv.weight"), 4, 0)?,
            })
        };
        let stages = (0..self.count("stages.")?).map(stage).collect::<Result<_, String>>()?;
        Ok(convnext::Arch { stages, layer_norm_eps: wish.eps.unwrap_or(1e-6) })
    }
}
