//! Folders in the format of ADE20K's scene parsing benchmark, which have no label files: these are made from what lies where.
//!
//! ```text
//! FOLDER/images/SPLIT/NAME.jpg        or .png
//! FOLDER/annotations/SPLIT/NAME.png
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::{ImportError, read_failed};
use crate::data;

const IMAGES: &str = "images";
const MAPS: &str = "annotations";

/// Label files by name, `SPLIT.txt`.
pub(super) type Lists = BTreeMap<PathBuf, String>;

/// Whether a folder has the format.
pub(super) fn is_benchmark(folder: &Path) -> bool {
    folder.join(IMAGES).is_dir() && folder.join(MAPS).is_dir()
}

/// The label files of such a folder: a split for each folder of images, its images in the order of their names.
pub(super) fn lists(folder: &Path) -> Result<Lists, ImportError> {
    let images = folder.join(IMAGES);
    let mut lists = Lists::new();
    for entry in fs::read_dir(&images).map_err(read_failed(&images))? {
        let path = entry.map_err(read_failed(&images))?.path();
        let Some(split) = path.file_name().and_then(|name| name.to_str()).filter(|_| path.is_dir()) else {
            continue;
        };
        let mut lines = String::new();
        for file in data::images_below(&path)? {
            let image = format!("{IMAGES}/{split}/{file}");
            let map = Path::new(MAPS).join(split).join(&file).with_extension("png");
            if !folder.join(&map).is_file() {
                return Err(ImportError::Unlabelled { image: folder.join(image), map: folder.join(map) });
            }
            lines += &format!("{image} {}\n", map.display());
        }
        lists.insert(PathBuf::from(format!("{split}.txt")), lines);
    }
    if lists.is_empty() { Err(ImportError::NoSplits { folder: images }) } else { Ok(lists) }
}

/// The files that label files name, and they themselves, every image and map decoded and checked.
pub(super) fn checked(folder: &Path, lists: &Lists, classes: u32) -> Result<BTreeSet<PathBuf>, ImportError> {
    let mut files = BTreeSet::new();
    for (name, text) in lists {
        let paths = data::check_maps(folder, &folder.join(name), text.as_bytes(), i64::from(classes))?;
        files.extend(paths.into_iter().map(PathBuf::from));
        files.insert(name.clone());
    }
    Ok(files)
}

/// The label files that are there.
pub(super) fn written(folder: &Path) -> Result<Lists, ImportError> {
    let list = |split: String| {
        let name = PathBuf::from(format!("{split}.txt"));
        let path = folder.join(&name);
        Ok((name, fs::read_to_string(&path).map_err(read_failed(&path))?))
    };
    data::splits(folder)?.into_iter().map(list).collect()
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma, RgbImage};

    use super::super::{DatasetWish, dataset};
    use super::*;
    use crate::home::{Home, Labels};

    /// Two splits of one image each, and what else lies in ADE20K's archive.
    fn archive(root: &Path) -> PathBuf {
        let folder = root.join("ADEChallengeData2016");
        for split in ["training", "validation"] {
            for part in [IMAGES, MAPS] {
                fs::create_dir_all(folder.join(part).join(split)).unwrap();
            }
            RgbImage::new(3, 2).save(folder.join(format!("{IMAGES}/{split}/a.jpg"))).unwrap();
            map(&folder, split, 150);
        }
        fs::write(folder.join("objectInfo150.txt"), "Idx\tRatio\n").unwrap();
        folder
    }

    fn map(folder: &Path, split: &str, label: u8) {
        let path = folder.join(format!("{MAPS}/{split}/a.png"));
        GrayImage::from_pixel(3, 2, Luma([label])).save(path).unwrap();
    }

    fn wish(link: bool) -> DatasetWish {
        DatasetWish { name: "ade20k".into(), classes: None, link, source: None }
    }

    fn error(home: &Home, folder: &Path, link: bool) -> String {
        format!("{:#}", anyhow::Error::from(dataset(home, folder, &wish(link)).unwrap_err()))
    }

    #[test]
    fn label_files_are_made_and_foreign_ones_left_behind() {
        let root = tempfile::tempdir().unwrap();
        let (folder, home) = (archive(root.path()), Home::open(root.path().join("home")).unwrap());
        let entry = dataset(&home, &folder, &wish(false)).unwrap();
        assert_eq!((entry.info.classes, entry.info.labels), (150, Labels::Maps));
        assert_eq!(entry.splits, ["training", "validation"]);
        let lines = fs::read_to_string(entry.path.join("training.txt")).unwrap();
        assert_eq!(lines, "images/training/a.jpg annotations/training/a.png\n");
        assert!(!folder.join("training.txt").exists());
        assert_eq!(dataset(&home, &folder, &wish(false)).unwrap(), entry, "once more changes nothing");
        map(&folder, "training", 3);
        assert!(matches!(dataset(&home, &folder, &wish(false)), Err(ImportError::Taken { .. })));
        // What came out of a home goes into another.
        let other = Home::open(root.path().join("other")).unwrap();
        assert_eq!(dataset(&other, &entry.path, &wish(false)).unwrap().info, entry.info);
    }

    #[test]
    fn a_link_needs_a_folder_without_foreign_label_files() {
        let root = tempfile::tempdir().unwrap();
        let (folder, home) = (archive(root.path()), Home::open(root.path().join("home")).unwrap());
        let said = error(&home, &folder, true);
        assert!(said.contains("objectInfo150.txt") && said.contains("without --link"), "{said}");
        fs::remove_file(folder.join("objectInfo150.txt")).unwrap();
        let entry = dataset(&home, &folder, &wish(true)).unwrap();
        assert_eq!(entry.splits, ["training", "validation"]);
        assert!(folder.join("training.txt").is_file() && entry.path.symlink_metadata().unwrap().is_symlink());
        assert_eq!(dataset(&home, &folder, &wish(true)).unwrap(), entry);
    }

    #[test]
    fn bad_maps_are_named_and_nothing_is_left_behind() {
        let root = tempfile::tempdir().unwrap();
        let (folder, home) = (archive(root.path()), Home::open(root.path().join("home")).unwrap());
        map(&folder, "validation", 151);
        let said = error(&home, &folder, false);
        assert!(
            said.contains(
                "validation.txt line 1: the map `annotations/validation/a.png` holds the label 151"
            ),
            "{said}"
        );
        fs::remove_file(folder.join(format!("{MAPS}/validation/a.png"))).unwrap();
        let said = error(&home, &folder, false);
        assert!(said.contains("a.jpg` has no label map") && said.contains("a.png`"), "{said}");
        let many = DatasetWish { classes: Some(256), name: "mine".into(), ..wish(false) };
        let moved = root.path().join("mine");
        fs::rename(&folder, &moved).unwrap();
        let said = dataset(&home, &moved, &many).unwrap_err().to_string();
        assert!(said.contains("a.jpg` has no label map"), "{said}");
        map(&moved, "validation", 0);
        let said = dataset(&home, &moved, &many).unwrap_err().to_string();
        assert_eq!(said, "label maps hold at most 255 classes, not 256");
        assert!(!home.datasets_folder().exists());
    }
}
