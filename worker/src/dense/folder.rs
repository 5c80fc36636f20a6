//! A folder in the format of ADE20K's scene parsing benchmark.
//!
//! ```text
//! ROOT/images/SPLIT/NAME.jpg        or .png
//! ROOT/annotations/SPLIT/NAME.png   8 bits a pixel: 0 is no class, k is class k − 1
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageReader};
use tch::{Kind, Tensor};

use super::IGNORED;

/// The samples of one split, by name.
#[derive(Debug)]
pub struct Folder {
    samples: Vec<Sample>,
    classes: i64,
}

/// Where an image and its label map lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    image: PathBuf,
    labels: PathBuf,
}

/// Why a folder or one of its files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("cannot read `{}`", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` holds no image (.jpg, .jpeg or .png)", .folder.display())]
    Empty { folder: PathBuf },
    #[error("`{}` has no label map `{}`", .image.display(), .labels.display())]
    Unlabelled { image: PathBuf, labels: PathBuf },
    #[error("cannot decode `{}`", .path.display())]
    Decode { path: PathBuf, source: image::ImageError },
    #[error(
        "`{}` is no map of one 8-bit number a pixel, but {found}; ADE20K's full release has to be brought to the format of \
         its scene parsing benchmark",
        .path.display()
    )]
    Format { path: PathBuf, found: String },
    #[error("`{}` is {}×{}, its image is {}×{}", .path.display(), .labels.0, .labels.1, .image.0, .image.1)]
    Sizes { path: PathBuf, labels: (u32, u32), image: (u32, u32) },
    #[error("`{}` holds the label {label}, but there are {classes} classes", .path.display())]
    Label { path: PathBuf, label: i64, classes: i64 },
}

impl Folder {
    /// Lists a split. Its files are not decoded yet.
    pub fn open(root: &Path, split: &str, classes: i64) -> Result<Folder, FolderError> {
        let folder = root.join("images").join(split);
        let failed = |source| FolderError::Read { path: folder.clone(), source };
        let mut samples = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let image = entry.map_err(failed)?.path();
            let extension = image.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
            let (Some("jpg" | "jpeg" | "png"), Some(stem)) = (extension.as_deref(), image.file_stem()) else {
                continue;
            };
            let labels = root.join("annotations").join(split).join(stem).with_extension("png");
            if !labels.is_file() {
                return Err(FolderError::Unlabelled { image, labels });
            }
            samples.push(Sample { image, labels });
        }
        if samples.is_empty() {
            return Err(FolderError::Empty { folder });
        }
        samples.sort_by(|a, b| a.image.cmp(&b.image));
        Ok(Folder { samples, classes })
    }

    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    pub fn classes(&self) -> i64 {
        self.classes
    }

    /// Decodes a sample: the image as float32 `[3, H, W]` of 0 to 255, and labels i64 `[H, W]` within the classes or
    /// [`IGNORED`].
    pub fn read(&self, sample: &Sample) -> Result<(Tensor, Tensor), FolderError> {
        let rgb = decode(&sample.image)?.into_rgb8();
        let path = || sample.labels.clone();
        let map = match decode(&sample.labels)? {
            DynamicImage::ImageLuma8(map) => map,
            other => return Err(FolderError::Format { path: path(), found: format!("{:?}", other.color()) }),
        };
        if rgb.dimensions() != map.dimensions() {
            let (labels, image) = (map.dimensions(), rgb.dimensions());
            return Err(FolderError::Sizes { path: path(), labels, image });
        }
        let (width, height) = (i64::from(rgb.width()), i64::from(rgb.height()));
        let pixels = Tensor::from_slice(rgb.as_raw()).reshape([height, width, 3]);
        let numbers = Tensor::from_slice(map.as_raw()).reshape([height, width]).to_kind(Kind::Int64);
        let largest = numbers.max().int64_value(&[]);
        if largest > self.classes {
            return Err(FolderError::Label { path: path(), label: largest, classes: self.classes });
        }
        let labels = (&numbers - 1).masked_fill(&numbers.eq(0), IGNORED);
        Ok((pixels.permute([2, 0, 1]).to_kind(Kind::Float), labels))
    }
}

fn decode(path: &Path) -> Result<DynamicImage, FolderError> {
    let failed = |source| FolderError::Read { path: path.to_owned(), source };
    let reader = ImageReader::open(path).map_err(failed)?.with_guessed_format().map_err(failed)?;
    reader.decode().map_err(|source| FolderError::Decode { path: path.to_owned(), source })
}
