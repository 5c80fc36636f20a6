//! The form of an artifact: a safetensors file whose metadata says what the tensors are.

use std::collections::{BTreeMap, HashMap};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, View, serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

/// Tensors by name, and what is said about them.
#[derive(Debug, Default)]
pub struct Contents {
    pub tensors: BTreeMap<String, Tensor>,
    pub metadata: BTreeMap<String, String>,
}

/// Bytes that are no artifact of the kind that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("it is no safetensors file")]
    Form(#[from] safetensors::SafeTensorError),
    #[error("its tensor `{name}` is of type {kind:?}, which is not read here")]
    Kind { name: String, kind: Dtype },
    #[error("it is not a file of the format `{wanted}`")]
    Format { wanted: &'static str },
    #[error("its contents are not what was written: the digest differs")]
    Digest,
    #[error("its metadata lacks a valid `{key}`")]
    Metadata { key: &'static str },
}

const FORMAT: &str = "format";
const DIGEST: &str = "digest";

impl Contents {
    /// The file's bytes. The digest of all contents goes with them: safetensors has no checksum of its own.
    ///
    /// # Errors
    /// When a tensor is of a type that safetensors has not.
    pub fn encode(mut self, format: &'static str) -> Result<Vec<u8>, FileError> {
        let raw: BTreeMap<String, Raw> = self
            .tensors
            .iter()
            .map(|(name, tensor)| Ok((name.clone(), Raw::of(name, tensor)?)))
            .collect::<Result<_, FileError>>()?;
        self.metadata.insert(FORMAT.to_owned(), format.to_owned());
        let digest = digest(
            &self.metadata,
            raw.iter().map(|(name, raw)| (name.as_str(), raw.shape.as_slice(), raw.bytes.as_slice())),
        );
        self.metadata.insert(DIGEST.to_owned(), digest);
        let metadata: HashMap<String, String> = self.metadata.into_iter().collect();
        Ok(serialize(raw, Some(metadata))?)
    }

    /// Reads what [`Contents::encode`] wrote, on the CPU.
    ///
    /// # Errors
    /// Bytes that are cut off, changed, of another format or no safetensors file at all.
    pub fn decode(bytes: &[u8], format: &'static str) -> Result<Contents, FileError> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let mut metadata: BTreeMap<String, String> =
            header.metadata().clone().unwrap_or_default().into_iter().collect();
        if metadata.get(FORMAT).map(String::as_str) != Some(format) {
            return Err(FileError::Format { wanted: format });
        }
        let written = metadata.remove(DIGEST).ok_or(FileError::Metadata { key: DIGEST })?;
        let file = SafeTensors::deserialize(bytes)?;
        let views: BTreeMap<String, _> = file.tensors().into_iter().collect();
        let parts = views.iter().map(|(name, view)| (name.as_str(), view.shape(), view.data()));
        if digest(&metadata, parts) != written {
            return Err(FileError::Digest);
        }
        let tensors = views
            .into_iter()
            .map(|(name, view)| {
                let kind =
                    kind(view.dtype()).ok_or(FileError::Kind { name: name.clone(), kind: view.dtype() })?;
                let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
                Ok((name, Tensor::from_data_size(view.data(), &shape, kind)))
            })
            .collect::<Result<_, FileError>>()?;
        Ok(Contents { tensors, metadata })
    }

    /// A value of the metadata.
    ///
    /// # Errors
    /// When there is none, or one that cannot be read.
    pub fn value<T: std::str::FromStr>(&self, key: &'static str) -> Result<T, FileError> {
        let text = self.metadata.get(key).ok_or(FileError::Metadata { key })?;
        text.parse().map_err(|_| FileError::Metadata { key })
    }
}

/// A tensor's bytes, as they lie in the file.
struct Raw {
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl Raw {
    fn of(name: &str, tensor: &Tensor) -> Result<Raw, FileError> {
        let dtype = match tensor.kind() {
            Kind::Float => Dtype::F32,
            Kind::Double => Dtype::F64,
            Kind::Int64 => Dtype::I64,
            _ => return Err(FileError::Kind { name: name.to_owned(), kind: Dtype::U8 }),
        };
        let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
        let count = tensor.numel();
        let mut bytes = vec![0; count * tensor.kind().elt_size_in_bytes()];
        tensor.copy_data_u8(&mut bytes, count);
        let shape = tensor.size().iter().map(|&n| n as usize).collect();
        Ok(Raw { shape, dtype, bytes })
    }
}

impl View for Raw {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.bytes.as_slice().into()
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

fn kind(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::Float),
        Dtype::F64 => Some(Kind::Double),
        Dtype::I64 => Some(Kind::Int64),
        _ => None,
    }
}

/// SHA-256 over metadata and tensors, each part with its length, so that nothing can move from one to the next.
fn digest<'a>(
    metadata: &BTreeMap<String, String>,
    tensors: impl Iterator<Item = (&'a str, &'a [usize], &'a [u8])>,
) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for (key, value) in metadata {
        part(key.as_bytes());
        part(value.as_bytes());
    }
    for (name, shape, bytes) in tensors {
        part(name.as_bytes());
        part(format!("{shape:?}").as_bytes());
        part(bytes);
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: &str = "test 1";

    fn contents() -> Contents {
        let tensors = [
            ("b".to_owned(), Tensor::from_slice(&[1.5f32, -2.0, 0.25]).reshape([3, 1])),
            ("a".to_owned(), Tensor::from_slice(&[7i64])),
            ("c".to_owned(), Tensor::from_slice(&[0.1f64])),
        ];
        Contents { tensors: tensors.into(), metadata: [("seed".to_owned(), "7".to_owned())].into() }
    }

    #[test]
    fn contents_read_back_to_the_bit() {
        let read = Contents::decode(&contents().encode(FORMAT).unwrap(), FORMAT).unwrap();
        for (name, tensor) in contents().tensors {
            assert!(
                read.tensors[&name].equal(&tensor) && read.tensors[&name].kind() == tensor.kind(),
                "{name}"
            );
        }
        assert_eq!(read.value::<i64>("seed").unwrap(), 7);
        assert!(matches!(read.value::<i64>("lr"), Err(FileError::Metadata { key: "lr" })));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let good = contents().encode(FORMAT).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            assert!(Contents::decode(&bad, FORMAT).is_err(), "byte {at} of {}", good.len());
        }
        assert!(Contents::decode(&good[..good.len() - 1], FORMAT).is_err());
        assert!(Contents::decode(b"", FORMAT).is_err());
        assert!(matches!(Contents::decode(&good, "test 2"), Err(FileError::Format { wanted: "test 2" })));
    }
}
