//! Data sets: reads a split in the NOAH layout, brings its images to S×S once, and keeps them as bytes.
//!
//! Images with label maps ([`Maps`]) have no one size and are decoded when they are asked for, unless they are few.
//!
//! A data set is a folder with `<split>.txt` label files, whose lines name images below that folder. Pixels are cached as
//! u8 and normalised afresh for each batch: the cache is never written to after [`load`].

mod decode;
mod error;
mod folder;
mod labels;
mod maps;
mod resize;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};
use sweeps::recipe::{Normalization, Preprocessing};
use tch::{Device, Kind, Tensor};

pub use error::{DataError, LineError};
pub use folder::{image, images_below};
pub use labels::{images, splits};
pub use maps::{IGNORED, MOST_CLASSES, Maps, Sample, check_maps, hash_maps, rgb};

use labels::Entry;

const LARGEST_IMAGE_SIZE: i64 = 4_096;

/// The images and labels of one split, in the order of its label file.
#[derive(Debug)]
pub struct Split {
    /// u8 `[n, 3, S, S]` on the CPU, channels R, G, B.
    pub images: Tensor,
    /// i64 `[n]` on the CPU, each within `0..classes`.
    pub labels: Tensor,
    /// SHA-256 over the labels and the image files' bytes, in order; file names and preprocessing do not enter.
    pub sha256: String,
}

/// Reads the split `<folder>/<split>.txt` and decodes its images on all cores.
///
/// # Errors
/// The first bad line of the label file, the first bad image (in the file's order), or what is missing.
pub fn load(
    folder: &Path,
    classes: i64,
    split: &str,
    preprocessing: Preprocessing,
    image_size: i64,
) -> Result<Split, DataError> {
    let file = labels::label_file(folder, split)?;
    let entries = labels::read(&file, classes)?;
    let bytes = cache_bytes(entries.len(), image_size, free_memory())?;
    let folder =
        folder.canonicalize().map_err(|source| DataError::Read { path: folder.to_owned(), source })?;
    let tensor = |source| DataError::Tensor { folder: folder.clone(), source };

    let n = entries.len() as i64;
    let images =
        Tensor::f_zeros([n, 3, image_size, image_size], (Kind::Uint8, Device::Cpu)).map_err(tensor)?;
    // SAFETY: a fresh contiguous tensor of exactly `bytes` bytes, which nothing else refers to while the slice lives.
    let pixels = unsafe { std::slice::from_raw_parts_mut(images.data_ptr().cast::<u8>(), bytes) };
    let hashes = decode_all(&folder, &file, &entries, preprocessing, image_size as u32, pixels)?;

    let labels: Vec<i64> = entries.iter().map(|e| e.label).collect();
    let labels = Tensor::f_from_slice(&labels).map_err(tensor)?;
    Ok(Split { images, labels, sha256: content_hash(&entries, &hashes) })
}

/// What [`load`] gives as the split's `sha256`, without decoding an image.
///
/// # Errors
/// The first bad line of the label file, or the first image that cannot be read.
pub fn hash(folder: &Path, classes: i64, split: &str) -> Result<String, DataError> {
    let file = labels::label_file(folder, split)?;
    let entries = labels::read(&file, classes)?;
    let folder =
        folder.canonicalize().map_err(|source| DataError::Read { path: folder.to_owned(), source })?;
    let hash = |entry: &Entry| {
        decode::hash(&folder, &entry.path).map_err(|source| DataError::Line {
            file: file.clone(),
            line: entry.line,
            source,
        })
    };
    let hashes = entries.iter().map(hash).collect::<Result<Vec<_>, _>>()?;
    Ok(content_hash(&entries, &hashes))
}

const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// Pixels in 0..1, `[…, 3, H, W]`, to ImageNet's mean and deviation.
pub fn to_imagenet(pixels: &Tensor) -> Tensor {
    let (mean, std) = IMAGENET;
    standardised(pixels, mean, std)
}

/// The same of grey channels `[…, H, W]`, by the means over ImageNet's three channels.
pub fn to_imagenet_grey(pixels: &Tensor) -> Tensor {
    let of_grey = |values: [f32; 3]| values.iter().map(|&x| f64::from(x)).sum::<f64>() / 3.0;
    let (mean, std) = IMAGENET;
    (pixels - of_grey(mean)) / of_grey(std)
}

/// `(x − mean) / std` per channel of `[…, 3, H, W]`, out of place.
fn standardised(images: &Tensor, mean: [f32; 3], std: [f32; 3]) -> Tensor {
    let channel = |values: [f32; 3]| {
        Tensor::from_slice(&values).view([3, 1, 1]).to_device(images.device()).to_kind(images.kind())
    };
    (images - channel(mean)) / channel(std)
}

/// `(x / 255 − mean) / std` per channel: float32 `[b, 3, S, S]` on the device of `images` (u8 `[b, 3, S, S]`), which are
/// left as they are.
pub fn normalise(images: &Tensor, normalization: Normalization) -> Tensor {
    // Out of place throughout: batches are views of the cache, and would be normalised again each epoch.
    let images = images.to_kind(Kind::Float) / 255.0;
    let (mean, std) = match normalization {
        Normalization::Imagenet => IMAGENET,
        Normalization::Inception => ([0.5; 3], [0.5; 3]),
        Normalization::None => return images,
    };
    standardised(&images, mean, std)
}

/// Size of the cache in bytes, if it fits.
fn cache_bytes(images: usize, size: i64, budget: u64) -> Result<usize, DataError> {
    if !(1..=LARGEST_IMAGE_SIZE).contains(&size) {
        return Err(DataError::ImageSize { size, limit: LARGEST_IMAGE_SIZE });
    }
    let bytes = images as u128 * 3 * (size * size) as u128;
    match usize::try_from(bytes) {
        Ok(fits) if bytes <= u128::from(budget) => Ok(fits),
        _ => Err(DataError::Memory { images, size, bytes, budget }),
    }
}

/// Bytes that the kernel says can be allocated without swapping; unbounded where it does not say.
pub(crate) fn free_memory() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    available(&meminfo).unwrap_or(u64::MAX)
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Decodes every entry into its place in `pixels` and returns the files' hashes.
fn decode_all(
    folder: &Path,
    file: &Path,
    entries: &[Entry],
    preprocessing: Preprocessing,
    size: u32,
    pixels: &mut [u8],
) -> Result<Vec<[u8; 32]>, DataError> {
    let image_bytes = 3 * size as usize * size as usize;
    let work = entries.iter().zip(pixels.chunks_exact_mut(image_bytes));
    on_all_cores(file, work, |(entry, out)| {
        let (image, sha256) = decode::decode(folder, &entry.path).map_err(|source| (entry.line, source))?;
        resize::resize(&image, preprocessing, size, out);
        Ok(sha256)
    })
}

/// What `one` makes of each item, in their order. Work is handed out in order, so that the smallest failing line is the
/// file's first bad one, whatever the number of threads.
fn on_all_cores<I: Send, T: Send>(
    file: &Path,
    work: impl ExactSizeIterator<Item = I> + Send,
    one: impl Fn(I) -> Result<T, (usize, LineError)> + Sync,
) -> Result<Vec<T>, DataError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(work.len());
    let (work, failed) = (Mutex::new(work.enumerate()), AtomicBool::new(false));
    // What has been taken is always done. A poisoned lock means that a thread has panicked; the scope passes that on.
    let next = || if failed.load(Ordering::Relaxed) { None } else { work.lock().ok()?.next() };
    let some = || {
        let mut made = Vec::new();
        while let Some((index, item)) = next() {
            made.push((index, one(item).inspect_err(|_| failed.store(true, Ordering::Relaxed))?));
        }
        Ok(made)
    };
    let results: Vec<Result<Vec<(usize, T)>, _>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(some)).collect();
        handles
            .into_iter()
            .map(|h| h.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let (made, failures): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    if let Some((line, source)) = failures.into_iter().filter_map(Result::err).min_by_key(|(line, _)| *line) {
        return Err(DataError::Line { file: file.to_owned(), line, source });
    }
    let mut made: Vec<(usize, T)> = made.into_iter().flatten().flatten().collect();
    made.sort_unstable_by_key(|(index, _)| *index);
    Ok(made.into_iter().map(|(_, made)| made).collect())
}

fn content_hash(entries: &[Entry], hashes: &[[u8; 32]]) -> String {
    let mut sha256 = Sha256::new();
    for (entry, hash) in entries.iter().zip(hashes) {
        sha256.update(entry.label.to_le_bytes());
        sha256.update(hash);
    }
    sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
