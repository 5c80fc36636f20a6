//! What the worker offers to the coordinator: what its home holds, what it can train, what it runs on.

use proto::v1::{Backbone, Capabilities, Device, Task};
use sweeps::recipe::METHODS;

use crate::home::Home;

/// The libtorch that the trainers are linked to; it moves together with the `tch` dependency.
pub const LIBTORCH_VERSION: &str = "2.11.0";

/// Everything but the devices, which only the trainers can open.
pub fn capabilities(home: &Home) -> Capabilities {
    let backbone = |entry: crate::home::BackboneEntry| Backbone {
        name: entry.name,
        sha256: entry.sidecar.sha256,
        depth: entry.sidecar.arch.depth(),
        dim: entry.sidecar.arch.dim(),
    };
    let task = |entry: crate::home::TaskEntry| Task {
        name: entry.name,
        classes: entry.info.classes,
        splits: entry.splits,
    };
    Capabilities {
        backbones: home.backbones().into_iter().map(backbone).collect(),
        tasks: home.tasks().into_iter().map(task).collect(),
        methods: METHODS.iter().map(|&name| name.to_owned()).collect(),
        devices: Vec::new(),
        libtorch_version: LIBTORCH_VERSION.to_owned(),
        worker_version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: Default::default(),
    }
}

/// A device as a trainer names it (`cpu`, `cuda:0`), for the coordinator.
pub(super) fn device(name: &str) -> Device {
    let kind = name.split(':').next().unwrap_or(name);
    let memory_bytes = if kind == "cpu" { host_memory().unwrap_or(0) } else { 0 };
    Device { kind: kind.to_owned(), name: name.to_owned(), memory_bytes }
}

/// The machine's memory in bytes.
pub(crate) fn host_memory() -> Option<u64> {
    let lines = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = lines.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB"))?;
    Some(kib.trim().parse::<u64>().ok()? * 1024)
}

/// The machine's name, for people.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "worker".to_owned() } else { name.trim().to_owned() }
}
