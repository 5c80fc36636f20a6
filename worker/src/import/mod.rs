//! Putting backbones and data sets into the home: checked first, then there at once or not at all.

mod backbone;
mod dataset;
mod infer;
mod maps;
mod names;
#[cfg(test)]
mod names_tests;
mod npz;
mod tensors;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use backbone::{BackboneWish, backbone, normalisation};
pub use dataset::{DatasetWish, dataset};

use crate::backbone::ArchError;
use crate::data::DataError;
use crate::home::HomeError;

/// Why something cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error("cannot read `{}`", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write `{}`", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("`{}` is no complete safetensors file", .path.display())]
    Safetensors { path: PathBuf, source: safetensors::SafeTensorError },
    #[error("cannot read `{name}` of `{}`", .path.display())]
    Npz { path: PathBuf, name: String, source: io::Error },
    #[error("`{}` is neither .safetensors nor .npz; convert it to safetensors", .path.display())]
    Format { path: PathBuf },
    #[error(
        "`{}` is a pickle, and reading one can run any code; make a safetensors file of it first: \
         python scripts/convert_checkpoint.py FILE FILE.safetensors",
        .path.display()
    )]
    Pickle { path: PathBuf },
    #[error(
        "`{}` holds no backbone whose names are known: a ViT, Swin, ResNet or ConvNeXt as timm, torchvision, transformers \
         or its authors name it",
        .path.display()
    )]
    Unknown { path: PathBuf },
    #[error("`{}` does not hold a whole backbone: {}", .path.display(), .problems.join("; "))]
    Unfit { path: PathBuf, problems: Vec<String> },
    #[error("the backbone's shape does not hold: {0}")]
    Arch(#[source] ArchError),
    #[error("`{name}` is no normalisation; write imagenet or inception")]
    Normalisation { name: String },
    #[error("`{}` is there already, and is another one; choose another --name, or remove it first", .path.display())]
    Taken { path: PathBuf },
    #[error(transparent)]
    Data(Box<DataError>),
    #[error("`{}` holds no label file such as train800.txt", .folder.display())]
    NoSplits { folder: PathBuf },
    #[error("`{}` names `{image}`, which is no file below `{}`", .file.display(), .folder.display())]
    Image { file: PathBuf, image: String, folder: PathBuf },
    #[error("`{}` has no label map `{}`", .image.display(), .map.display())]
    Unlabelled { image: PathBuf, map: PathBuf },
    #[error("`{}` would be taken for a label file; move it away, or import without --link", .path.display())]
    NoLabelFile { path: PathBuf },
    #[error("label maps hold at most {most} classes, not {classes}")]
    TooManyClasses { classes: u32, most: u32 },
    #[error("how many classes `{name}` has is not known; say it with --classes")]
    Classes { name: String },
    #[error("`{name}` has {known} classes, not {given}; leave --classes away")]
    OtherClasses { name: String, known: u32, given: u32 },
}

impl From<DataError> for ImportError {
    fn from(error: DataError) -> Self {
        ImportError::Data(Box::new(error))
    }
}

fn read_failed(path: &Path) -> impl FnOnce(io::Error) -> ImportError {
    let path = path.to_owned();
    move |source| ImportError::Read { path, source }
}

fn write_failed(path: &Path) -> impl FnOnce(io::Error) -> ImportError {
    let path = path.to_owned();
    move |source| ImportError::Write { path, source }
}

/// Writes a file that is there whole or not at all, even if the machine loses power.
fn write_at_once(path: &Path, bytes: &[u8]) -> Result<(), ImportError> {
    let write = || {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let partial = partial(path);
        let mut file = File::create(&partial)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.and_then(|()| fs::rename(&partial, path)).inspect_err(|_| _ = fs::remove_file(&partial))?;
        File::open(folder)?.sync_all()
    };
    write().map_err(write_failed(path))
}

/// A hidden neighbour, which no listing of the home shows.
fn partial(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.partial", std::process::id()))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
