//! What workers offer and what trials need. Pure.

use serde::{Deserialize, Serialize};

/// What a worker says that it can run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Offer {
    pub backbones: Vec<Backbone>,
    pub tasks: Vec<Task>,
    pub methods: Vec<String>,
    pub devices: Vec<Device>,
    pub libtorch_version: String,
    pub worker_version: String,
}

/// Weights that a worker has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backbone {
    pub name: String,
    pub sha256: String,
    pub depth: u32,
    pub dim: u32,
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Need {
    pub backbone: String,
    pub task: String,
    pub method: String,
}

impl Offer {
    /// What is missing to run a trial with that need, as words; empty when nothing is.
    pub fn lacks(&self, need: &Need) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.backbones.iter().any(|backbone| backbone.name == need.backbone) {
            missing.push(format!("backbone {}", need.backbone));
        }
        if !self.tasks.iter().any(|task| task.name == need.task) {
            missing.push(format!("task {}", need.task));
        }
        if !self.methods.contains(&need.method) {
            missing.push(format!("method {}", need.method));
        }
        missing
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
            backbones: vec![Backbone { name: "b".into(), sha256: String::new(), depth: 12, dim: 384 }],
            tasks: vec![Task { name: "t".into(), classes: 2, splits: vec![] }],
            methods: vec!["linear".into()],
            ..Offer::default()
        };
        let need = |backbone: &str, task: &str, method: &str| Need {
            backbone: backbone.into(),
            task: task.into(),
            method: method.into(),
        };
        assert!(offer.fits(&need("b", "t", "linear")));
        assert_eq!(offer.lacks(&need("b", "t", "gated")), ["method gated"]);
        assert_eq!(offer.lacks(&need("x", "y", "linear")), ["backbone x", "task y"]);
    }
}
