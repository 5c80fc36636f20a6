//! One trial, in the order in which it happens: assets, phases, figures.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use sweeps::recipe::{self, Recipe};
use tch::{Device, Kind, Tensor};

use super::ensemble::{Ensemble, Member};
use super::error::TrialError;
use super::inputs::{Frozen, Inputs};
use super::metrics::Scores;
use super::optim::Rule;
use super::session::Session;
use super::state::State;
use super::{factor, usage};
use crate::protocol::FailureClass;
use crate::tuning::{seeded, stream};

/// A trial to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub recipe: Recipe,
    pub seed: i64,
}

/// Metrics by name.
pub type Metrics = BTreeMap<String, f64>;

/// A part of a trial. A trial is a list of them over one [`State`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Epochs of training, each followed by a pass over the eval split.
    Train { epochs: u32 },
    /// One pass over the test split.
    Test,
}

fn phases(recipe: &Recipe) -> Vec<Phase> {
    let test = recipe.split.test.as_ref().map(|_| Phase::Test);
    std::iter::once(Phase::Train { epochs: recipe.epochs }).chain(test).collect()
}

/// Runs a trial to its end. `on_epoch` is told the metrics of each epoch, counted from 1; the final ones are returned.
///
/// Metrics: `train/loss`; `val/…` of the last epoch and `test/…` once at the end, each `top1`, `top5`, `per_class` in
/// percent and `loss`; `images_per_second` of training; `seconds/wall` and `seconds/cpu` or `seconds/gpu`;
/// `memory/peak_mib` of the process; `params/trainable` and `params/percent` (of backbone + tuned).
pub fn run(
    job: &Job,
    session: &mut Session,
    on_epoch: &mut dyn FnMut(u32, &Metrics),
) -> Result<Metrics, TrialError> {
    catch_unwind(AssertUnwindSafe(|| {
        let started = usage::Meter::start();
        let mut trial = Trial::prepare(job, session)?;
        let mut metrics = trial.figures();
        for (index, phase) in phases(&job.recipe).into_iter().enumerate() {
            trial.state = State { phase: index, epoch: 0 };
            match phase {
                Phase::Train { epochs } => metrics.extend(trial.train(epochs, on_epoch)?),
                Phase::Test => metrics.extend(trial.test(session)?),
            }
        }
        metrics.extend(started.read(session.device()));
        Ok(metrics)
    }))
    .unwrap_or_else(|panic| Err(TrialError::from_panic(panic.as_ref())))
}

/// A trial with its assets at hand.
struct Trial<'a> {
    job: &'a Job,
    frozen: Frozen,
    train: Inputs,
    eval: Inputs,
    ensemble: Ensemble,
    state: State,
    classes: i64,
}

impl<'a> Trial<'a> {
    fn prepare(job: &'a Job, session: &mut Session) -> Result<Trial<'a>, TrialError> {
        let recipe = &job.recipe;
        let (backbone, identity) = session.backbone(&recipe.backbone)?;
        recipe.check_family(backbone.arch().family()).map_err(TrialError::invalid)?;
        recipe.check_depth(backbone.arch().depth()).map_err(TrialError::invalid)?;
        backbone.arch().check_image_size(i64::from(recipe.image_size)).map_err(TrialError::invalid)?;
        let task = session.task(&recipe.task)?;
        let classes = i64::from(task.info.classes);

        let (rule, momentum) = match recipe.optimizer {
            recipe::Optimizer::Sgd { momentum } => (Rule::Sgd, momentum),
            recipe::Optimizer::AdamW { beta1, beta2, eps } => (Rule::AdamW { beta1, beta2, eps }, 0.0),
        };
        let member = Member { seed: job.seed, wd: recipe.wd, momentum };
        let device = session.device();
        let ensemble = Ensemble::new(
            backbone.arch(),
            &recipe.method,
            recipe.head_init,
            classes,
            rule,
            &[member],
            Kind::Float,
            device,
        );
        let frozen = Frozen {
            backbone,
            identity,
            normalization: recipe.normalization,
            entry: ensemble.entry(),
            device,
        };
        let train = session.inputs(recipe, &task, &recipe.split.train, &frozen)?;
        let eval = session.inputs(recipe, &task, &recipe.split.eval, &frozen)?;
        Ok(Trial { job, frozen, train, eval, ensemble, state: State::default(), classes })
    }

    /// Trainable parameters, and their percentage of backbone + tuned (VPT, appendix).
    fn figures(&self) -> Metrics {
        let trainable = self.ensemble.trainable() as f64;
        let frozen = self.frozen.backbone.arch().parameters() as f64;
        Metrics::from([
            ("params/trainable".to_owned(), trainable),
            ("params/percent".to_owned(), 100.0 * trainable / (frozen + trainable)),
        ])
    }

    fn train(&mut self, epochs: u32, on_epoch: &mut dyn FnMut(u32, &Metrics)) -> Result<Metrics, TrialError> {
        let (mut metrics, mut seconds) = (Metrics::new(), 0.0);
        while self.state.epoch < epochs {
            let lr = self.job.recipe.lr * factor(self.job.recipe.schedule, self.state.epoch, epochs);
            let clock = Instant::now();
            let loss = self.train_epoch(lr);
            seconds += clock.elapsed().as_secs_f64();
            self.state.epoch += 1;
            check_finite("training", loss, self.state.epoch)?;
            metrics = self.score(&self.eval, "val");
            check_finite("validation", metrics["val/loss"], self.state.epoch)?;
            metrics.insert("train/loss".to_owned(), loss);
            let images = self.train.len() as f64 * f64::from(self.state.epoch);
            metrics.insert("images_per_second".to_owned(), images / seconds);
            on_epoch(self.state.epoch, &metrics);
        }
        Ok(metrics)
    }

    /// One pass over the training images in a new random order; returns the mean loss over images.
    fn train_epoch(&mut self, lr: f64) -> f64 {
        let n = self.train.len();
        let order = seeded(stream(self.job.seed, "order", u64::from(self.state.epoch)), || {
            Tensor::randperm(n, (Kind::Int64, Device::Cpu))
        });
        let mut total = Tensor::zeros([], (Kind::Double, self.frozen.device));
        for index in order.split(i64::from(self.job.recipe.batch_size), 0) {
            let (x, labels) = self.train.batch(&index);
            let losses = self.ensemble.train_step(&self.frozen.backbone, x, &labels.unsqueeze(0), &[lr]);
            total += losses.get(0).to_kind(Kind::Double) * index.size()[0] as f64;
        }
        total.double_value(&[]) / n as f64
    }

    fn score(&self, inputs: &Inputs, prefix: &str) -> Metrics {
        let mut scores = Scores::new(1, self.classes, &self.ensemble.params()[0].value);
        for (x, labels) in inputs.in_order() {
            scores.add(&self.ensemble.evaluate(&self.frozen.backbone, &x), &labels);
        }
        scores.of(0, prefix)
    }

    fn test(&self, session: &mut Session) -> Result<Metrics, TrialError> {
        let recipe = &self.job.recipe;
        let Some(split) = &recipe.split.test else { return Ok(Metrics::new()) };
        let task = session.task(&recipe.task)?;
        let inputs = session.inputs(recipe, &task, split, &self.frozen)?;
        let metrics = self.score(&inputs, "test");
        check_finite("test", metrics["test/loss"], recipe.epochs)?;
        Ok(metrics)
    }
}

/// A loss that is not finite ends the trial: it has diverged.
fn check_finite(what: &str, loss: f64, epoch: u32) -> Result<(), TrialError> {
    if loss.is_finite() {
        return Ok(());
    }
    Err(TrialError::new(FailureClass::Diverged, format!("the {what} loss became {loss} in epoch {epoch}")))
}
