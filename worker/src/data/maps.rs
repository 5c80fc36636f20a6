//! Images whose every pixel has a label, in the format of ADE20K's scene parsing benchmark: a map is a PNG of the image's
//! size with 8 bits a pixel, in which 0 is no class and k is class k − 1. A line of a label file is an image's path, a space
//! and the path of its map.

use std::path::{Path, PathBuf};

use image::{GrayImage, RgbImage};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::error::{DataError, LineError};
use super::labels::{self, Entry};
use super::{decode, on_all_cores};

/// The label of a pixel that counts neither in the loss nor in the scores.
pub const IGNORED: i64 = 255;
/// The classes of a map of bytes, 0 being none.
pub const MOST_CLASSES: u32 = 255;

/// A split of images with label maps. Every file of it was read once and is as it has to be.
#[derive(Debug)]
pub struct Maps {
    /// Canonical.
    folder: PathBuf,
    /// The label file.
    file: PathBuf,
    entries: Vec<Entry<String>>,
    classes: i64,
    /// SHA-256 over the bytes of images and maps, in order; file names do not enter.
    pub sha256: String,
    /// Bytes of all pixels and labels, decoded.
    pub bytes: u64,
    kept: Option<Vec<Decoded>>,
}

type Decoded = (RgbImage, GrayImage);

/// An image and its labels.
#[derive(Debug)]
pub struct Sample {
    /// float32 `[3, H, W]` of 0 to 255.
    pub image: Tensor,
    /// i64 `[H, W]`, below the number of classes or [`IGNORED`].
    pub labels: Tensor,
}

impl Maps {
    /// Reads `<folder>/<split>.txt` and checks every file on all cores. The decoded ones are kept if they take no more than
    /// `keep` bytes.
    ///
    /// # Errors
    /// The first bad line, be it for its image, its map or a label in it; a split of which no pixel is labelled.
    pub fn open(folder: &Path, classes: i64, split: &str, keep: u64) -> Result<Maps, DataError> {
        let file = labels::label_file(folder, split)?;
        let entries = labels::read_maps(&file)?;
        Maps::of(folder, file, entries, classes, keep)
    }

    fn of(
        folder: &Path,
        file: PathBuf,
        entries: Vec<Entry<String>>,
        classes: i64,
        keep: u64,
    ) -> Result<Maps, DataError> {
        let folder =
            folder.canonicalize().map_err(|source| DataError::Read { path: folder.to_owned(), source })?;
        let seen = on_all_cores(&file, entries.iter(), |entry| {
            let (decoded, hash) = decode_entry(&folder, entry, classes)?;
            let size = decoded.0.as_raw().len() + decoded.1.as_raw().len();
            Ok((hash, size as u64, decoded.1.pixels().any(|pixel| pixel.0[0] > 0)))
        })?;
        if !seen.iter().any(|(_, _, is_labelled)| *is_labelled) {
            return Err(DataError::Unlabelled { file });
        }
        let sha256 = content_hash(seen.iter().map(|(hash, _, _)| *hash));
        let bytes = seen.iter().map(|(_, size, _)| size).sum();
        let mut maps = Maps { folder, file, entries, classes, sha256, bytes, kept: None };
        if bytes <= keep {
            let all: Vec<usize> = (0..maps.entries.len()).collect();
            maps.kept = Some(maps.decode(&all)?);
        }
        Ok(maps)
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Never so of one that was opened.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn classes(&self) -> i64 {
        self.classes
    }

    /// Whether the decoded files are in memory.
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Images and labels by index.
    ///
    /// # Errors
    /// A file that is no longer what it was.
    pub fn read(&self, index: &[usize]) -> Result<Vec<Sample>, DataError> {
        match &self.kept {
            Some(kept) => Ok(index.iter().map(|&i| sample(&kept[i])).collect()),
            None => Ok(self.decode(index)?.iter().map(sample).collect()),
        }
    }

    fn decode(&self, index: &[usize]) -> Result<Vec<Decoded>, DataError> {
        let entries = index.iter().map(|&i| &self.entries[i]);
        on_all_cores(&self.file, entries, |entry| Ok(decode_entry(&self.folder, entry, self.classes)?.0))
    }
}

/// Checks what a label file `file` would hold, as [`Maps::open`] does. Returns the paths that it names.
///
/// # Errors
/// As [`Maps::open`].
pub fn check_maps(folder: &Path, file: &Path, text: &[u8], classes: i64) -> Result<Vec<String>, DataError> {
    let maps = Maps::of(folder, file.to_owned(), labels::maps_of(file, text)?, classes, 0)?;
    Ok(maps.entries.into_iter().flat_map(|entry| [entry.path, entry.label]).collect())
}

/// What [`Maps::open`] gives as the split's `sha256`, without decoding an image.
///
/// # Errors
/// The first bad line of the label file, or the first file that cannot be read.
pub fn hash_maps(folder: &Path, split: &str) -> Result<String, DataError> {
    let file = labels::label_file(folder, split)?;
    let entries = labels::read_maps(&file)?;
    let folder =
        folder.canonicalize().map_err(|source| DataError::Read { path: folder.to_owned(), source })?;
    let hashes = on_all_cores(&file, entries.iter(), |entry| {
        let hash = |path: &str| decode::hash(&folder, path).map_err(|error| (entry.line, error));
        Ok(of_both(hash(&entry.path)?, hash(&entry.label)?))
    })?;
    Ok(content_hash(hashes.into_iter()))
}

fn content_hash(hashes: impl Iterator<Item = [u8; 64]>) -> String {
    let hash = hashes.fold(Sha256::new(), |sha, hash| sha.chain_update(hash)).finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hashes of an image and of its map.
fn of_both(image: [u8; 32], map: [u8; 32]) -> [u8; 64] {
    let mut both = [0; 64];
    both[..32].copy_from_slice(&image);
    both[32..].copy_from_slice(&map);
    both
}

/// An image and its map, which fit together and the task, and the hash of both files.
fn decode_entry(
    folder: &Path,
    entry: &Entry<String>,
    classes: i64,
) -> Result<(Decoded, [u8; 64]), (usize, LineError)> {
    let checked = || {
        let (image, image_hash) = decode::decode(folder, &entry.path)?;
        let (map, map_hash) = decode::decode_map(folder, &entry.label)?;
        if image.dimensions() != map.dimensions() {
            let (map, image) = (map.dimensions(), image.dimensions());
            return Err(LineError::MapSize { path: entry.label.clone(), map, image });
        }
        let label = map.as_raw().iter().copied().max().unwrap_or(0);
        if i64::from(label) > classes {
            return Err(LineError::MapLabel { path: entry.label.clone(), label, classes });
        }
        Ok(((image, map), of_both(image_hash, map_hash)))
    };
    checked().map_err(|error| (entry.line, error))
}

fn sample((image, map): &Decoded) -> Sample {
    let (width, height) = (i64::from(map.width()), i64::from(map.height()));
    let numbers = Tensor::from_slice(map.as_raw()).reshape([height, width]).to_kind(Kind::Int64);
    let labels = (&numbers - 1).masked_fill(&numbers.eq(0), IGNORED);
    Sample { image: pixels(image), labels }
}

/// float32 `[3, H, W]` of 0 to 255.
fn pixels(image: &RgbImage) -> Tensor {
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    let pixels = Tensor::from_slice(image.as_raw()).reshape([height, width, 3]);
    pixels.permute([2, 0, 1]).to_kind(Kind::Float)
}

/// One image below a folder, as a [`Sample`] has it.
///
/// # Errors
/// An image that is not there or cannot be read.
pub fn rgb(folder: &Path, path: &str) -> Result<Tensor, LineError> {
    let real = |source| LineError::Read { path: path.to_owned(), source };
    let (image, _) = decode::decode(&folder.canonicalize().map_err(real)?, path)?;
    Ok(pixels(&image))
}

#[cfg(test)]
#[path = "maps_tests.rs"]
mod tests;
