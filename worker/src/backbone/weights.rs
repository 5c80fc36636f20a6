//! Reading a backbone's tensors: every key is filled, or the error names what is missing and what is too much.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::Arch;

/// A backbone's tensors by name, all of them there and of the right shape.
#[derive(Debug)]
pub struct Weights(BTreeMap<String, Tensor>);

/// Why a file is not the backbone that its [`Arch`] describes.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("failed to read the weights {path}: is it a complete safetensors file?")]
    Read { path: PathBuf, source: tch::TchError },
    #[error("the weights do not fit the backbone: {}", problems.join("; "))]
    Unfit { problems: Vec<String> },
}

impl Weights {
    /// Reads a safetensors file onto `device` as `kind`.
    pub fn read(path: &Path, arch: &Arch, kind: Kind, device: Device) -> Result<Weights, WeightsError> {
        let tensors = Tensor::read_safetensors(path)
            .map_err(|source| WeightsError::Read { path: path.to_owned(), source })?;
        Weights::new(tensors, arch, kind, device)
    }

    /// Takes tensors that are in memory. `head.*` is left aside.
    pub fn new(
        tensors: impl IntoIterator<Item = (String, Tensor)>,
        arch: &Arch,
        kind: Kind,
        device: Device,
    ) -> Result<Weights, WeightsError> {
        let found: BTreeMap<String, Tensor> =
            tensors.into_iter().filter(|(name, _)| !name.starts_with("head.")).collect();
        let shape = |tensor: &Tensor| tensor.size().iter().map(|&n| n as usize).collect();
        let problems = arch.problems(&found.iter().map(|(name, t)| (name.clone(), shape(t))).collect());
        if !problems.is_empty() {
            return Err(WeightsError::Unfit { problems });
        }
        let ready = |t: Tensor| t.to_device(device).to_kind(kind).set_requires_grad(false);
        Ok(Weights(found.into_iter().map(|(name, tensor)| (name, ready(tensor))).collect()))
    }

    /// The same tensors under second handles.
    pub(super) fn share(&self) -> Weights {
        Weights(self.0.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect())
    }

    /// The same tensors, those of `replaced` excepted.
    pub(super) fn with(&self, replaced: Vec<(String, Tensor)>) -> Weights {
        let mut all = self.share();
        all.0.extend(replaced);
        all
    }

    /// What the tensors hold, and where they are.
    pub(crate) fn options(&self) -> (Kind, Device) {
        self.0.values().next().map_or((Kind::Float, Device::Cpu), |tensor| (tensor.kind(), tensor.device()))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// Takes a tensor out. Only names of [`Arch::tensors`] may be asked for, each once.
    pub(crate) fn take(&mut self, name: &str) -> Tensor {
        self.0
            .remove(name)
            .unwrap_or_else(|| panic!("`{name}` is not a tensor of this backbone, or is taken"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiny;
    use super::*;

    fn unfit(change: impl FnOnce(&mut Vec<(String, Tensor)>)) -> String {
        let arch = Arch::from(tiny::arch());
        let mut tensors = tiny::tensors(&arch, Kind::Float);
        change(&mut tensors);
        Weights::new(tensors, &arch, Kind::Float, Device::Cpu).unwrap_err().to_string()
    }

    #[test]
    fn what_is_missing_unexpected_or_misshapen_is_named() {
        let message = unfit(|tensors| {
            tensors.retain(|(name, _)| name != "blocks.2.ls1.gamma");
            tensors.push(("decoder.weight".to_owned(), Tensor::from(1.0f32)));
            tensors[0].1 = Tensor::from(1.0f32);
        });
        assert!(message.contains("missing: `blocks.2.ls1.gamma`"), "{message}");
        assert!(message.contains("unexpected: `decoder.weight`"), "{message}");
        assert!(message.contains("`cls_token` is [], not [1, 1, 12]"), "{message}");
    }

    #[test]
    fn a_head_in_the_file_is_left_aside() {
        let arch = Arch::from(tiny::arch());
        let mut tensors = tiny::tensors(&arch, Kind::Float);
        tensors.push(("head.weight".to_owned(), Tensor::from(1.0f32)));
        assert!(Weights::new(tensors, &arch, Kind::Float, Device::Cpu).is_ok());
    }

    #[test]
    fn a_truncated_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.safetensors");
        let arch = Arch::from(tiny::arch());
        let tensors = tiny::tensors(&arch, Kind::Float);
        Tensor::write_safetensors(&tensors, &path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = Weights::read(&path, &arch, Kind::Float, Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("cut.safetensors"), "{error}");
    }
}
