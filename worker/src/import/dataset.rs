//! Importing a data set in the NOAH layout, or in that of ADE20K's benchmark: every label file read, every image there, the
//! class count known.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::maps::{self, Lists};
use super::{ImportError, partial, read_failed, write_at_once, write_failed};
use crate::data;
use crate::home::{Home, HomeError, Labels, TASK_FILE, TaskEntry, TaskInfo};

/// What the user says about a data set.
#[derive(Debug, Clone)]
pub struct DatasetWish {
    pub name: String,
    pub classes: Option<u32>,
    /// Refer to the folder instead of copying it.
    pub link: bool,
    pub source: Option<String>,
}

/// The tasks of VTAB-1k, and ADE20K. A split of 800 images may lack classes, so the count cannot be read off the labels.
const KNOWN: [(&str, u32); 21] = [
    ("cifar", 100),
    ("caltech101", 102),
    ("dtd", 47),
    ("oxford_flowers102", 102),
    ("oxford_iiit_pet", 37),
    ("svhn", 10),
    ("sun397", 397),
    ("patch_camelyon", 2),
    ("eurosat", 10),
    ("resisc45", 45),
    ("diabetic_retinopathy", 5),
    ("clevr_count", 8),
    ("clevr_dist", 6),
    ("dmlab", 6),
    ("kitti", 4),
    ("dsprites_loc", 16),
    ("dsprites_ori", 16),
    ("smallnorb_azi", 18),
    ("smallnorb_ele", 9),
    ("ade20k", 150),
    ("ADEChallengeData2016", 150),
];

/// Checks a folder and puts it into the home. Repeating it changes nothing.
pub fn dataset(home: &Home, folder: &Path, wish: &DatasetWish) -> Result<TaskEntry, ImportError> {
    let target = home.task_folder(&wish.name)?;
    let folder = folder.canonicalize().map_err(read_failed(folder))?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let described = description(&folder)?;
    let classes = classes(wish, &name, described.as_ref())?;
    let (labels, lists) = kind(&folder, described.as_ref(), wish.link)?;
    let files = match labels {
        Labels::Classes => files(&folder, classes)?,
        Labels::Maps if classes > data::MOST_CLASSES => {
            return Err(ImportError::TooManyClasses { classes, most: data::MOST_CLASSES });
        }
        Labels::Maps => {
            let there = maps::written(&folder)?;
            maps::checked(&folder, if lists.is_empty() { &there } else { &lists }, classes)?
        }
    };
    let source = wish.source.clone().or_else(|| described.as_ref().map(|info| info.source.clone()));
    let info = TaskInfo { classes, source: source.unwrap_or(name), labels };
    let mut description = serde_json::to_vec_pretty(&info).unwrap_or_default();
    description.push(b'\n');

    if target.symlink_metadata().is_ok() {
        return repeated(home, wish, &target, &folder, &info, (&files, &lists));
    }
    let parent = target.parent().unwrap_or(home.root());
    fs::create_dir_all(parent).map_err(write_failed(parent))?;
    if wish.link {
        let file = folder.join(TASK_FILE);
        match described {
            // The folder is the user's: what it says already is not written over.
            Some(there) if there != info => return Err(ImportError::Taken { path: file }),
            Some(_) => {}
            None => {
                write_lists(&lists, &folder)?;
                write_at_once(&file, &description)?;
            }
        }
        symlink(&folder, &target).map_err(write_failed(&target))?;
    } else {
        let staging = partial(&target);
        let copied = copy(&folder, files.iter().filter(|file| !lists.contains_key(*file)), &staging)
            .and_then(|()| write_lists(&lists, &staging))
            .and_then(|()| write_at_once(&staging.join(TASK_FILE), &description))
            .and_then(|()| fs::rename(&staging, &target).map_err(write_failed(&target)));
        copied.inspect_err(|_| _ = fs::remove_dir_all(&staging))?;
    }
    Ok(home.task(&wish.name)?)
}

/// What is there already may only be the same.
fn repeated(
    home: &Home,
    wish: &DatasetWish,
    target: &Path,
    folder: &Path,
    info: &TaskInfo,
    (files, lists): (&BTreeSet<PathBuf>, &Lists),
) -> Result<TaskEntry, ImportError> {
    let taken = || ImportError::Taken { path: target.to_owned() };
    let there = home.task(&wish.name).map_err(|error| match error {
        HomeError::Unknown { .. } => taken(),
        other => other.into(),
    })?;
    let is_link = target.symlink_metadata().map_err(read_failed(target))?.is_symlink();
    let is_same = is_link == wish.link
        && there.info == *info
        && if is_link {
            target.canonicalize().map_err(read_failed(target))? == folder
        } else {
            files.iter().all(|file| match lists.get(file) {
                Some(text) => fs::read(target.join(file)).is_ok_and(|there| there == text.as_bytes()),
                None => same(&folder.join(file), &target.join(file)),
            })
        };
    if is_same { Ok(there) } else { Err(taken()) }
}

fn same(a: &Path, b: &Path) -> bool {
    matches!((fs::read(a), fs::read(b)), (Ok(a), Ok(b)) if a == b)
}

/// What the folder says of itself, as one does that came out of a home.
fn description(folder: &Path) -> Result<Option<TaskInfo>, ImportError> {
    let path = folder.join(TASK_FILE);
    match fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(info) => Ok(Some(info)),
            Err(source) => Err(HomeError::Parse { path, source }.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(read_failed(&path)(error)),
    }
}

fn classes(wish: &DatasetWish, folder: &str, described: Option<&TaskInfo>) -> Result<u32, ImportError> {
    let last = wish.name.rsplit('/').next().unwrap_or(&wish.name);
    let known = [last, folder].iter().find_map(|name| KNOWN.iter().find(|(task, _)| task == name));
    match (known, wish.classes) {
        (Some(&(name, known)), Some(given)) if known != given => {
            Err(ImportError::OtherClasses { name: name.to_owned(), known, given })
        }
        (_, Some(given)) => Ok(given),
        (Some(&(_, known)), None) => Ok(known),
        (None, None) => match described {
            Some(info) => Ok(info.classes),
            None => Err(ImportError::Classes { name: wish.name.clone() }),
        },
    }
}

/// What the label files give an image, and those that are still to be written.
fn kind(folder: &Path, described: Option<&TaskInfo>, link: bool) -> Result<(Labels, Lists), ImportError> {
    if let Some(info) = described {
        return Ok((info.labels, Lists::new()));
    }
    if !maps::is_benchmark(folder) {
        return Ok((Labels::Classes, Lists::new()));
    }
    let lists = maps::lists(folder)?;
    // In a copy there are our label files alone; of a folder that is referred to, every one is offered.
    let there = maps::written(folder)?;
    match there.iter().find(|(name, text)| lists.get(*name) != Some(*text)) {
        Some((name, _)) if link => Err(ImportError::NoLabelFile { path: folder.join(name) }),
        _ => Ok((Labels::Maps, lists)),
    }
}

fn write_lists(lists: &Lists, folder: &Path) -> Result<(), ImportError> {
    lists.iter().try_for_each(|(name, text)| write_at_once(&folder.join(name), text.as_bytes()))
}

/// The label files and the images that they name, relative to the folder; each of them is there and inside it.
fn files(folder: &Path, classes: u32) -> Result<BTreeSet<PathBuf>, ImportError> {
    let splits = data::splits(folder)?;
    if splits.is_empty() {
        return Err(ImportError::NoSplits { folder: folder.to_owned() });
    }
    let (mut files, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for split in splits {
        let label_file = PathBuf::from(format!("{split}.txt"));
        for (image, class) in data::images(folder, &split, i64::from(classes))? {
            seen.insert(class);
            // A link may lead elsewhere: what counts is where the file really is.
            let real = folder.join(&image).canonicalize().ok();
            if !real.is_some_and(|real| real.starts_with(folder) && real.is_file()) {
                let file = folder.join(&label_file);
                return Err(ImportError::Image { file, image, folder: folder.to_owned() });
            }
            files.insert(PathBuf::from(image));
        }
        files.insert(label_file);
    }
    if let Some(problem) = unseen(classes, &seen) {
        tracing::warn!("{problem}");
    }
    Ok(files)
}

/// What is odd about a number of classes of which not every one occurs.
fn unseen(classes: u32, seen: &BTreeSet<i64>) -> Option<String> {
    let mut missing = (0..i64::from(classes)).filter(|class| !seen.contains(class));
    let first = missing.next()?;
    let further = missing.count();
    let others = if further == 0 { String::new() } else { format!(" and {further} others") };
    let highest = seen.last().copied().unwrap_or_default();
    Some(format!(
        "no image is of class {first}{others}, but there are to be {classes} classes; the highest label is {highest}: \
         check the number of classes"
    ))
}

fn copy<'a>(
    folder: &Path,
    files: impl Iterator<Item = &'a PathBuf>,
    target: &Path,
) -> Result<(), ImportError> {
    for file in files {
        let to = target.join(file);
        let parent = to.parent().unwrap_or(target);
        fs::create_dir_all(parent).map_err(write_failed(parent))?;
        fs::copy(folder.join(file), &to).map_err(write_failed(&to))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(root: &Path) -> PathBuf {
        let folder = root.join("dtd");
        fs::create_dir_all(folder.join("images/train800")).unwrap();
        fs::write(folder.join("images/train800/000000.jpg"), "a jpeg").unwrap();
        fs::write(folder.join("train800.txt"), "images/train800/000000.jpg 46\n").unwrap();
        fs::write(folder.join("unlisted.bin"), "not wanted").unwrap();
        folder
    }

    fn wish(name: &str) -> DatasetWish {
        DatasetWish { name: name.into(), classes: None, link: false, source: None }
    }

    #[test]
    fn classes_without_an_image_are_told() {
        assert_eq!(unseen(2, &BTreeSet::from([0, 1])), None);
        let told = unseen(5, &BTreeSet::from([0, 2])).unwrap();
        assert!(
            told.starts_with("no image is of class 1 and 2 others, but there are to be 5 classes"),
            "{told}"
        );
        assert!(unseen(2, &BTreeSet::from([0])).unwrap().contains("class 1, but"));
    }

    #[test]
    fn a_vtab_task_is_copied_with_its_class_count() {
        let root = tempfile::tempdir().unwrap();
        let (folder, home) = (folder(root.path()), Home::open(root.path().join("home")).unwrap());
        let entry = dataset(&home, &folder, &wish("vtab/dtd")).unwrap();
        assert_eq!((entry.info.classes, entry.splits.as_slice()), (47, &["train800".to_owned()][..]));
        assert!(entry.path.join("images/train800/000000.jpg").is_file());
        assert!(!entry.path.join("unlisted.bin").exists());
        assert_eq!(home.tasks(), std::slice::from_ref(&entry));

        assert_eq!(dataset(&home, &folder, &wish("vtab/dtd")).unwrap(), entry, "once more changes nothing");
        fs::write(folder.join("images/train800/000000.jpg"), "another").unwrap();
        assert!(matches!(dataset(&home, &folder, &wish("vtab/dtd")), Err(ImportError::Taken { .. })));
    }

    #[test]
    fn a_link_leaves_the_images_where_they_are() {
        let root = tempfile::tempdir().unwrap();
        let (folder, home) = (folder(root.path()), Home::open(root.path().join("home")).unwrap());
        let link = DatasetWish { link: true, classes: Some(47), ..wish("textures") };
        let entry = dataset(&home, &folder, &link).unwrap();
        assert!(entry.path.symlink_metadata().unwrap().is_symlink());
        assert!(folder.join(TASK_FILE).is_file());
        assert_eq!(dataset(&home, &folder, &link).unwrap(), entry);
        assert!(matches!(dataset(&home, &folder, &wish("textures")), Err(ImportError::Taken { .. })));
    }

    #[test]
    fn a_folder_that_describes_itself_is_believed_and_never_written_over() {
        let root = tempfile::tempdir().unwrap();
        let (folder, home) = (folder(root.path()), Home::open(root.path().join("home")).unwrap());
        let said = r#"{"classes": 47, "source": "by hand"}"#;
        fs::write(folder.join(TASK_FILE), said).unwrap();
        let link = DatasetWish { link: true, ..wish("textures") };
        let other = DatasetWish { source: Some("another".into()), ..link.clone() };
        assert!(matches!(dataset(&home, &folder, &other), Err(ImportError::Taken { .. })));
        assert_eq!(dataset(&home, &folder, &link).unwrap().info.source, "by hand");
        assert_eq!(fs::read_to_string(folder.join(TASK_FILE)).unwrap(), said);
        assert_eq!(dataset(&home, &folder, &wish("copied")).unwrap().info.source, "by hand");
    }

    #[test]
    fn what_is_wrong_is_named_and_nothing_is_left_behind() {
        let root = tempfile::tempdir().unwrap();
        let (folder, home) = (folder(root.path()), Home::open(root.path().join("home")).unwrap());
        let given = |classes| DatasetWish { classes: Some(classes), ..wish("dtd") };
        assert!(matches!(dataset(&home, &folder, &given(46)), Err(ImportError::OtherClasses { .. })));

        for (line, culprit) in [
            ("images/train800/000000.jpg 47\n", "47"),
            ("images/train800/000001.jpg 0\n", "000001.jpg"),
            ("../home 0\n", "../home"),
            ("images/train800/000000.jpg\n", "000000.jpg"),
        ] {
            fs::write(folder.join("train800.txt"), line).unwrap();
            let error = anyhow::Error::from(dataset(&home, &folder, &wish("dtd")).unwrap_err());
            assert!(format!("{error:#}").contains(culprit), "{error:#}");
        }
        std::os::unix::fs::symlink("/etc/hostname", folder.join("outside.jpg")).unwrap();
        fs::write(folder.join("train800.txt"), "outside.jpg 0\n").unwrap();
        assert!(matches!(dataset(&home, &folder, &wish("dtd")), Err(ImportError::Image { .. })));
        fs::remove_file(folder.join("train800.txt")).unwrap();
        assert!(matches!(dataset(&home, &folder, &wish("dtd")), Err(ImportError::NoSplits { .. })));

        let other = root.path().join("other");
        fs::create_dir(&other).unwrap();
        assert!(matches!(dataset(&home, &other, &wish("mine")), Err(ImportError::Classes { .. })));
        assert!(!home.datasets_folder().exists());
        assert!(matches!(dataset(&home, &folder, &wish("../x")), Err(ImportError::Home(_))));
    }
}
