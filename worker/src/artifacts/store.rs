//! A folder or bucket of artifacts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use url::Url;

/// Where artifacts lie. What is written appears whole or not at all, and stays when the machine loses power.
#[derive(Debug, Clone)]
pub struct Artifacts {
    store: Arc<dyn ObjectStore>,
    /// Ends in a slash; the URL of everything in it begins with it.
    root: Url,
    /// The part of `root` that the store itself does not know.
    prefix: Key,
    runtime: Arc<tokio::runtime::Runtime>,
}

/// One attempt of one trial, as artifacts are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub sweep: String,
    pub trial: i64,
    pub attempt: u32,
}

/// Why an artifact cannot be kept or had.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("`{location}` is neither a folder nor a URL of a store: {why}")]
    Location { location: String, why: String },
    #[error("`{url}` does not lie in this worker's artifacts, which are in `{root}`")]
    Elsewhere { url: String, root: Url },
    #[error("failed to write `{url}`")]
    Write { url: String, source: object_store::Error },
    #[error("failed to read `{url}`")]
    Read { url: String, source: object_store::Error },
    #[error("failed to delete `{url}`")]
    Delete { url: String, source: object_store::Error },
    #[error("failed to start")]
    Runtime(#[from] std::io::Error),
}

impl Place {
    fn key(&self, kind: &str) -> String {
        let Place { sweep, trial, attempt } = self;
        format!("{sweep}/trial-{trial}/attempt-{attempt}.{kind}safetensors")
    }

    /// Of the tuned tensors.
    pub fn tuned(&self) -> String {
        self.key("")
    }

    /// Of the checkpoint: the newer takes the older one's place.
    pub fn checkpoint(&self) -> String {
        self.key("checkpoint.")
    }

    /// Of the end of the training before pruning, for other trials.
    pub fn prefix(&self) -> String {
        self.key("prefix.")
    }
}

impl Artifacts {
    /// A folder, which is made when it is missing, or the URL of one in a store that this build knows (`file://`; with
    /// the features of the same names `s3://`, `gs://`, `az://`, their credentials being taken from the environment).
    pub fn open(location: &str) -> Result<Artifacts, StoreError> {
        let wrong = |why: String| StoreError::Location { location: location.to_owned(), why };
        let runtime = Arc::new(tokio::runtime::Builder::new_current_thread().enable_all().build()?);
        let url = match Url::parse(location) {
            Ok(url) => url,
            Err(_) => {
                let path = std::path::absolute(location).map_err(|error| wrong(error.to_string()))?;
                Url::from_directory_path(&path).map_err(|()| wrong("it is no absolute path".to_owned()))?
            }
        };
        let mut root = url;
        if !root.path().ends_with('/') {
            root.set_path(&format!("{}/", root.path()));
        }
        if root.scheme() == "file" {
            let folder = root.to_file_path().map_err(|()| wrong("it is no path".to_owned()))?;
            std::fs::create_dir_all(&folder).map_err(|error| wrong(error.to_string()))?;
            let store =
                LocalFileSystem::new_with_prefix(&folder).map_err(|error| wrong(error.to_string()))?;
            let store: Arc<dyn ObjectStore> = Arc::new(store.with_fsync(true));
            return Ok(Artifacts { store, root, prefix: Key::default(), runtime });
        }
        let (store, prefix) = object_store::parse_url_opts(&root, std::env::vars().map(lowercase_name))
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Artifacts { store: store.into(), root, prefix, runtime })
    }

    /// Where artifacts lie when nobody says.
    pub fn default_folder(home: &Path) -> PathBuf {
        home.join("artifacts")
    }

    /// Writes an object, in the place of an older one if there is one; gives its URL.
    pub fn put(&self, name: &str, bytes: Vec<u8>) -> Result<String, StoreError> {
        let url = format!("{}{name}", self.root);
        let written = self.runtime.block_on(self.store.put(&self.key(name), PutPayload::from(bytes)));
        written.map(|_| url.clone()).map_err(|source| StoreError::Write { url, source })
    }

    /// Reads the object that a `put`, here or on another worker with the same root, gave this URL.
    pub fn get(&self, url: &str) -> Result<Vec<u8>, StoreError> {
        let Some(name) = url.strip_prefix(self.root.as_str()) else {
            return Err(StoreError::Elsewhere { url: url.to_owned(), root: self.root.clone() });
        };
        let read = async { self.store.get(&self.key(name)).await?.bytes().await };
        let bytes = self.runtime.block_on(read);
        bytes.map(Vec::from).map_err(|source| StoreError::Read { url: url.to_owned(), source })
    }

    /// Deletes an object. One that is not there is as good as deleted.
    pub fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.runtime.block_on(self.store.delete(&self.key(name))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(StoreError::Delete { url: format!("{}{name}", self.root), source }),
        }
    }

    fn key(&self, name: &str) -> Key {
        name.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), |key, part| key.join(part))
    }
}

/// Options of stores are named like environment variables, in lower case.
fn lowercase_name((name, value): (String, String)) -> (String, String) {
    (name.to_lowercase(), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { sweep: "k3f9".into(), trial: 17, attempt: 2 }
    }

    #[test]
    fn what_is_put_is_had_under_its_url() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b").join("artifacts");
        let artifacts = Artifacts::open(path.to_str().unwrap()).unwrap();
        let url = artifacts.put(&place().tuned(), b"first".to_vec()).unwrap();
        assert!(
            url.starts_with("file:///") && url.ends_with("/k3f9/trial-17/attempt-2.safetensors"),
            "{url}"
        );
        artifacts.put(&place().tuned(), b"second".to_vec()).unwrap();
        let again = Artifacts::open(&format!("file://{}", path.display()).replace(' ', "%20")).unwrap();
        assert_eq!(again.get(&url).unwrap(), b"second");
        assert_eq!(std::fs::read(path.join(place().tuned())).unwrap(), b"second");
        artifacts.delete(&place().tuned()).unwrap();
        artifacts.delete(&place().tuned()).unwrap();
        assert!(matches!(again.get(&url), Err(StoreError::Read { .. })));
    }

    #[test]
    fn what_lies_elsewhere_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(folder.path().to_str().unwrap()).unwrap();
        let error = artifacts.get("file:///etc/hostname").unwrap_err();
        assert!(matches!(error, StoreError::Elsewhere { .. }), "{error}");
        let up = format!("file://{}/../secret", folder.path().display());
        assert!(artifacts.get(&up).is_err());
    }

    #[test]
    fn a_store_that_is_not_known_is_named() {
        let error = Artifacts::open("gopher://x/y").unwrap_err().to_string();
        assert!(error.contains("`gopher://x/y`"), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Artifacts::open(file.path().to_str().unwrap()), Err(StoreError::Location { .. })));
    }
}
