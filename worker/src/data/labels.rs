//! Label files: `<split>.txt`, a line an image, `images/train800/000000.jpg 307`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::error::{DataError, LineError};

/// VTAB's largest split has 73,728 lines of about 30 bytes; this is room for millions.
const LARGEST_LABEL_FILE: u64 = 256 << 20;

/// One image of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry<Label = i64> {
    /// In the label file, from 1.
    pub line: usize,
    /// Relative to the data set's folder, as written.
    pub path: String,
    /// A class; or the path of a label map, like that of the image.
    pub label: Label,
}

/// The names of the splits in a data set's folder, sorted.
///
/// # Errors
/// If the folder does not exist or cannot be read.
pub fn splits(folder: &Path) -> Result<Vec<String>, DataError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => DataError::NoFolder { folder: folder.to_owned() },
        _ => DataError::Read { path: folder.to_owned(), source },
    };
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let stem = path.file_stem().and_then(|s| s.to_str());
        if let (Some(stem), Some("txt"), true) =
            (stem, path.extension().and_then(|e| e.to_str()), path.is_file())
            && is_split_name(stem)
        {
            names.insert(stem.to_owned());
        }
    }
    Ok(names.into_iter().collect())
}

/// The images that a split names, relative to its folder, and their classes; its label file is checked as [`super::load`] does.
///
/// # Errors
/// If there is no such split, or the first bad line of its label file.
pub fn images(folder: &Path, split: &str, classes: i64) -> Result<Vec<(String, i64)>, DataError> {
    let entries = read(&label_file(folder, split)?, classes)?;
    Ok(entries.into_iter().map(|entry| (entry.path, entry.label)).collect())
}

/// The path of a split's label file, which exists.
pub(super) fn label_file(folder: &Path, split: &str) -> Result<PathBuf, DataError> {
    if !folder.is_dir() {
        return Err(DataError::NoFolder { folder: folder.to_owned() });
    }
    if !is_split_name(split) {
        return Err(DataError::SplitName { split: split.to_owned() });
    }
    let file = folder.join(format!("{split}.txt"));
    if file.is_file() {
        Ok(file)
    } else {
        Err(DataError::NoSplit { folder: folder.to_owned(), split: split.to_owned(), known: splits(folder)? })
    }
}

/// Reads and checks a label file. Labels are within `0..classes`, paths stay below the folder by their spelling.
pub(super) fn read(file: &Path, classes: i64) -> Result<Vec<Entry>, DataError> {
    lines(file, |line, text| parse(line, text, classes))
}

/// As [`read`], of images with label maps.
pub(super) fn read_maps(file: &Path) -> Result<Vec<Entry<String>>, DataError> {
    lines(file, parse_map)
}

/// As [`read_maps`], from what a label file would hold.
pub(super) fn maps_of(file: &Path, bytes: &[u8]) -> Result<Vec<Entry<String>>, DataError> {
    entries(file, bytes, parse_map)
}

fn lines<T>(file: &Path, parse: impl Fn(usize, &[u8]) -> Result<T, LineError>) -> Result<Vec<T>, DataError> {
    let failed = |source| DataError::Read { path: file.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(file).and_then(|f| f.take(LARGEST_LABEL_FILE + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > LARGEST_LABEL_FILE {
        let bytes = std::fs::metadata(file).map_err(failed)?.len();
        return Err(DataError::LargeFile { path: file.to_owned(), bytes, limit: LARGEST_LABEL_FILE });
    }
    entries(file, &bytes, parse)
}

fn entries<T>(
    file: &Path,
    bytes: &[u8],
    parse: impl Fn(usize, &[u8]) -> Result<T, LineError>,
) -> Result<Vec<T>, DataError> {
    let entries = bytes
        .split(|b| *b == b'\n')
        .enumerate()
        .filter(|(_, text)| !text.trim_ascii().is_empty())
        .map(|(i, text)| {
            let line = i + 1;
            parse(line, text).map_err(|source| DataError::Line { file: file.to_owned(), line, source })
        })
        .collect::<Result<Vec<_>, _>>()?;
    if entries.is_empty() { Err(DataError::Empty { file: file.to_owned() }) } else { Ok(entries) }
}

fn parse(line: usize, text: &[u8], classes: i64) -> Result<Entry, LineError> {
    let (path, label) = fields(text, |text| LineError::Fields { text })?;
    let label: i64 = label.parse().map_err(|_| LineError::Label { text: shortened(label) })?;
    if !(0..classes).contains(&label) {
        return Err(LineError::Classes { label, classes });
    }
    Ok(Entry { line, path: below(path)?, label })
}

fn parse_map(line: usize, text: &[u8]) -> Result<Entry<String>, LineError> {
    let (path, map) = fields(text, |text| LineError::MapFields { text })?;
    Ok(Entry { line, path: below(path)?, label: below(map)? })
}

/// The path of an image, and what stands behind it.
fn fields(text: &[u8], wrong: impl Fn(String) -> LineError) -> Result<(&str, &str), LineError> {
    let text = std::str::from_utf8(text.trim_ascii()).map_err(|_| LineError::Encoding)?;
    let (path, label) = text.rsplit_once([' ', '\t']).ok_or_else(|| wrong(shortened(text)))?;
    Ok((path.trim_end(), label))
}

fn below(path: &str) -> Result<String, LineError> {
    let is_below =
        Path::new(path).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if is_below { Ok(path.to_owned()) } else { Err(LineError::Escapes { path: shortened(path) }) }
}

fn is_split_name(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(ok)
}

/// What an error quotes of a line that may be a whole binary file.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<Entry, String> {
        parse(7, text.as_bytes(), 10).map_err(|e| e.to_string())
    }

    #[test]
    fn a_line_is_a_path_and_a_label() {
        let entry = |path: &str, label| Ok(Entry { line: 7, path: path.to_owned(), label });
        assert_eq!(parse_text("images/train800/000000.jpg 7"), entry("images/train800/000000.jpg", 7));
        assert_eq!(parse_text("  a b.png\t0\r"), entry("a b.png", 0));
        assert_eq!(parse_text("./a..b.png 9"), entry("./a..b.png", 9));
    }

    #[test]
    fn a_bad_line_says_what_is_wrong() {
        for (text, expected) in [
            ("image.png", "`image.png` is not an image's path, a space and its label"),
            ("image.png seven", "the label `seven` is not a whole number"),
            ("image.png 1.0", "the label `1.0` is not a whole number"),
            ("image.png 10", "the label 10 is outside of 0..10, the classes of this task"),
            ("image.png -1", "the label -1 is outside of 0..10, the classes of this task"),
            ("../image.png 1", "`../image.png` leaves the data set's folder"),
            ("images/../../image.png 1", "`images/../../image.png` leaves the data set's folder"),
            ("/etc/passwd 1", "`/etc/passwd` leaves the data set's folder"),
        ] {
            assert_eq!(parse_text(text), Err(expected.to_owned()));
        }
        assert_eq!(
            parse(1, b"\xff.png 1", 10).map_err(|e| e.to_string()),
            Err("is not valid UTF-8".to_owned())
        );
        assert!(parse_text(&"x".repeat(10_000)).is_err_and(|e| e.len() < 300));
    }

    #[test]
    fn a_splits_name_is_no_path() {
        for name in ["", ".", "..", ".hidden", "a/b", "../train800", "a\0b", "a b"] {
            assert!(!is_split_name(name), "{name:?}");
        }
        for name in ["train800", "train800val200", "demo_train", "split-0.1"] {
            assert!(is_split_name(name), "{name:?}");
        }
    }
}
