//! From an image file to RGB pixels, with bounds on what a file may ask for.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::{DynamicImage, GrayImage, ImageReader, Limits, RgbImage};
use sha2::{Digest, Sha256};

use super::error::LineError;

const LARGEST_FILE: u64 = 64 << 20;
const LARGEST_SIDE: u32 = 16_384;
/// What a decoder may allocate: 89 megapixels of RGB.
const LARGEST_ALLOCATION: u64 = 256 << 20;

/// Decodes a JPEG or PNG, told apart by content, and hashes the file. `folder` must be canonical: a path that a symbolic
/// link leads out of it is refused. Grey becomes RGB by repetition, alpha is dropped, EXIF orientation is ignored, all as
/// Pillow's `convert("RGB")` does. A JPEG's pixels are within 3/255 of libjpeg's, but for the colour of its last row and
/// column.
pub(super) fn decode(folder: &Path, path: &str) -> Result<(RgbImage, [u8; 32]), LineError> {
    let (image, sha256) = decode_any(folder, path)?;
    Ok((image.into_rgb8(), sha256))
}

/// Decodes a label map, a PNG of one 8-bit number a pixel, likewise.
pub(super) fn decode_map(folder: &Path, path: &str) -> Result<(GrayImage, [u8; 32]), LineError> {
    match decode_any(folder, path)? {
        (DynamicImage::ImageLuma8(map), sha256) => Ok((map, sha256)),
        (other, _) => {
            let found = format!("{:?}", other.color());
            Err(LineError::MapFormat { path: path.to_owned(), found })
        }
    }
}

fn decode_any(folder: &Path, path: &str) -> Result<(DynamicImage, [u8; 32]), LineError> {
    let bytes = read(folder, path)?;
    let failed = |source| LineError::Decode { path: path.to_owned(), source };
    let mut limits = Limits::default();
    limits.max_image_width = Some(LARGEST_SIDE);
    limits.max_image_height = Some(LARGEST_SIDE);
    limits.max_alloc = Some(LARGEST_ALLOCATION);
    let mut reader = ImageReader::new(Cursor::new(&bytes))
        .with_guessed_format()
        .map_err(|source| failed(image::ImageError::IoError(source)))?;
    reader.limits(limits);
    let image = reader.decode().map_err(failed)?;
    Ok((image, Sha256::digest(&bytes).into()))
}

/// The hash that [`decode`] gives.
pub(super) fn hash(folder: &Path, path: &str) -> Result<[u8; 32], LineError> {
    Ok(Sha256::digest(read(folder, path)?).into())
}

fn read(folder: &Path, path: &str) -> Result<Vec<u8>, LineError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => LineError::NoImage { path: path.to_owned() },
        _ => LineError::Read { path: path.to_owned(), source },
    };
    let real = folder.join(path).canonicalize().map_err(failed)?;
    if !real.starts_with(folder) {
        return Err(LineError::Escapes { path: path.to_owned() });
    }
    let bytes = std::fs::metadata(&real).map_err(failed)?.len();
    if bytes > LARGEST_FILE {
        return Err(LineError::LargeImage { path: path.to_owned(), bytes, limit: LARGEST_FILE });
    }
    let mut content = Vec::new();
    File::open(&real).and_then(|f| f.take(LARGEST_FILE).read_to_end(&mut content)).map_err(failed)?;
    Ok(content)
}
