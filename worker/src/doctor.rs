//! Is this machine fit to train? libtorch, devices, memory, the home, and one training step that must learn.

use std::fmt;
use std::panic::catch_unwind;
use std::path::PathBuf;

use serde::Serialize;
use tch::{Kind, Reduction, Tensor};

use crate::agent;
use crate::home::{BackboneEntry, Home, sha256};
use crate::trainer::device;

/// What the doctor found.
#[derive(Debug, Serialize)]
pub struct Report {
    pub worker: &'static str,
    pub libtorch: &'static str,
    /// `cpu`, then every GPU that can be opened.
    pub devices: Vec<String>,
    /// Why there is no GPU, if there is none.
    pub no_cuda: Option<String>,
    pub memory_bytes: Option<u64>,
    pub threads: i32,
    pub home: PathBuf,
    pub backbones: Vec<String>,
    pub tasks: Vec<String>,
    /// Backbones whose file is not the one that its sidecar names, and why.
    pub damaged: Vec<String>,
    /// The device that the step ran on, or what went wrong.
    pub training_step: Result<String, String>,
}

/// Looks at everything. Broken entries of the home are logged.
pub fn examine(home: &Home) -> Report {
    let loaded = device::load_cuda();
    let gpus = tch::Cuda::device_count();
    let devices = std::iter::once("cpu".to_owned()).chain((0..gpus).map(|k| format!("cuda:{k}"))).collect();
    let no_cuda = match loaded {
        _ if gpus > 0 => None,
        Ok(()) => Some("libtorch sees no GPU; check nvidia-smi".to_owned()),
        Err(why) => Some(why),
    };
    Report {
        worker: env!("CARGO_PKG_VERSION"),
        libtorch: agent::LIBTORCH_VERSION,
        devices,
        no_cuda,
        memory_bytes: agent::host_memory(),
        threads: tch::get_num_threads(),
        home: home.root().to_owned(),
        backbones: home.backbones().into_iter().map(|entry| entry.name).collect(),
        tasks: home.tasks().into_iter().map(|entry| entry.name).collect(),
        damaged: home.backbones().iter().filter_map(damage).collect(),
        training_step: training_step(),
    }
}

/// What is wrong with a backbone's file.
fn damage(entry: &BackboneEntry) -> Option<String> {
    let BackboneEntry { name, path, sidecar } = entry;
    match sha256(path) {
        Ok(found) if found == sidecar.sha256 => None,
        Ok(found) => {
            let want = &sidecar.sha256;
            Some(format!("{name} has sha256 {found}, its sidecar says {want}; import it again"))
        }
        Err(error) => Some(format!("{name} cannot be read: {error}")),
    }
}

/// One step down the gradient of a linear classifier's loss must lower it.
fn training_step() -> Result<String, String> {
    let device = device::open("auto").map_err(|error| error.to_string())?;
    let (before, after) = catch_unwind(|| step(device))
        .map_err(|_| "libtorch panicked; the message is above".to_owned())?
        .map_err(|error| error.to_string())?;
    if after.is_finite() && after < before {
        Ok(device::name(device))
    } else {
        Err(format!("the loss went from {before} to {after} on {}", device::name(device)))
    }
}

/// The losses before and after a step on eight separable points, `x [8, 4]`, `w [4, 2]`.
fn step(device: tch::Device) -> Result<(f64, f64), tch::TchError> {
    let labels = Tensor::f_arange(8, (Kind::Int64, device))?.f_remainder(2)?;
    let x = labels.f_one_hot(2)?.f_to_kind(Kind::Float)?.f_repeat([1, 2])?;
    let mut w = Tensor::f_zeros([4, 2], (Kind::Float, device))?.f_set_requires_grad(true)?;
    let loss =
        |w: &Tensor| x.f_matmul(w)?.f_cross_entropy_loss(&labels, None::<Tensor>, Reduction::Mean, -100, 0.0);
    let before = loss(&w)?;
    before.f_backward()?;
    let gradient = w.f_grad()?;
    tch::no_grad(|| w.f_sub_(&(gradient * 0.5)).map(drop))?;
    Ok((before.f_double_value(&[])?, loss(&w)?.f_double_value(&[])?))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let memory = self.memory_bytes.map_or("unknown".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
        writeln!(f, "worker         {}, libtorch {}", self.worker, self.libtorch)?;
        writeln!(f, "devices        {}", listed(&self.devices))?;
        if let Some(why) = &self.no_cuda {
            writeln!(f, "no GPU         {why}")?;
        }
        writeln!(f, "memory         {memory}, {} threads", self.threads)?;
        writeln!(f, "home           {}", self.home.display())?;
        writeln!(f, "backbones      {}", listed(&self.backbones))?;
        writeln!(f, "tasks          {}", listed(&self.tasks))?;
        for problem in &self.damaged {
            writeln!(f, "damaged        {problem}")?;
        }
        match &self.training_step {
            Ok(device) => writeln!(f, "training step  works on {device}"),
            Err(problem) => writeln!(f, "training step  FAILED: {problem}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::Arch;
    use crate::home::{Normalisation, Sidecar};

    #[test]
    fn a_file_that_is_not_the_sidecars_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.safetensors");
        std::fs::write(&path, "weights").unwrap();
        let arch: Arch = crate::backbone::tiny::arch().into();
        let normalisation = Normalisation { mean: [0.0; 3], std: [1.0; 3] };
        let sidecar = Sidecar { source: String::new(), sha256: sha256(&path).unwrap(), arch, normalisation };
        let entry = BackboneEntry { name: "b".into(), path, sidecar };
        assert_eq!(damage(&entry), None);
        std::fs::write(&entry.path, "others").unwrap();
        assert!(damage(&entry).unwrap().contains("its sidecar says"));
        std::fs::remove_file(&entry.path).unwrap();
        assert!(damage(&entry).unwrap().starts_with("b cannot be read"));
    }

    #[test]
    fn a_step_learns_on_the_cpu() {
        let (before, after) = step(tch::Device::Cpu).unwrap();
        assert!((before - 2f64.ln()).abs() < 1e-6);
        assert!(after < before);
    }
}
