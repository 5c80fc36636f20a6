//! What workers offer and what trials need. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sweeps::Recipe;
use sweeps::spec::Resources;

/// What `resources.gpu` asks for: a GPU, whatever its memory, which not every driver tells.
const ANY_GPU_MIB: u64 = 1;

/// What a worker says that it can run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Offer {
    pub backbones: Vec<Backbone>,
    pub tasks: Vec<Task>,
    pub methods: Vec<String>,
    pub devices: Vec<Device>,
    pub libtorch_version: String,
    pub worker_version: String,
    /// What the worker's owner says about it: `gpu: a100`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Weights that a worker has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backbone {
    pub name: String,
    pub sha256: String,
    pub depth: u32,
    pub dim: u32,
    /// As [`sweeps::recipe::Family::name`]; empty: not told.
    #[serde(default)]
    pub family: String,
}

/// A data set that a worker has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub name: String,
    pub classes: u32,
    pub splits: Vec<String>,
}

/// A device that a worker trains on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub kind: String,
    pub name: String,
    pub memory_bytes: u64,
}

/// What a trial asks of a worker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Need {
    pub backbone: String,
    pub task: String,
    /// Those of the task that are read: to train, to score, to test.
    pub splits: BTreeSet<String>,
    pub method: String,
    /// Of every GPU of the worker, in MiB; 0: any device will do.
    pub gpu_memory_mib: u64,
    /// Labels that the worker must have.
    pub labels: BTreeMap<String, String>,
}

/// A backbone and a task that a slot has in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warm {
    pub backbone: String,
    pub task: String,
}

impl Warm {
    /// Whether a trial of that need finds everything loaded.
    pub fn serves(&self, need: &Need) -> bool {
        self.backbone == need.backbone && self.task == need.task
    }
}

impl Need {
    /// What another recipe asks for, on a worker with the same resources.
    pub fn with(&self, recipe: &Recipe) -> Self {
        let resources = Resources { gpu_memory_mib: self.gpu_memory_mib, labels: self.labels.clone() };
        Self::of(recipe, &resources)
    }

    /// What a recipe asks for, on a worker with these resources.
    pub fn of(recipe: &Recipe, resources: &Resources) -> Self {
        let split = &recipe.split;
        Self {
            backbone: recipe.backbone.clone(),
            task: recipe.task.clone(),
            splits: [&split.train, &split.eval].into_iter().chain(&split.test).cloned().collect(),
            method: recipe.method.name().to_owned(),
            gpu_memory_mib: resources.gpu_memory_mib,
            labels: resources.labels.clone(),
        }
    }
}

impl Offer {
    /// What is missing to run a trial with that need, as words; empty when nothing is. The one rule of who may lease
    /// what: a trial is only given to a worker that lacks nothing.
    pub fn lacks(&self, need: &Need) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.backbones.iter().any(|backbone| backbone.name == need.backbone) {
            missing.push(format!("backbone {}", need.backbone));
        }
        match self.tasks.iter().find(|task| task.name == need.task) {
            None => missing.push(format!("task {}", need.task)),
            Some(task) => {
                let absent = need.splits.iter().filter(|split| !task.splits.contains(split));
                missing.extend(absent.map(|split| format!("split {split} of task {}", need.task)));
            }
        }
        if !self.methods.contains(&need.method) {
            missing.push(format!("method {}", need.method));
        }
        missing.extend(self.lacking_memory(need.gpu_memory_mib));
        for (key, value) in &need.labels {
            match self.labels.get(key) {
                Some(own) if own == value => {}
                Some(own) => missing.push(format!("label {key}={value} (it has {key}={own})")),
                None => missing.push(format!("label {key}={value}")),
            }
        }
        missing
    }

    /// Any of the worker's devices may get the trial, so the smallest decides.
    fn lacking_memory(&self, wanted_mib: u64) -> Option<String> {
        if wanted_mib == 0 {
            return None;
        }
        let memory_mib = |device: &Device| if device.kind == "cuda" { device.memory_bytes >> 20 } else { 0 };
        let smallest = self.devices.iter().min_by_key(|device| (device.kind == "cuda", memory_mib(device)));
        if wanted_mib == ANY_GPU_MIB {
            let other = smallest.filter(|device| device.kind != "cuda").map(|device| &device.name);
            return match other {
                Some(name) => Some(format!("a GPU for every slot (one has {name})")),
                None => smallest.is_none().then(|| "a GPU".to_owned()),
            };
        }
        let wanted = format!("{wanted_mib} MiB of GPU memory");
        let Some(smallest) = smallest else { return Some(wanted) };
        let has = memory_mib(smallest);
        (has < wanted_mib).then(|| format!("{wanted} ({} has {has} MiB)", smallest.name))
    }

    /// Whether nothing is missing.
    pub fn fits(&self, need: &Need) -> bool {
        self.lacks(need).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_everything_that_is_missing() {
        let offer = Offer {
            backbones: vec![Backbone {
                name: "b".into(),
                sha256: String::new(),
                depth: 12,
                dim: 384,
                family: String::new(),
            }],
            tasks: vec![Task { name: "t".into(), classes: 2, splits: vec!["train".into(), "val".into()] }],
            methods: vec!["linear".into()],
            ..Offer::default()
        };
        let need = |backbone: &str, task: &str, method: &str| Need {
            backbone: backbone.into(),
            task: task.into(),
            splits: ["train".to_owned(), "val".to_owned()].into(),
            method: method.into(),
            gpu_memory_mib: 0,
            labels: BTreeMap::new(),
        };
        assert!(offer.fits(&need("b", "t", "linear")));
        assert_eq!(offer.lacks(&need("b", "t", "gated")), ["method gated"]);
        assert_eq!(offer.lacks(&need("x", "y", "linear")), ["backbone x", "task y"]);
        let tested =
            Need { splits: ["test".to_owned(), "val".to_owned()].into(), ..need("b", "t", "linear") };
        assert_eq!(offer.lacks(&tested), ["split test of task t"]);
        assert!(!offer.fits(&tested));
    }

    #[test]
    fn names_the_memory_and_the_labels_that_are_missing() {
        let cuda =
            |name: &str, gib: u64| Device { kind: "cuda".into(), name: name.into(), memory_bytes: gib << 30 };
        let need = |gib: u64, labels: &[(&str, &str)]| Need {
            backbone: String::new(),
            task: String::new(),
            splits: BTreeSet::new(),
            method: String::new(),
            gpu_memory_mib: gib << 10,
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        };
        let mut offer = Offer {
            devices: vec![cuda("cuda:0", 24), cuda("cuda:1", 16)],
            labels: BTreeMap::from([("gpu".into(), "a10".into())]),
            ..Offer::default()
        };
        let lacks = |offer: &Offer, need: &Need| offer.lacks(need).split_off(3);
        assert!(lacks(&offer, &need(16, &[("gpu", "a10")])).is_empty());
        assert_eq!(lacks(&offer, &need(20, &[])), ["20480 MiB of GPU memory (cuda:1 has 16384 MiB)"]);
        let labels = [("gpu", "a100"), ("site", "x")];
        assert_eq!(lacks(&offer, &need(0, &labels)), ["label gpu=a100 (it has gpu=a10)", "label site=x"]);
        offer.devices = vec![Device { kind: "cpu".into(), name: "cpu".into(), memory_bytes: 64 << 30 }];
        assert_eq!(lacks(&offer, &need(1, &[])), ["1024 MiB of GPU memory (cpu has 0 MiB)"]);
        let any = Need { gpu_memory_mib: ANY_GPU_MIB, ..need(0, &[]) };
        assert_eq!(lacks(&offer, &any), ["a GPU for every slot (one has cpu)"]);
        offer.devices = vec![cuda("cuda:0", 0)];
        assert!(lacks(&offer, &any).is_empty(), "its driver does not tell its memory");
        offer.devices.clear();
        assert_eq!(lacks(&offer, &need(1, &[])), ["1024 MiB of GPU memory"]);
    }
}
