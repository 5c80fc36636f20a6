//! What a trial has tuned, as an artifact: its tensors without the member axis, and everything that it takes to use them.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use sweeps::recipe::{Recipe, RecipeError};
use tch::Tensor;

use super::ensemble::Ensemble;
use super::prune::{self, Pruned};
use super::run::{Job, Metrics};
use crate::artifacts::{Contents, FileError};
use crate::tuning::Kept;

const FORMAT: &str = "promptsweep artifact 1";

/// The tuned tensors of one trial.
#[derive(Debug)]
pub struct Tuned {
    pub recipe: Recipe,
    pub seed: i64,
    /// Of the backbone's file.
    pub backbone_sha256: String,
    pub metrics: Metrics,
    /// Of the file that it was read from; empty: it is not from a file.
    pub digest: String,
    /// By canonical name, float32 on the CPU: `prompt [n, P, D]`, `head.weight [C, D]`, …
    pub tensors: BTreeMap<String, Tensor>,
}

/// A file that holds no tuned tensors that can be used here.
#[derive(Debug, thiserror::Error)]
pub enum TunedError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("its recipe is not one that this version reads")]
    Recipe(#[from] RecipeError),
    #[error("its metrics cannot be read")]
    Metrics(#[from] serde_json::Error),
    #[error(
        "it was tuned on `{backbone}` with sha256 {tuned_on}, but `{backbone}` here has {here}: import the weights that it was tuned on"
    )]
    Backbone { backbone: String, tuned_on: String, here: String },
    #[error("its tensor `{name}` is missing or has another shape than its recipe says")]
    Tensor { name: String },
}

impl Tuned {
    /// The tensors of the only member of an ensemble.
    pub(super) fn of(
        job: &Job,
        backbone_sha256: &str,
        ensemble: &Ensemble,
        pruned: Option<&Pruned>,
        metrics: &Metrics,
    ) -> Tuned {
        let own = |tensor: &Tensor| tensor.get(0).detach().copy();
        let mut tensors: BTreeMap<String, Tensor> =
            ensemble.saved().into_iter().map(|param| (param.name, own(&param.value))).collect();
        tensors.extend(pruned.map(Pruned::tensors).unwrap_or_default());
        Tuned {
            recipe: job.recipe.clone(),
            seed: job.seed,
            backbone_sha256: backbone_sha256.to_owned(),
            metrics: metrics.clone(),
            digest: String::new(),
            tensors,
        }
    }

    /// The file's bytes. `notes` are further metadata: who made it, as which attempt.
    ///
    /// # Errors
    /// When a tensor is of a type that cannot be written.
    pub fn encode(self, notes: &[(&str, String)]) -> Result<Vec<u8>, TunedError> {
        let said = [
            ("recipe", self.recipe.to_json()),
            ("seed", self.seed.to_string()),
            ("backbone", self.recipe.backbone.clone()),
            ("backbone_sha256", self.backbone_sha256),
            ("task", self.recipe.task.clone()),
            ("method", self.recipe.method.name().to_owned()),
            ("metrics", serde_json::to_string(&self.metrics)?),
        ];
        let metadata = said.into_iter().chain(notes.iter().cloned());
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).collect();
        Ok(Contents { tensors: self.tensors, metadata }.encode(FORMAT)?)
    }

    /// # Errors
    /// Bytes that are no artifact, or one of a recipe that this version does not know.
    pub fn decode(bytes: &[u8]) -> Result<Tuned, TunedError> {
        let contents = Contents::decode(bytes, FORMAT)?;
        Ok(Tuned {
            recipe: Recipe::from_json(&contents.value::<String>("recipe")?)?,
            seed: contents.value("seed")?,
            backbone_sha256: contents.value("backbone_sha256")?,
            metrics: serde_json::from_str(&contents.value::<String>("metrics")?)?,
            digest: Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
            tensors: contents.tensors,
        })
    }

    /// What pruning has left of its prompts; `None`: it was not pruned.
    pub(super) fn kept(&self) -> Option<Kept> {
        prune::read_kept(&self.tensors)
    }

    /// Scores of its prompts and which stay, as a trial's report has them; `None`: it was not pruned.
    pub(super) fn pruning(&self) -> Option<String> {
        Some(Pruned::read(&self.tensors)?.report(self.recipe.method.first_block()))
    }

    /// Number of classes of the head.
    ///
    /// # Errors
    /// When there is no head.
    pub fn classes(&self) -> Result<i64, TunedError> {
        let name = if self.recipe.setr.is_some() { "head.classes.bias" } else { "head.bias" };
        let bias = self.tensors.get(name).filter(|bias| bias.dim() == 1);
        bias.map(|bias| bias.size()[0]).ok_or_else(|| TunedError::Tensor { name: name.to_owned() })
    }

    /// # Errors
    /// When it was tuned on other weights than those that are here.
    pub(super) fn check_backbone(&self, here: &str) -> Result<(), TunedError> {
        if self.backbone_sha256 == here {
            return Ok(());
        }
        let (backbone, tuned_on) = (self.recipe.backbone.clone(), self.backbone_sha256.clone());
        Err(TunedError::Backbone { backbone, tuned_on, here: here.to_owned() })
    }

    /// Gives the tensors to every member of an ensemble that was made from the same method.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn give_to(&self, ensemble: &Ensemble) -> Result<(), TunedError> {
        for param in ensemble.saved() {
            let found = self.tensors.get(&param.name).filter(|found| found.size() == param.value.size()[1..]);
            let found = found.ok_or_else(|| TunedError::Tensor { name: param.name.clone() })?;
            tch::no_grad(|| param.value.shallow_clone().copy_(&found.unsqueeze(0).expand_as(&param.value)));
        }
        Ok(())
    }
}
