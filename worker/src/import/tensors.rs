//! The tensors of a checkpoint as bytes: renamed, joined and written again, never computed with.

use std::borrow::Cow;
use std::collections::BTreeMap;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::infer::Shapes;
use super::names::Found;

/// Tensors by our names. Those that are not changed borrow the file's bytes.
#[derive(Debug)]
pub(super) struct Tensors<'a>(BTreeMap<String, Raw<'a>>);

#[derive(Debug, Clone)]
struct Raw<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Tensors<'a> {
    /// Takes what belongs to the backbone. The error names what it cannot be made of.
    pub(super) fn take(file: &SafeTensors<'a>, found: &Found) -> Result<Tensors<'a>, String> {
        let mut taken = BTreeMap::new();
        for (name, view) in file.tensors() {
            let Some(ours) = found.rename(&name) else { continue };
            if !matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64) {
                return Err(format!("`{name}` holds {:?}, not floating point numbers", view.dtype()));
            }
            let bytes = Cow::Borrowed(view.data());
            let raw = Raw { dtype: view.dtype(), shape: view.shape().to_vec(), bytes };
            if taken.insert(ours.clone(), raw).is_some() {
                return Err(format!("two tensors would be `{ours}`; one of them is `{name}`"));
            }
        }
        let mut tensors = Tensors(taken);
        tensors.join_projections();
        tensors.flatten_scales();
        Ok(tensors)
    }

    /// `attn.q`, `attn.k`, `attn.v` become the three row blocks of `attn.qkv`. What does not fit stays as it is.
    fn join_projections(&mut self) {
        let suffixes = [".attn.q.weight", ".attn.q.bias"];
        let is_query = |name: &&String| suffixes.iter().any(|suffix| name.ends_with(suffix));
        for query in self.0.keys().filter(is_query).cloned().collect::<Vec<_>>() {
            let part = |letter: &str| query.replacen(".attn.q.", &format!(".attn.{letter}."), 1);
            let names = [query.clone(), part("k"), part("v")];
            let parts: Vec<&Raw> = names.iter().filter_map(|name| self.0.get(name)).collect();
            let alike = |raw: &&Raw| raw.dtype == parts[0].dtype && raw.shape == parts[0].shape;
            if parts.len() != 3 || parts[0].shape.is_empty() || !parts.iter().all(alike) {
                continue;
            }
            let mut joined = parts[0].clone();
            joined.shape[0] *= 3;
            joined.bytes = Cow::Owned(parts.iter().flat_map(|raw| raw.bytes.iter()).copied().collect());
            for name in &names {
                self.0.remove(name);
            }
            self.0.insert(part("qkv"), joined);
        }
    }

    /// torchvision keeps layer scales as `[C, 1, 1]`.
    fn flatten_scales(&mut self) {
        for (_, raw) in self.0.iter_mut().filter(|(name, _)| name.ends_with(".gamma")) {
            if let [channels, 1, 1] = raw.shape[..] {
                raw.shape = vec![channels];
            }
        }
    }

    /// Makes `norm` the last norm of a ViT. A checkpoint may hold both; `fc_norm` of the MAE code is not in the file of the
    /// pretraining and starts as the identity.
    pub(super) fn keep_norm(&mut self, norm: &str) {
        let other = if norm == "norm" { "fc_norm" } else { "norm" };
        let mut dropped = Vec::new();
        for (part, value) in [("weight", 1f32), ("bias", 0f32)] {
            let wanted = format!("{norm}.{part}");
            let left = self.0.remove(&format!("{other}.{part}"));
            if norm == "fc_norm"
                && !self.0.contains_key(&wanted)
                && let Some(Raw { shape, .. }) = &left
            {
                let numbers: usize = shape.iter().product();
                let bytes = std::iter::repeat_n(value.to_le_bytes(), numbers).flatten().collect();
                let raw = Raw { dtype: Dtype::F32, shape: shape.clone(), bytes: Cow::Owned(bytes) };
                self.0.insert(wanted, raw);
            } else if !self.0.contains_key(&wanted) {
                dropped.extend(left.map(|raw| (format!("{other}.{part}"), raw)));
            }
        }
        self.0.extend(dropped); // it is all there is, and the check names what is missing
    }

    pub(super) fn shapes(&self) -> Shapes {
        self.0.iter().map(|(name, raw)| (name.clone(), raw.shape.clone())).collect()
    }

    /// Whether a file with these tensors says the same, apart from heads, which are left aside wherever it is read.
    pub(super) fn is_whole(&self, file: &SafeTensors<'_>) -> bool {
        let there = file.iter().filter(|(name, _)| !name.starts_with("head."));
        let there: Shapes = there.map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect();
        there == self.shapes()
    }

    pub(super) fn serialise(&self) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let views = self
            .0
            .iter()
            .map(|(name, raw)| Ok((name, TensorView::new(raw.dtype, raw.shape.clone(), &raw.bytes)?)));
        safetensors::serialize(views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?, None)
    }
}
