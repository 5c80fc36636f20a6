//! The worker's home: the folder that holds its backbones and data sets, and what their descriptions say.
//!
//! ```text
//! HOME/backbones/NAME.safetensors   weights under the names of its family
//! HOME/backbones/NAME.json          a Sidecar
//! HOME/datasets/NAME/task.json      a TaskInfo; NAME may hold one slash
//! HOME/datasets/NAME/SPLIT.txt      label lines
//! ```
//! Names come from recipes, thus from strangers: none of them may lead out of its folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::backbone::Arch;
use crate::data::MOST_CLASSES;

/// The home folder. Opening it creates nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

/// What `backbones/NAME.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    /// Where the weights came from, for people.
    pub source: String,
    /// Of the safetensors file: 64 hexadecimal digits.
    pub sha256: String,
    pub arch: Arch,
    pub normalisation: Normalisation,
}

/// The pixel normalisation that the backbone was trained with, for pixels in 0..1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    pub mean: [f64; 3],
    pub std: [f64; 3],
}

/// What `datasets/NAME/task.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskInfo {
    /// The head's width; a small split need not hold every class.
    pub classes: u32,
    /// Where the images came from, for people.
    pub source: String,
    #[serde(default, skip_serializing_if = "Labels::is_default")]
    pub labels: Labels,
}

/// What the label files of a data set give an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Labels {
    /// A class.
    #[default]
    Classes,
    /// A label map: a class for every pixel.
    Maps,
}

impl Labels {
    fn is_default(&self) -> bool {
        *self == Labels::default()
    }
}

/// A backbone that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct BackboneEntry {
    pub name: String,
    /// The safetensors file.
    pub path: PathBuf,
    pub sidecar: Sidecar,
}

/// A data set that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskEntry {
    pub name: String,
    /// The folder that the label files lie in.
    pub path: PathBuf,
    pub info: TaskInfo,
    /// Names of the label files without `.txt`, sorted.
    pub splits: Vec<String>,
}

/// Why something of the home cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error("`{}` is not a folder; give another one with --home", .path.display())]
    NotAFolder { path: PathBuf },
    #[error("`{name}` is no name of a {kind}: {rule}")]
    Name { kind: &'static str, name: String, rule: &'static str },
    #[error("there is no {kind} `{name}` in `{}`; {}", .folder.display(), listing(.known))]
    Unknown { kind: &'static str, name: String, folder: PathBuf, known: Vec<String> },
    #[error("cannot read `{}`", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` is not a valid description", .path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("`{}` is not a valid description: {problem}", .path.display())]
    Invalid { path: PathBuf, problem: String },
}

fn listing(known: &[String]) -> String {
    match known {
        [] => "there is none at all: add one with `worker import`".to_owned(),
        known => format!("there are: {}", known.join(", ")),
    }
}

const BACKBONE: &str = "backbone";
const TASK: &str = "task";
/// The description inside a data set's folder.
pub const TASK_FILE: &str = "task.json";

impl Home {
    /// The home at `root`, which need not exist yet.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, HomeError> {
        let root = root.into();
        match fs::metadata(&root) {
            Ok(found) if !found.is_dir() => Err(HomeError::NotAFolder { path: root }),
            Ok(_) => Ok(Self { root }),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(Self { root }),
            Err(source) => Err(HomeError::Read { path: root, source }),
        }
    }

    /// Where the home is when nobody says: `$XDG_DATA_HOME/promptsweep`, else `~/.local/share/promptsweep`.
    pub fn default_path() -> Option<PathBuf> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
        Some(data.join("promptsweep"))
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn backbones_folder(&self) -> PathBuf {
        self.root.join("backbones")
    }

    pub fn datasets_folder(&self) -> PathBuf {
        self.root.join("datasets")
    }

    /// Where the weights and the sidecar of a backbone of this name belong.
    pub fn backbone_files(&self, name: &str) -> Result<(PathBuf, PathBuf), HomeError> {
        check_name(BACKBONE, name, 1)?;
        let folder = self.backbones_folder();
        Ok((folder.join(format!("{name}.safetensors")), folder.join(format!("{name}.json"))))
    }

    /// Where the data set of this name belongs.
    pub fn task_folder(&self, name: &str) -> Result<PathBuf, HomeError> {
        check_name(TASK, name, 2)?;
        Ok(self.datasets_folder().join(name))
    }

    /// One backbone. The weights are not read; their sha256 is the sidecar's word.
    pub fn backbone(&self, name: &str) -> Result<BackboneEntry, HomeError> {
        let (path, sidecar) = self.backbone_files(name)?;
        if !path.is_file() || !sidecar.is_file() {
            let known = self.backbones().into_iter().map(|entry| entry.name).collect();
            let (name, folder) = (name.to_owned(), self.backbones_folder());
            return Err(HomeError::Unknown { kind: BACKBONE, name, folder, known });
        }
        let found: Sidecar = read_json(&sidecar)?;
        found.check().map_err(|problem| HomeError::Invalid { path: sidecar, problem })?;
        Ok(BackboneEntry { name: name.to_owned(), path, sidecar: found })
    }

    /// One data set.
    pub fn task(&self, name: &str) -> Result<TaskEntry, HomeError> {
        let path = self.task_folder(name)?;
        let file = path.join(TASK_FILE);
        if !file.is_file() {
            let known = self.tasks().into_iter().map(|entry| entry.name).collect();
            let (name, folder) = (name.to_owned(), self.datasets_folder());
            return Err(HomeError::Unknown { kind: TASK, name, folder, known });
        }
        let info: TaskInfo = read_json(&file)?;
        if info.classes < 2 {
            let problem = format!("`classes` is {}, and two are the least", info.classes);
            return Err(HomeError::Invalid { path: file, problem });
        }
        if info.labels == Labels::Maps && info.classes > MOST_CLASSES {
            let problem =
                format!("`classes` is {}, and label maps hold at most {MOST_CLASSES}", info.classes);
            return Err(HomeError::Invalid { path: file, problem });
        }
        let splits = crate::data::splits(&path)
            .map_err(|error| HomeError::Invalid { path: path.clone(), problem: error.to_string() })?;
        Ok(TaskEntry { name: name.to_owned(), path, info, splits })
    }

    /// Every backbone, by name. A broken one is logged and left out.
    pub fn backbones(&self) -> Vec<BackboneEntry> {
        let names = present(stems(&self.backbones_folder(), ".safetensors"));
        let entries = names.iter().filter_map(|name| {
            let (weights, sidecar) = usable(self.backbone_files(name))?;
            if !sidecar.is_file() {
                tracing::warn!(file = %weights.display(), missing = %sidecar.display(), "backbone left out");
                return None;
            }
            usable(self.backbone(name))
        });
        entries.collect()
    }

    /// Every data set, by name. A broken one is logged and left out.
    pub fn tasks(&self) -> Vec<TaskEntry> {
        let root = self.datasets_folder();
        let mut names = Vec::new();
        for outer in present(subfolders(&root)) {
            if root.join(&outer).join(TASK_FILE).is_file() {
                names.push(outer);
                continue;
            }
            for inner in present(subfolders(&root.join(&outer))) {
                if root.join(&outer).join(&inner).join(TASK_FILE).is_file() {
                    names.push(format!("{outer}/{inner}"));
                }
            }
        }
        names.iter().filter_map(|name| usable(self.task(name))).collect()
    }
}

impl Sidecar {
    fn check(&self) -> Result<(), String> {
        if self.sha256.len() != 64 || !self.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("`sha256` is not 64 hexadecimal digits".to_owned());
        }
        let Normalisation { mean, std } = self.normalisation;
        if !mean.iter().chain(&std).all(|v| v.is_finite()) || std.iter().any(|v| *v <= 0.0) {
            return Err("`normalisation` needs finite means and positive deviations".to_owned());
        }
        self.arch.check().map_err(|problem| format!("in `arch`, {problem}"))
    }
}

/// Up to `parts` parts between slashes, none of which can be hidden, `.`, `..` or absolute.
fn check_name(kind: &'static str, name: &str, parts: usize) -> Result<(), HomeError> {
    let good_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    let rule = if name.len() > 128 {
        "it is longer than 128 characters"
    } else if name.split('/').count() > parts {
        if parts == 1 { "it holds a slash" } else { "it holds more than one slash" }
    } else if !name.split('/').all(good_part) {
        "letters, digits, `.`, `_` and `-` make one, beginning with a letter or digit"
    } else {
        return Ok(());
    };
    Err(HomeError::Name { kind, name: name.to_owned(), rule })
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, HomeError> {
    let bytes = fs::read(path).map_err(|source| HomeError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| HomeError::Parse { path: path.to_owned(), source })
}

/// Names of the files of a folder that end in `ending`, without it, sorted; those with odd names are no names.
fn stems(folder: &Path, ending: &str) -> Result<Vec<String>, HomeError> {
    entries(folder, |path| path.is_file())
        .map(|names| names.iter().filter_map(|name| Some(name.strip_suffix(ending)?.to_owned())).collect())
}

fn subfolders(folder: &Path) -> Result<Vec<String>, HomeError> {
    entries(folder, Path::is_dir)
}

fn entries(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<String>, HomeError> {
    let failed = |source| HomeError::Read { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
            && wanted(&entry.path())
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A listing in which a folder that is not there holds nothing.
fn present(listing: Result<Vec<String>, HomeError>) -> Vec<String> {
    match listing {
        Err(HomeError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => usable(other).unwrap_or_default(),
    }
}

fn usable<T>(entry: Result<T, HomeError>) -> Option<T> {
    let logged = |error: &HomeError| {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(%error, cause, "entry of the home left out");
    };
    entry.inspect_err(logged).ok()
}

/// Of a file of any size, in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vit::{self, Pool, PositionResize};

    fn sidecar() -> Sidecar {
        Sidecar {
            source: "test".into(),
            sha256: "a".repeat(64),
            arch: Arch::Vit(vit::Arch {
                dim: 8,
                depth: 1,
                heads: 2,
                patch_size: 4,
                image_size: 8,
                mlp_dim: 16,
                layer_norm_eps: 1e-6,
                layer_scale: false,
                pool: Pool::Cls,
                position_resize: PositionResize::Bicubic,
            }),
            normalisation: Normalisation { mean: [0.5; 3], std: [0.5; 3] },
        }
    }

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        fs::create_dir_all(home.backbones_folder()).unwrap();
        fs::create_dir_all(home.datasets_folder()).unwrap();
        (folder, home)
    }

    fn add_backbone(home: &Home, name: &str, description: &str) {
        let (weights, sidecar) = home.backbone_files(name).unwrap();
        fs::write(weights, b"").unwrap();
        fs::write(sidecar, description).unwrap();
    }

    fn add_task(home: &Home, name: &str, description: &str) {
        let folder = home.task_folder(name).unwrap();
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(TASK_FILE), description).unwrap();
        fs::write(folder.join("val200.txt"), "").unwrap();
        fs::write(folder.join("test.txt"), "").unwrap();
    }

    #[test]
    fn a_home_that_is_not_there_is_empty() {
        let home = Home::open("/nonexistent/home").unwrap();
        assert!(home.backbones().is_empty());
        assert!(home.tasks().is_empty());
        let error = home.task("dtd").unwrap_err().to_string();
        assert!(error.contains("`dtd`") && error.contains("worker import"), "{error}");
    }

    #[test]
    fn a_file_is_no_home() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Home::open(file.path()), Err(HomeError::NotAFolder { .. })));
    }

    #[test]
    fn entries_are_found_under_their_names() {
        let (_folder, home) = home();
        add_backbone(&home, "vit_s14", &serde_json::to_string(&sidecar()).unwrap());
        add_task(&home, "dtd", r#"{"classes": 47, "source": "s"}"#);
        add_task(&home, "elpv/type", r#"{"classes": 2, "source": "s"}"#);
        fs::create_dir_all(home.datasets_folder().join("empty/folder")).unwrap();

        assert_eq!(home.backbone("vit_s14").unwrap().sidecar, sidecar());
        assert_eq!(home.backbones(), [home.backbone("vit_s14").unwrap()]);
        let names: Vec<String> = home.tasks().into_iter().map(|task| task.name).collect();
        assert_eq!(names, ["dtd", "elpv/type"]);
        assert_eq!(home.task("elpv/type").unwrap().splits, ["test", "val200"]);
        let error = home.backbone("vit_b16").unwrap_err().to_string();
        assert!(error.contains("there are: vit_s14"), "{error}");
    }

    #[test]
    fn a_broken_entry_is_left_out_and_named_when_asked_for() {
        let (_folder, home) = home();
        add_backbone(&home, "good", &serde_json::to_string(&sidecar()).unwrap());
        add_backbone(&home, "extra", r#"{"source": "s", "colour": 1}"#);
        add_backbone(
            &home,
            "heads",
            &serde_json::to_string(&sidecar()).unwrap().replace("\"heads\":2", "\"heads\":3"),
        );
        fs::write(home.backbones_folder().join("alone.safetensors"), b"").unwrap();
        add_task(&home, "one", r#"{"classes": 1, "source": "s"}"#);

        let names: Vec<String> = home.backbones().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["good"]);
        assert!(home.tasks().is_empty());
        assert!(home.backbone("extra").unwrap_err().to_string().contains("extra.json"));
        let error = home.backbone("heads").unwrap_err().to_string();
        assert!(error.contains("heads.json") && error.contains("must divide"), "{error}");
        assert!(home.task("one").unwrap_err().to_string().contains("task.json"));
    }

    #[test]
    fn no_name_leads_out_of_its_folder() {
        let (_folder, home) = home();
        for name in
            ["", "..", "../x", "/etc/passwd", "a/../b", "a//b", "a/", "a/b", ".hidden", "a b", "a\0b", "ü"]
        {
            assert!(matches!(home.backbone(name), Err(HomeError::Name { .. })), "{name:?}");
        }
        for name in ["", "..", "a/..", "../a", "/a", "a/b/c", "a/.b", "a\\b", &"a".repeat(129)] {
            assert!(matches!(home.task(name), Err(HomeError::Name { .. })), "{name:?}");
        }
        assert!(matches!(home.task("a/b"), Err(HomeError::Unknown { .. })));
    }
}
