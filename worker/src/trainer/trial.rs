//! A trial with its assets at hand: what every phase works on.

use sweeps::recipe::{self, Recipe};
use tch::{Kind, Tensor};

use super::attendant::Attendant;
use super::checkpoint::{self, CheckpointError, Position};
use super::ensemble::{Ensemble, Setup};
use super::error::TrialError;
use super::inputs::{Frozen, Inputs};
use super::metrics::Scores;
use super::optim::{Member, Rule};
use super::run::{Job, Metrics};
use super::session::Session;
use crate::backbone::Backbone;

pub(super) struct Trial<'a> {
    pub job: &'a Job,
    pub frozen: Frozen,
    pub train: Inputs,
    pub eval: Inputs,
    pub ensemble: Ensemble,
    pub at: Position,
    /// What its checkpoints are told apart by.
    pub fingerprint: String,
    classes: i64,
}

impl<'a> Trial<'a> {
    pub(super) fn prepare(job: &'a Job, session: &mut Session) -> Result<Trial<'a>, TrialError> {
        let recipe = &job.recipe;
        let (backbone, identity, sha256) = session.backbone(&recipe.backbone)?;
        check(recipe, &backbone)?;
        let task = session.task(&recipe.task)?;
        let classes = i64::from(task.info.classes);

        let (rule, member) = optimiser(job);
        let setup = Setup {
            method: &recipe.method,
            head: recipe.head_init,
            classes,
            image_size: i64::from(recipe.image_size),
            rule,
            members: &[member],
            kept: None,
        };
        let ensemble = Ensemble::new(&backbone, &setup);
        let frozen = Frozen {
            backbone,
            identity,
            sha256,
            normalization: recipe.normalization,
            entry: ensemble.entry(),
            device: session.device(),
        };
        let train = session.inputs(recipe, &task, &recipe.split.train, &frozen)?;
        let images = |index: &[i64]| train.images(&Tensor::from_slice(index));
        ensemble.prepare(&frozen.backbone, &setup, train.len(), &images);
        let eval = session.inputs(recipe, &task, &recipe.split.eval, &frozen)?;
        let fingerprint = checkpoint::fingerprint(job, &frozen.identity, &train.split.sha256);
        Ok(Trial { job, frozen, train, eval, ensemble, at: Position::default(), fingerprint, classes })
    }

    /// Goes to where a checkpoint was written. After an error the trial is in no state that can be used.
    pub(super) fn restore(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        let (position, contents) = checkpoint::read(&self.fingerprint, bytes)?;
        checkpoint::restore(&mut self.ensemble, &position, &contents)?;
        self.at = position;
        Ok(())
    }

    /// Trainable parameters, and their percentage of backbone + tuned (VPT, appendix).
    pub(super) fn figures(&self) -> Metrics {
        let trainable = self.ensemble.trainable() as f64;
        let total = self.ensemble.total(&self.frozen.backbone) as f64;
        Metrics::from([
            ("params/trainable".to_owned(), trainable),
            ("params/percent".to_owned(), 100.0 * trainable / total),
        ])
    }

    /// Which order of the images the epoch takes.
    pub(super) fn order(&self) -> u64 {
        self.at.epochs.len() as u64
    }

    /// One training step on the images at `index`; the sum of their losses before it, float64 on the device.
    pub(super) fn step(&mut self, index: &Tensor, lr: f64) -> Tensor {
        let (x, labels) = self.train.batch(index);
        let losses = self.ensemble.train_step(&self.frozen.backbone, x, &labels.unsqueeze(0), &[lr]);
        losses.get(0).to_kind(Kind::Double) * index.size()[0] as f64
    }

    /// Scores of a split. `None`: the run is to leave.
    pub(super) fn score(&self, inputs: &Inputs, prefix: &str, attendant: &dyn Attendant) -> Option<Metrics> {
        let mut scores = Scores::new(1, self.classes, &self.ensemble.params()[0].value);
        for (x, labels) in inputs.in_order() {
            if attendant.is_leaving() {
                return None;
            }
            scores.add(&self.ensemble.evaluate(&self.frozen.backbone, &x), &labels);
        }
        Some(scores.of(0, prefix))
    }
}

/// The update rule of a job, and its settings.
pub(crate) fn optimiser(job: &Job) -> (Rule, Member) {
    let recipe = &job.recipe;
    let (rule, momentum) = match recipe.optimizer {
        recipe::Optimizer::Sgd { momentum } => (Rule::Sgd, momentum),
        recipe::Optimizer::AdamW { beta1, beta2, eps } => (Rule::AdamW { beta1, beta2, eps }, 0.0),
        recipe::Optimizer::AdamWVpt { beta1, beta2, eps } => (Rule::AdamWVpt { beta1, beta2, eps }, 0.0),
    };
    let wd_head = recipe.wd_head.unwrap_or(recipe.wd);
    (rule, Member { seed: job.seed, wd: recipe.wd, wd_head, momentum })
}

/// Checks a recipe against the backbone that is there.
pub(crate) fn check(recipe: &Recipe, backbone: &Backbone) -> Result<(), TrialError> {
    let arch = backbone.arch();
    recipe.check_family(arch.family()).map_err(TrialError::invalid)?;
    recipe.check_depth(arch.depth()).map_err(TrialError::invalid)?;
    recipe.check_width(arch.dim()).map_err(TrialError::invalid)?;
    arch.check_image_size(i64::from(recipe.image_size)).map_err(TrialError::invalid)?;
    if let Some(vit) = backbone.vit() {
        let grid = recipe.image_size / vit.arch().patch_size;
        recipe.check_patches(grid * grid).map_err(TrialError::invalid)?;
    }
    Ok(())
}
