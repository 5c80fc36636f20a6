//! What can be wrong with a data set folder.

use std::path::PathBuf;

/// Why a split could not be read. Every variant names the file or folder, and the line where there is one.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("the data set folder {} does not exist", folder.display())]
    NoFolder { folder: PathBuf },
    #[error("there is no .jpg, .jpeg or .png file below {}", folder.display())]
    NoImages { folder: PathBuf },
    #[error("no split `{split}` in {}; {}", folder.display(), known_splits(known))]
    NoSplit { folder: PathBuf, split: String, known: Vec<String> },
    #[error("`{split}` cannot be a split's name: use letters, digits, `_`, `-` and `.`, and no leading `.`")]
    SplitName { split: String },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is {bytes} bytes, more than the {limit} that such a file may have", path.display())]
    LargeFile { path: PathBuf, bytes: u64, limit: u64 },
    #[error("{} names no images; each line is an image's path, a space and its label", file.display())]
    Empty { file: PathBuf },
    #[error("{} line {line}", file.display())]
    Line { file: PathBuf, line: usize, source: LineError },
    #[error("the image size is {size}; it must lie within 1 and {limit}")]
    ImageSize { size: i64, limit: i64 },
    #[error(
        "{images} images of {size}x{size} take {bytes} bytes, and {budget} bytes of memory are free; use a smaller \
         image_size or a machine with more memory"
    )]
    Memory { images: usize, size: i64, bytes: u128, budget: u64 },
    #[error("no pixel of the maps that {} names is labelled: all are 0", file.display())]
    Unlabelled { file: PathBuf },
    #[error("libtorch cannot hold the images of {}", folder.display())]
    Tensor { folder: PathBuf, source: tch::TchError },
}

/// What is wrong with one line of a label file, or with the image that it names.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("is not valid UTF-8")]
    Encoding,
    #[error("`{text}` is not an image's path, a space and its label")]
    Fields { text: String },
    #[error("the label `{text}` is not a whole number")]
    Label { text: String },
    #[error("the label {label} is outside of 0..{classes}, the classes of this task")]
    Classes { label: i64, classes: i64 },
    #[error("`{path}` leaves the data set's folder")]
    Escapes { path: String },
    #[error("the image `{path}` does not exist")]
    NoImage { path: String },
    #[error("cannot read the image `{path}`")]
    Read { path: String, source: std::io::Error },
    #[error("the image `{path}` is {bytes} bytes, more than the {limit} that an image may have")]
    LargeImage { path: String, bytes: u64, limit: u64 },
    #[error("`{text}` is not an image's path, a space and the path of its label map")]
    MapFields { text: String },
    #[error(
        "`{path}` is no map of one 8-bit number a pixel, but {found}; ADE20K's full release has to be brought to the format of its \
         scene parsing benchmark"
    )]
    MapFormat { path: String, found: String },
    #[error("the map `{path}` is {}×{}, its image is {}×{}", map.0, map.1, image.0, image.1)]
    MapSize { path: String, map: (u32, u32), image: (u32, u32) },
    #[error("the map `{path}` holds the label {label}, but the task has {classes} classes, 1 to {classes}")]
    MapLabel { path: String, label: u8, classes: i64 },
    #[error("cannot decode the image `{path}`")]
    Decode { path: String, source: image::ImageError },
}

impl DataError {
    /// Whether the data set or the split is not there at all. If not, what is there is bad (or, for `Memory` and
    /// `Tensor`, too much for this machine).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::NoFolder { .. } | Self::NoSplit { .. } | Self::SplitName { .. })
    }

    /// Whether this machine lacks the memory for it.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Memory { .. } | Self::Tensor { .. })
    }
}

fn known_splits(known: &[String]) -> String {
    if known.is_empty() { "it has no splits".to_owned() } else { format!("it has {}", known.join(", ")) }
}
