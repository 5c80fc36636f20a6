//! A trial with its assets at hand: what every phase works on.

use std::cell::Cell;

use sweeps::recipe::{self, Recipe};
use tch::{Device, Kind, Tensor};

use super::attendant::Attendant;
use super::checkpoint::{self, CheckpointError, Position};
use super::ensemble::{Ensemble, Setup};
use super::error::TrialError;
use super::inputs::{Frozen, Inputs};
use super::memory;
use super::metrics::Scores;
use super::optim::{Member, Rule};
use super::order::Order;
use super::prune::Pruned;
use super::rewind::Snapshots;
use super::run::{Job, Metrics};
use super::samples::Samples;
use super::session::Session;
use crate::backbone::Backbone;
use crate::data;
use crate::dense::Scale;
use crate::home::{Labels, TaskEntry};
use crate::tuning::{Kept, stream};

pub(super) struct Trial<'a> {
    pub job: &'a Job,
    pub frozen: Frozen,
    pub train: Samples,
    pub eval: Samples,
    pub ensemble: Ensemble,
    pub at: Position,
    /// What its checkpoints are told apart by.
    pub fingerprint: String,
    /// What was taken out of the prompts, once it was.
    pub pruned: Option<Pruned>,
    /// Values to go back to, of this trial or of others.
    pub snapshots: Snapshots,
    /// What it has in common with others: what the checkpoints of that are told by.
    pub prefix: Option<String>,
    classes: i64,
}

impl<'a> Trial<'a> {
    /// `start`: stands for the tensors that it will be given, if it will.
    pub(super) fn prepare(
        job: &'a Job,
        start: Option<&str>,
        session: &mut Session,
    ) -> Result<Trial<'a>, TrialError> {
        let recipe = &job.recipe;
        let (backbone, identity, sha256) = session.backbone(&recipe.backbone)?;
        check(recipe, &backbone)?;
        let task = session.task(&recipe.task)?;
        check_task(recipe, &task)?;
        recipe.check_classes(task.info.classes).map_err(TrialError::invalid)?;
        let classes = i64::from(task.info.classes);

        let (rule, member) = optimiser(recipe, job.seed);
        let members = [member];
        let setup = setup(recipe, classes, rule, &members, None);
        let ensemble = Ensemble::new(&backbone, &setup);
        if let (Some(vit), Device::Cpu) = (backbone.vit(), session.device()) {
            memory::check(recipe, vit.arch(), task.info.classes, ensemble.entry(), data::free_memory())?;
        }
        let frozen = Frozen {
            backbone,
            identity,
            sha256,
            normalization: recipe.normalization,
            entry: ensemble.entry(),
            device: session.device(),
        };
        let train = session.samples(recipe, &task, &recipe.split.train, &frozen)?;
        check_images_of_classes(recipe, classes, &train)?;
        prepare_from(&train, &ensemble, &frozen, &setup, job)?;
        let eval = session.samples(recipe, &task, &recipe.split.eval, &frozen)?;
        let fingerprint = checkpoint::fingerprint(job, &frozen.identity, train.sha256());
        let at = Position::default();
        let images = (train.sha256(), eval.sha256());
        let prefix = checkpoint::prefix(job, start, &frozen.identity, images);
        let (pruned, snapshots) = (None, Snapshots::new());
        Ok(Trial { job, frozen, train, eval, ensemble, at, fingerprint, pruned, snapshots, prefix, classes })
    }

    /// A new ensemble for the recipe, with what pruning has left of its prompts.
    pub(super) fn build(&self, seed: i64, kept: Option<&Kept>) -> Ensemble {
        let (rule, member) = optimiser(&self.job.recipe, seed);
        Ensemble::new(&self.frozen.backbone, &setup(&self.job.recipe, self.classes, rule, &[member], kept))
    }

    /// Goes to where a checkpoint was written. After an error the trial is in no state that can be used.
    pub(super) fn restore(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        let runs: Vec<&str> = [Some(&self.fingerprint), self.prefix.as_ref()]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let (position, contents) = checkpoint::read(&runs, bytes)?;
        self.pruned = Pruned::read(&contents.tensors);
        self.snapshots = checkpoint::snapshots(&contents, self.frozen.device);
        if let Some(epoch) = self.rewinds_to()
            && self.pruned.is_none()
            && (position.phase > 0 || position.epoch >= epoch)
            && !self.snapshots.contains_key(&epoch)
        {
            return Err(CheckpointError::Epoch { epoch });
        }
        if let (Some(pruned), Some(how)) = (&self.pruned, &self.job.recipe.pruning) {
            self.ensemble = self.build(self.seed_after(how), Some(&pruned.kept));
        }
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

    /// The images of the epoch that the trial is in.
    pub(super) fn order(&self) -> Order {
        let Recipe { batch_size, epoch_steps, .. } = self.job.recipe;
        Order::new(self.job.seed, self.at.epochs.len() as u64, self.train.len(), batch_size, epoch_steps)
    }

    /// One training step on the images at `index`; the sum of their losses before it, float64 on the device.
    pub(super) fn step(&mut self, index: &Tensor, lr: f64) -> Result<Tensor, TrialError> {
        let (x, labels) = match &self.train {
            Samples::Labelled(inputs) => inputs.batch(index),
            Samples::Mapped(scenes) => {
                let position = self.ensemble.optimizer().steps() * u64::from(self.job.recipe.batch_size);
                let index = Vec::<i64>::try_from(index).expect("a vector of indices");
                scenes.crops(&index, self.job.seed, position)?
            }
        };
        let losses = self.ensemble.train_step(&self.frozen.backbone, x, &labels.unsqueeze(0), &[lr]);
        Ok(losses.get(0).to_kind(Kind::Double) * index.size()[0] as f64)
    }

    /// Scores of a split, pixels at a single scale. `None`: the run is to leave.
    pub(super) fn score(
        &self,
        samples: &Samples,
        prefix: &str,
        attendant: &dyn Attendant,
    ) -> Result<Option<Metrics>, TrialError> {
        self.score_at(Scale::SINGLE, samples, prefix, "", attendant)
    }

    /// As [`Trial::score`], pixels at several scales. The names of what is predicted have an ending; the loss is that of a
    /// single scale alone.
    pub(super) fn score_at(
        &self,
        scales: &[Scale],
        samples: &Samples,
        prefix: &str,
        ending: &str,
        attendant: &dyn Attendant,
    ) -> Result<Option<Metrics>, TrialError> {
        let scenes = match samples {
            Samples::Mapped(scenes) => scenes,
            Samples::Labelled(inputs) => {
                let mut scores = Scores::new(1, self.classes, &self.ensemble.params()[0].value);
                for (x, labels) in inputs.in_order() {
                    if attendant.is_leaving() {
                        return Ok(None);
                    }
                    scores.add(&self.ensemble.evaluate(&self.frozen.backbone, &x), &labels);
                }
                return Ok(Some(scores.of(0, prefix)));
            }
        };
        let see = |window: &Tensor| see(&self.ensemble, &self.frozen, window);
        let scores = scenes.score(scales, &see, attendant)?;
        let named = |scores: Metrics| {
            let wanted = scores.into_iter().filter(|(name, _)| ending.is_empty() || name != "loss");
            wanted.map(|(name, value)| (format!("{prefix}/{name}{ending}"), value)).collect()
        };
        Ok(scores.map(named))
    }
}

/// Logits `[C, S, S]` of a window `[3, S, S]`, normalised.
pub(super) fn see(ensemble: &Ensemble, frozen: &Frozen, window: &Tensor) -> Tensor {
    ensemble.evaluate(&frozen.backbone, &window.unsqueeze(0)).get(0).get(0)
}

/// Sets what starts from training images, as training sees them.
fn prepare_from(
    train: &Samples,
    ensemble: &Ensemble,
    frozen: &Frozen,
    setup: &Setup<'_>,
    job: &Job,
) -> Result<(), TrialError> {
    let failed = Cell::new(None);
    let images = |index: &[i64]| match train {
        Samples::Labelled(inputs) => inputs.images(&Tensor::from_slice(index)),
        Samples::Mapped(scenes) => {
            let side = setup.image_size;
            let position = index.first().map_or(0, |first| first.unsigned_abs());
            scenes
                .crops(index, stream(job.seed, "spt", 0), position)
                .map(|(images, _)| images)
                .unwrap_or_else(|error| {
                    failed.set(Some(error));
                    Tensor::zeros([index.len() as i64, 3, side, side], frozen.backbone.options())
                })
        }
    };
    let labels = match train {
        Samples::Labelled(inputs) => Some(&inputs.split.labels),
        Samples::Mapped(_) => None,
    };
    ensemble.prepare(&frozen.backbone, setup, train.len(), labels, &images);
    failed.take().map_or(Ok(()), Err)
}

/// Checks that the head labels what the task has labels of.
fn check_task(recipe: &Recipe, task: &TaskEntry) -> Result<(), TrialError> {
    let message = match (task.info.labels, &recipe.setr) {
        (Labels::Maps, None) => {
            "has label maps, and `head: linear` labels whole images: use `head: setr_pup`"
        }
        (Labels::Classes, Some(_)) => "has a label for each image, and `head: setr_pup` needs label maps",
        _ => return Ok(()),
    };
    Err(TrialError::invalid(format!("task: `{}` {message}", task.name)))
}

/// The update rule of a recipe, and its settings for one member.
fn optimiser(recipe: &Recipe, seed: i64) -> (Rule, Member) {
    let (rule, momentum) = match recipe.optimizer {
        recipe::Optimizer::Sgd { momentum } => (Rule::Sgd, momentum),
        recipe::Optimizer::AdamW { beta1, beta2, eps } => (Rule::AdamW { beta1, beta2, eps }, 0.0),
        recipe::Optimizer::AdamWVpt { beta1, beta2, eps } => (Rule::AdamWVpt { beta1, beta2, eps }, 0.0),
    };
    (rule, Member { seed, wd: recipe.wd, wd_head: recipe.wd_head.unwrap_or(recipe.wd), momentum })
}

/// What an ensemble for the recipe is made from.
pub(super) fn setup<'a>(
    recipe: &'a Recipe,
    classes: i64,
    rule: Rule,
    members: &'a [Member],
    kept: Option<&'a Kept>,
) -> Setup<'a> {
    let (method, head, image_size) = (&recipe.method, recipe.head_init, i64::from(recipe.image_size));
    Setup { method, head, setr: recipe.setr.as_ref(), classes, image_size, rule, members, kept }
}

/// Prompts of classes need an image of each class to be made of.
fn check_images_of_classes(recipe: &Recipe, classes: i64, train: &Samples) -> Result<(), TrialError> {
    let (recipe::Method::Vpt(vpt), task) = (&recipe.method, &recipe.task) else { return Ok(()) };
    if !vpt.init.is_of_classes() {
        return Ok(());
    }
    let Samples::Labelled(Inputs { split, .. }) = train else {
        let message = "prompt_init: prompts of classes are means over the images of a class, but pixels have the classes here";
        return Err(TrialError::invalid(message));
    };
    let counts: Vec<i64> =
        Vec::try_from(split.labels.bincount(None::<&Tensor>, classes)).map_err(TrialError::invalid)?;
    match counts.iter().position(|&count| count == 0) {
        None => Ok(()),
        Some(class) => Err(TrialError::invalid(format!(
            "prompt_init: class {class} of `{task}` has no image in `{}` to make its prompt of",
            recipe.split.train
        ))),
    }
}

/// Checks a recipe against the backbone that is there.
pub(super) fn check(recipe: &Recipe, backbone: &Backbone) -> Result<(), TrialError> {
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
