//! Where a sweep file came from: the commit of the git tree around it. Recorded, never interpreted.

use std::path::Path;
use std::process::{Command, Stdio};

use proto::v1::Provenance;

/// What is known of the file's origin. Without `git`, or outside a git tree, that is the client's version alone.
pub(crate) fn of(file: &Path) -> Provenance {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let commit = git(folder, &["rev-parse", "--verify", "--quiet", "HEAD"]).unwrap_or_default();
    let is_dirty = !commit.is_empty()
        && git(folder, &["status", "--porcelain"]).is_some_and(|status| !status.is_empty());
    Provenance {
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        git_commit: commit,
        git_dirty: is_dirty,
    }
}

/// The output of a git command without the newline at its end; `None` when it failed.
fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(arguments)
        // `status` would otherwise refresh the index and take a lock that the user's own git may need.
        .env("GIT_OPTIONAL_LOCKS", "0")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_a_git_tree_has_its_commit_and_whether_it_is_dirty() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sweep.yaml");
        std::fs::write(&file, "version: 1\n").expect("a file");
        assert_eq!(of(&file).git_commit, "", "no git tree yet");

        let run = |arguments: &[&str]| {
            let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
            git(folder.path(), &[&identity, arguments].concat()).expect("git works")
        };
        run(&["init", "--quiet"]);
        assert_eq!(of(&file).git_commit, "", "no commit yet");
        run(&["add", "."]);
        run(&["commit", "--quiet", "--no-gpg-sign", "-m", "first"]);
        let clean = of(&file);
        assert_eq!((clean.git_commit.len(), clean.git_dirty), (40, false));
        std::fs::write(&file, "version: 1\nname: x\n").expect("a change");
        assert!(of(&file).git_dirty);
    }
}
