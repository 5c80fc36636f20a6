//! The font of pictures: `SWEEP_FONT`, else the first that is found where Linux distributions put theirs.

use std::path::PathBuf;
use std::sync::OnceLock;

use plotters::style::{FontStyle, register_font};

use crate::error::CliError;

/// The name by which it is drawn.
pub(super) const SANS: &str = "sans-serif";

const PLACES: &[&str] = &[
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/TTF/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
    "/usr/share/fonts/liberation-sans/LiberationSans-Regular.ttf",
    "/usr/share/fonts/truetype/noto/NotoSans-Regular.ttf",
    "/usr/share/fonts/noto/NotoSans-Regular.ttf",
    "/usr/share/fonts/truetype/freefont/FreeSans.ttf",
];

/// Makes a font known, once.
pub(super) fn register() -> Result<(), CliError> {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    if BYTES.get().is_some() {
        return Ok(());
    }
    let given = std::env::var_os("SWEEP_FONT").map(PathBuf::from);
    let bytes = match given {
        Some(file) => std::fs::read(&file)
            .map_err(|error| CliError::NoFont { reason: format!("`{}`: {error}", file.display()) })?,
        None => PLACES
            .iter()
            .find_map(|place| std::fs::read(place).ok())
            .ok_or_else(|| CliError::NoFont { reason: "no font is where fonts usually are".to_owned() })?,
    };
    let bytes = BYTES.get_or_init(|| bytes);
    register_font(SANS, FontStyle::Normal, bytes)
        .map_err(|_| CliError::NoFont { reason: "the file is no TrueType font".to_owned() })
}
