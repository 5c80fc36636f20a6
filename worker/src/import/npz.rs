//! Google's ViT checkpoints (`ViT-B_16.npz`): names and layouts of Flax, brought to timm's.
//!
//! Flax stores a dense kernel as `[in, out]` (timm: `[out, in]`), attention kernels as `[D, H, h]` and `[H, h, D]`, and
//! the patch embedding as `[height, width, in, out]`. Query, key and value become the three row blocks of `qkv`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use npyz::Order;
use npyz::npz::NpzArchive;

use super::backbone::serialise;
use super::{ImportError, read_failed};

type Array = (Vec<usize>, Vec<f32>);

/// A safetensors file with timm names, and the number of heads, which only these files know.
pub(super) fn to_safetensors(path: &Path) -> Result<(Vec<u8>, Option<usize>), ImportError> {
    let file = BufReader::new(File::open(path).map_err(read_failed(path))?);
    let archive = NpzArchive::new(file).map_err(read_failed(path))?;
    let mut source = Source { path, archive };
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, array: Array| tensors.insert(name, array);

    add("cls_token".into(), source.array("cls")?);
    add("pos_embed".into(), source.array("Transformer/posembed_input/pos_embedding")?);
    add("patch_embed.proj.weight".into(), source.permuted("embedding/kernel")?);
    add("patch_embed.proj.bias".into(), source.array("embedding/bias")?);
    let mut heads = None;
    for i in 0.. {
        let (from, to) = (format!("Transformer/encoderblock_{i}"), format!("blocks.{i}"));
        if i > 0 && !source.has(&format!("{from}/LayerNorm_0/scale")) {
            break;
        }
        let attention = format!("{from}/MultiHeadDotProductAttention_1");
        let (mut rows, mut biases, mut dim) = (Vec::new(), Vec::new(), 0);
        for part in ["query", "key", "value"] {
            let (shape, values) = source.transposed(&format!("{attention}/{part}/kernel"), 1)?;
            dim = shape[1];
            rows.extend(values);
            let (shape, values) = source.array(&format!("{attention}/{part}/bias"))?;
            heads = heads.or(shape.first().copied());
            biases.extend(values);
        }
        add(format!("{to}.attn.qkv.bias"), (vec![biases.len()], biases));
        add(format!("{to}.attn.qkv.weight"), (vec![rows.len() / dim.max(1), dim], rows));
        add(format!("{to}.attn.proj.weight"), source.transposed(&format!("{attention}/out/kernel"), 2)?);
        add(format!("{to}.attn.proj.bias"), source.array(&format!("{attention}/out/bias"))?);
        for (flax, timm) in [("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")] {
            add(format!("{to}.{timm}.weight"), source.array(&format!("{from}/{flax}/scale"))?);
            add(format!("{to}.{timm}.bias"), source.array(&format!("{from}/{flax}/bias"))?);
        }
        for (flax, timm) in [("Dense_0", "fc1"), ("Dense_1", "fc2")] {
            let layer = format!("{from}/MlpBlock_3/{flax}");
            add(format!("{to}.mlp.{timm}.weight"), source.transposed(&format!("{layer}/kernel"), 1)?);
            add(format!("{to}.mlp.{timm}.bias"), source.array(&format!("{layer}/bias"))?);
        }
    }
    add("norm.weight".into(), source.array("Transformer/encoder_norm/scale")?);
    add("norm.bias".into(), source.array("Transformer/encoder_norm/bias")?);
    let bytes =
        serialise(tensors).map_err(|source| ImportError::Safetensors { path: path.to_owned(), source })?;
    Ok((bytes, heads))
}

struct Source<'a> {
    path: &'a Path,
    archive: NpzArchive<BufReader<File>>,
}

impl Source<'_> {
    fn has(&self, name: &str) -> bool {
        self.archive.array_names().any(|found| found == name)
    }

    fn array(&mut self, name: &str) -> Result<Array, ImportError> {
        let failed = |source| ImportError::Npz { path: self.path.to_owned(), name: name.to_owned(), source };
        let array = self.archive.by_name(name).map_err(failed)?;
        let array = array.ok_or_else(|| failed(io::Error::other("the file has no such array")))?;
        if array.order() != Order::C {
            return Err(failed(io::Error::other("arrays in Fortran order are not read")));
        }
        let shape = array.shape().iter().map(|&n| usize::try_from(n).unwrap_or(usize::MAX)).collect();
        Ok((shape, array.into_vec::<f32>().map_err(failed)?))
    }

    /// A kernel as a matrix `[out, in]`, where the first `inputs` axes are the inputs.
    fn transposed(&mut self, name: &str, inputs: usize) -> Result<Array, ImportError> {
        let (shape, values) = self.array(name)?;
        if shape.len() <= inputs {
            return Err(self.rank(name, &shape));
        }
        let (n, m) = (shape[..inputs].iter().product::<usize>(), shape[inputs..].iter().product::<usize>());
        Ok((vec![m, n], permute(&values, &[n, m], &[1, 0])))
    }

    /// A convolution's kernel from `[height, width, in, out]` to `[out, in, height, width]`.
    fn permuted(&mut self, name: &str) -> Result<Array, ImportError> {
        let (shape, values) = self.array(name)?;
        let &[h, w, i, o] = shape.as_slice() else { return Err(self.rank(name, &shape)) };
        Ok((vec![o, i, h, w], permute(&values, &shape, &[3, 2, 0, 1])))
    }

    fn rank(&self, name: &str, shape: &[usize]) -> ImportError {
        let source = io::Error::other(format!("its shape {shape:?} is not that of a ViT"));
        ImportError::Npz { path: self.path.to_owned(), name: name.to_owned(), source }
    }
}

/// Reorders the axes: axis `k` of the result is axis `axes[k]` of `values`, which is in C order.
fn permute(values: &[f32], shape: &[usize], axes: &[usize]) -> Vec<f32> {
    let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
    let (sizes, strides): (Vec<usize>, Vec<usize>) = axes.iter().map(|&a| (shape[a], stride(a))).unzip();
    let mut index = vec![0; axes.len()];
    let mut result = Vec::with_capacity(values.len());
    for _ in 0..values.len() {
        result.push(values[index.iter().zip(&strides).map(|(i, s)| i * s).sum::<usize>()]);
        for k in (0..index.len()).rev() {
            index[k] += 1;
            if index[k] < sizes[k] {
                break;
            }
            index[k] = 0;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_reordered() {
        assert_eq!(permute(&[1., 2., 3., 4., 5., 6.], &[2, 3], &[1, 0]), [1., 4., 2., 5., 3., 6.]);
        // [h=1, w=2, i=2, o=2] to [o, i, h, w].
        let values: Vec<f32> = (0..8u8).map(f32::from).collect();
        assert_eq!(permute(&values, &[1, 2, 2, 2], &[3, 2, 0, 1]), [0., 4., 2., 6., 1., 5., 3., 7.]);
    }
}
