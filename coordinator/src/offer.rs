//! What workers offer and what trials need. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sweeps::Recipe;

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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Need {
    pub backbone: String,
    pub task: String,
    /// Those of the task that are read: to train, to score, to test.
    pub splits: BTreeSet<String>,
    pub method: String,
}

impl Need {
    /// What a recipe asks for.
    pub fn of(recipe: &Recipe) -> Self {
        let split = &recipe.split;
        Self {
            backbone: recipe.backbone.clone(),
            task: recipe.task.clone(),
            splits: [&split.train, &split.eval].into_iter().chain(&split.test).cloned().collect(),
            method: recipe.method.name().to_owned(),
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
            tasks: vec![Task { name: "t".into(), classes: 2, splits: vec!["train".into(), "val".into()] }],
            methods: vec!["linear".into()],
            ..Offer::default()
        };
        let need = |backbone: &str, task: &str, method: &str| Need {
            backbone: backbone.into(),
            task: task.into(),
            splits: ["train".to_owned(), "val".to_owned()].into(),
            method: method.into(),
        };
        assert!(offer.fits(&need("b", "t", "linear")));
        assert_eq!(offer.lacks(&need("b", "t", "gated")), ["method gated"]);
        assert_eq!(offer.lacks(&need("x", "y", "linear")), ["backbone x", "task y"]);
        let tested =
            Need { splits: ["test".to_owned(), "val".to_owned()].into(), ..need("b", "t", "linear") };
        assert_eq!(offer.lacks(&tested), ["split test of task t"]);
        assert!(!offer.fits(&tested));
    }
}
