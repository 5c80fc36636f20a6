//! Writes libtorch's folder into the binaries (RUNPATH), so that they start without any environment variable.
//! LD_LIBRARY_PATH still wins over it: that is how a GPU node offers its full libtorch.
//!
//! And digests what the worker is made of, so that equal results can be told from those of other code.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Everything that a result can depend on; the versions of dependencies are in the lock file.
const SOURCES: &[&str] = &["src", "Cargo.toml", "../sweeps/src", "../Cargo.lock"];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if let Ok(libtorch) = std::env::var("LIBTORCH") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
    }
    let mut digest = Sha256::new();
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
        add(&mut digest, Path::new(source))?;
    }
    let digest: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    println!("cargo::rustc-env=SOURCES_DIGEST={digest}");
    Ok(())
}

/// A file with its path, or all files below a folder, in the order of their names.
fn add(digest: &mut Sha256, path: &Path) -> io::Result<()> {
    if path.is_dir() {
        let mut entries: Vec<PathBuf> =
            path.read_dir()?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
        entries.sort();
        return entries.iter().try_for_each(|entry| add(digest, entry));
    }
    let content = std::fs::read(path)?;
    for part in [path.as_os_str().as_encoded_bytes(), &content] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    Ok(())
}
