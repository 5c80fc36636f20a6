//! Images without labels: whatever lies below a folder.

use std::path::Path;

use sweeps::recipe::Preprocessing;
use tch::{Device, Kind, Tensor};

use super::error::{DataError, LineError};
use super::{decode, resize};

const ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];

/// The JPEG and PNG files below a folder, by their endings, relative to it and sorted. Hidden files and folders are left
/// out, and links to folders are not followed.
///
/// # Errors
/// A folder that is not there, cannot be read, or holds no image.
pub fn images_below(folder: &Path) -> Result<Vec<String>, DataError> {
    if !folder.is_dir() {
        return Err(DataError::NoFolder { folder: folder.to_owned() });
    }
    let mut images = Vec::new();
    let mut open = vec![String::new()];
    while let Some(below) = open.pop() {
        let path = folder.join(&below);
        let failed = |source| DataError::Read { path: path.clone(), source };
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let relative = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
            let ending = Path::new(&name).extension().and_then(|ending| ending.to_str());
            let is_image = ending.is_some_and(|ending| ENDINGS.contains(&ending.to_lowercase().as_str()));
            if name.starts_with('.') {
            } else if entry.file_type().map_err(failed)?.is_dir() {
                open.push(relative);
            } else if is_image {
                images.push(relative);
            }
        }
    }
    if images.is_empty() {
        return Err(DataError::NoImages { folder: folder.to_owned() });
    }
    images.sort();
    Ok(images)
}

/// One image below a folder: u8 `[3, S, S]` on the CPU.
///
/// # Errors
/// An image that is not there or cannot be read.
pub fn image(
    folder: &Path,
    path: &str,
    preprocessing: Preprocessing,
    size: i64,
) -> Result<Tensor, LineError> {
    let real = |source| LineError::Read { path: path.to_owned(), source };
    let (image, _) = decode::decode(&folder.canonicalize().map_err(real)?, path)?;
    let mut pixels = vec![0; (3 * size * size) as usize];
    resize::resize(&image, preprocessing, size as u32, &mut pixels);
    Ok(Tensor::from_data_size(&pixels, &[3, size, size], Kind::Uint8).to_device(Device::Cpu))
}
