//! Opening the device that a trainer runs on.

use std::path::PathBuf;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::Device;

/// A device that cannot be had here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("`{0}` is no device; write auto, cpu, cuda or cuda:N")]
    Unknown(String),
    #[error(
        "no CUDA device can be opened ({0}); install the full libtorch (torch 2.11.0 from PyPI), put its lib folder into \
         LD_LIBRARY_PATH, and check nvidia-smi"
    )]
    NoCuda(String),
    #[error("there is no cuda:{wanted}; this machine has {count}")]
    NoSuchCuda { wanted: usize, count: usize },
}

/// Opens `auto`, `cpu`, `cuda` or `cuda:N`. `auto` is the first GPU if there is one, else the CPU.
pub fn open(name: &str) -> Result<Device, DeviceError> {
    let wanted = match name {
        "cpu" => return Ok(Device::Cpu),
        "auto" => {
            let _ = load_cuda();
            return Ok(Device::cuda_if_available());
        }
        "cuda" => 0,
        _ => name
            .strip_prefix("cuda:")
            .and_then(|n| n.parse().ok())
            .ok_or_else(|| DeviceError::Unknown(name.to_owned()))?,
    };
    let loaded = load_cuda();
    if !tch::Cuda::is_available() {
        return Err(DeviceError::NoCuda(loaded.err().unwrap_or_else(|| "no GPU was found".to_owned())));
    }
    let count = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
    if wanted >= count {
        return Err(DeviceError::NoSuchCuda { wanted, count });
    }
    Ok(Device::Cuda(wanted))
}

/// The name that [`open`] takes for a device.
pub fn name(device: Device) -> String {
    match device {
        Device::Cuda(n) => format!("cuda:{n}"),
        _ => "cpu".to_owned(),
    }
}

/// Opens the CUDA half of libtorch, whose static initialisers register the backend. The binary itself is linked to the
/// CPU half only, so that it starts on any machine.
pub fn load_cuda() -> Result<(), String> {
    let folder = std::env::var_os("LIBTORCH").map(|root| PathBuf::from(root).join("lib/libtorch_cuda.so"));
    let mut why = String::new();
    for path in std::iter::once(PathBuf::from("libtorch_cuda.so")).chain(folder) {
        // SAFETY: this is libtorch's own library, of the version that this binary is linked to; loading it runs its
        // static initialisers, which is the documented way to register a backend.
        match unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => {
                std::mem::forget(library); // kernels stay registered until the process ends
                return Ok(());
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                why = cause.unwrap_or_else(|| error.to_string());
            }
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names() {
        assert_eq!(open("cpu"), Ok(Device::Cpu));
        assert_eq!(open("tpu"), Err(DeviceError::Unknown("tpu".to_owned())));
        assert_eq!(open("cuda:x"), Err(DeviceError::Unknown("cuda:x".to_owned())));
        assert_eq!(name(Device::Cuda(1)), "cuda:1");
    }
}
