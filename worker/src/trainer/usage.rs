//! What a run cost.

use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use tch::Device;

use super::run::Metrics;

/// Started before a run, read in it and after it.
#[derive(Debug)]
pub(super) struct Meter {
    wall: Instant,
    cpu: f64,
}

impl Meter {
    pub(super) fn start() -> Meter {
        // Linux: 5 resets the peak (VmHWM), so that it is this run's own. Elsewhere the peak is the process's.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Meter { wall: Instant::now(), cpu: cpu_seconds() }
    }

    /// `seconds/wall`; `seconds/cpu` (user + system of this process) or, on a GPU, `seconds/gpu` (how long the run held
    /// it).
    pub(super) fn seconds(&self, device: Device) -> Metrics {
        let wall = self.wall.elapsed().as_secs_f64();
        let held = match device {
            Device::Cpu => ("seconds/cpu".to_owned(), cpu_seconds() - self.cpu),
            _ => ("seconds/gpu".to_owned(), wall),
        };
        Metrics::from([("seconds/wall".to_owned(), wall), held])
    }
}

/// `memory/peak_mib` (resident host memory), where the kernel says it.
pub(super) fn peak_memory() -> Option<(String, f64)> {
    peak_mib().map(|peak| ("memory/peak_mib".to_owned(), peak))
}

fn cpu_seconds() -> f64 {
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 * 1e-6;
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |u| seconds(u.user_time()) + seconds(u.system_time()))
}

fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
}
