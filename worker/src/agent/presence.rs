//! Which agents run on a home: each holds a lock on a file of its own, `HOME/agents/PID`, for as long as it lives.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

/// Held by a running agent.
#[derive(Debug)]
pub struct Presence {
    path: PathBuf,
    _lock: File,
}

impl Presence {
    /// Says that this process is an agent of the home.
    ///
    /// # Errors
    /// When the home cannot be written to.
    pub fn announce(home: &Path) -> io::Result<Presence> {
        let folder = folder(home);
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(std::process::id().to_string());
        let lock = File::create(&path)?;
        lock.try_lock().map_err(io::Error::from)?;
        Ok(Presence { path, _lock: lock })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // One that stays is not locked, and is removed by the next who looks.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The agents of a home that run now.
///
/// # Errors
/// When the home cannot be read.
pub fn agents(home: &Path) -> io::Result<Vec<Pid>> {
    let entries = match std::fs::read_dir(folder(home)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut running = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        match File::open(&path).map(|file| file.try_lock()) {
            Ok(Err(TryLockError::WouldBlock)) => running.push(Pid::from_raw(pid)),
            Ok(_) => _ = std::fs::remove_file(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    running.sort();
    Ok(running)
}

fn folder(home: &Path) -> PathBuf {
    home.join("agents")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_there_while_it_holds_its_lock() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(agents(home.path()).unwrap(), []);
        let presence = Presence::announce(home.path()).unwrap();
        // A file that nobody holds is of an agent that was killed.
        std::fs::write(folder(home.path()).join("4000000"), "").unwrap();
        assert_eq!(agents(home.path()).unwrap(), [Pid::this()]);
        assert!(!folder(home.path()).join("4000000").exists());
        drop(presence);
        assert_eq!(agents(home.path()).unwrap(), []);
    }
}
