//! A small disk of the test's own, which can be full.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs; taken away again when dropped.
pub(crate) struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// Mounts it, which root may, or who may be root by sudo.
    pub(crate) fn new(mebibytes: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let user = user();
        let options = format!("size={mebibytes}m,mode=0700,uid={user}");
        let done = as_root(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs"], folder.path());
        assert!(
            done,
            "a small disk cannot be mounted: run this as root, or with sudo that asks for no password"
        );
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Leaves no room.
    pub(crate) fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.filler()).unwrap();
        for block in [1 << 20, 1 << 12] {
            while file.write_all(&vec![0; block]).is_ok() {}
        }
    }

    pub(crate) fn make_room(&self) {
        let _ = std::fs::remove_file(self.filler());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        as_root(&["umount", "--lazy"], self.path());
    }
}

/// Whose this process is.
fn user() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

fn as_root(command: &[&str], folder: &Path) -> bool {
    let mut words = command.to_vec();
    if user() != 0 {
        words.splice(0..0, ["sudo", "--non-interactive"]);
    }
    let status = Command::new(words[0]).args(&words[1..]).arg(folder).status();
    status.is_ok_and(|status| status.success())
}
