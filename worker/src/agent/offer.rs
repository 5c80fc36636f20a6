//! What the worker offers to the coordinator: what its home holds, what it can train, what it runs on.

use std::collections::HashMap;
use std::time::Duration;

use proto::v1::{Backbone, Capabilities, Device, Task};
use sweeps::recipe::METHODS;

use crate::home::Home;
use crate::trainer::CODE;

/// The libtorch that the trainers are linked to; it moves together with the `tch` dependency.
pub const LIBTORCH_VERSION: &str = "2.11.0";

/// A sick driver does not answer.
const SMI_LIMIT: Duration = Duration::from_secs(10);

/// Everything but the devices, which only the trainers can open. The labels are the owner's.
pub fn capabilities(home: &Home, labels: HashMap<String, String>) -> Capabilities {
    let backbone = |entry: crate::home::BackboneEntry| Backbone {
        name: entry.name,
        sha256: entry.sidecar.sha256,
        depth: entry.sidecar.arch.depth(),
        dim: entry.sidecar.arch.dim(),
        family: entry.sidecar.arch.family().name().to_owned(),
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
        worker_version: CODE.to_owned(),
        labels,
    }
}

/// A device as a trainer names it (`cpu`, `cuda:0`), for the coordinator.
pub(super) async fn device(name: &str) -> Device {
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    let memory_bytes = match kind {
        "cuda" => gpu_memory(index).await,
        _ => host_memory(),
    };
    let memory_bytes = memory_bytes.unwrap_or(0);
    Device { kind: kind.to_owned(), name: name.to_owned(), memory_bytes }
}

/// The memory of a GPU in bytes, as `nvidia-smi` tells it, which comes with the driver. `None`: it cannot tell, and
/// sweeps that ask for memory are not leased here.
async fn gpu_memory(index: &str) -> Option<u64> {
    // CUDA counts the visible GPUs, nvidia-smi all of them.
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let gpu = visible_gpu(&visible, index)?;
    let mut command = tokio::process::Command::new("nvidia-smi");
    command.args(["--query-gpu=memory.total", "--format=csv,noheader,nounits", "-i", gpu]).kill_on_drop(true);
    let output = tokio::time::timeout(SMI_LIMIT, command.output()).await.ok()?.ok()?;
    let mib: u64 = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
    mib.checked_mul(1 << 20)
}

/// What `CUDA_VISIBLE_DEVICES` calls the GPU that CUDA calls `index`.
fn visible_gpu<'a>(visible: &'a str, index: &'a str) -> Option<&'a str> {
    if visible.is_empty() {
        return Some(index);
    }
    visible.split(',').nth(index.parse().ok()?).map(str::trim)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_gpus_are_counted_as_cuda_does() {
        assert_eq!(visible_gpu("", "1"), Some("1"));
        assert_eq!(visible_gpu("3, GPU-8932f937,5", "1"), Some("GPU-8932f937"));
        assert_eq!(visible_gpu("3", "1"), None);
    }
}
