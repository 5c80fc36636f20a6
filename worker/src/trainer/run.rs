//! One trial, in the order in which it happens: assets, phases, figures.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use sweeps::recipe::{Pruning, Recipe, RewindLr};
use tch::{Kind, Tensor};

use super::attendant::Attendant;
use super::checkpoint;
use super::error::{TrialError, chain};
use super::order::Order;
use super::schedule::{Moment, learning_rate};
use super::session::Session;
use super::trial::Trial;
use super::tuned::{Tuned, TunedError};
use super::usage;
use crate::dense::Scale;
use crate::protocol::FailureClass;

/// A trial to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub recipe: Recipe,
    pub seed: i64,
}

/// Metrics by name.
pub type Metrics = BTreeMap<String, f64>;

/// How a run ended that did not fail.
#[derive(Debug)]
pub enum Outcome {
    /// It has come to its end; the final metrics go with what it has tuned.
    Finished(Box<Tuned>),
    /// It was asked to stop, and has given its attendant a last checkpoint.
    Left,
}

/// A part of a trial. A trial is a list of them over one state.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Epochs of training, each followed by a pass over the eval split.
    Train { epochs: u32, schedule: Span },
    /// Scores the prompts, takes some out, and goes back.
    Prune(Pruning),
    /// One pass over the test split.
    Test(Look),
}

/// How test images are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// As those of the eval split.
    Once,
    /// In all sizes of `scales`, and mirrored.
    Scales,
}

/// The part of a learning-rate schedule that a phase runs through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    /// Its first epoch.
    from: u32,
    /// Epochs of the whole schedule.
    of: u32,
}

fn phases(recipe: &Recipe) -> Vec<Phase> {
    let whole = Span { from: 0, of: recipe.epochs };
    let mut phases = match recipe.pruning {
        None => vec![Phase::Train { epochs: recipe.epochs, schedule: whole }],
        Some(how) => {
            let schedule = match how.lr {
                RewindLr::Restart => Span { from: 0, of: how.epochs },
                RewindLr::Continue => Span { from: how.base(), ..whole },
            };
            let again = Phase::Train { epochs: how.epochs, schedule };
            vec![Phase::Train { epochs: how.prune_at, schedule: whole }, Phase::Prune(how), again]
        }
    };
    if recipe.split.test.is_some() {
        phases.push(Phase::Test(Look::Once));
        let has_scales = recipe.setr.as_ref().is_some_and(|setr| !setr.scales.is_empty());
        phases.extend(has_scales.then_some(Phase::Test(Look::Scales)));
    }
    phases
}

/// Whether a phase has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Done,
    Left,
}

/// Runs a trial to its end, or until `attendant` asks it to leave. `from` is the latest checkpoint of an earlier attempt;
/// one that is damaged or belongs to another run is left alone, with a warning, and the trial begins anew. Wherever a
/// run is cut, what it ends with is the same to the bit.
///
/// Metrics: `train/loss`; `val/…` of the last epoch and `test/…` once at the end, each `top1`, `top5`, `per_class` in
/// percent and `loss`, or where pixels are labelled `miou`, `accuracy`, `mean_accuracy` and `loss`, and `test/miou_ms`, … at
/// several scales; of trials that prune `dense/…`, `pruned/…`, `prompts/…` and `params/effective`; `images_per_second`
/// of training; `seconds/wall` and `seconds/cpu` or `seconds/gpu`, of all attempts together; `memory/peak_mib` of the
/// process; `params/trainable` and `params/percent` (of backbone + tuned).
pub fn run(
    job: &Job,
    from: Option<&[u8]>,
    session: &mut Session,
    attendant: &mut dyn Attendant,
) -> Result<Outcome, TrialError> {
    run_from(job, None, from, session, attendant)
}

/// As [`run`]; instead of at random, training starts from what another trial of the same method has tuned.
pub fn run_from(
    job: &Job,
    start: Option<&Tuned>,
    from: Option<&[u8]>,
    session: &mut Session,
    attendant: &mut dyn Attendant,
) -> Result<Outcome, TrialError> {
    catch_unwind(AssertUnwindSafe(|| {
        let meter = usage::Meter::start();
        let mut trial = prepare(job, start, session)?;
        if let Some(bytes) = from {
            trial = resume(trial, bytes, (job, start), session, attendant)?;
        }
        for (index, metrics) in (1..).zip(&trial.at.epochs) {
            attendant.epoch(index, metrics);
        }
        let mut run = Run { trial, session, attendant, meter };
        match run.phases()? {
            Flow::Done => Ok(Outcome::Finished(Box::new(run.finish()))),
            Flow::Left => Ok(Outcome::Left),
        }
    }))
    .unwrap_or_else(|panic| Err(TrialError::from_panic(panic.as_ref())))
}

fn prepare<'a>(job: &'a Job, start: Option<&Tuned>, session: &mut Session) -> Result<Trial<'a>, TrialError> {
    let mut trial = Trial::prepare(job, start.map(|tuned| tuned.digest.as_str()), session)?;
    if let Some(tuned) = start {
        let unfit = |error: TunedError| {
            let message = format!("it cannot start from what the chosen trial tuned: {}", chain(&error));
            TrialError::new(FailureClass::InvalidConfig, message)
        };
        tuned.check_backbone(&trial.frozen.sha256).map_err(unfit)?;
        tuned.give_to(&trial.ensemble).map_err(unfit)?;
    }
    if job.recipe.pruning.is_some() {
        trial.remember(&[0]); // what it starts from, for those too that have its beginning in common
    }
    Ok(trial)
}

/// Brings a trial to its checkpoint. If that cannot be, a fresh one takes its place.
fn resume<'a>(
    mut trial: Trial<'a>,
    bytes: &[u8],
    (job, start): (&'a Job, Option<&Tuned>),
    session: &mut Session,
    attendant: &mut dyn Attendant,
) -> Result<Trial<'a>, TrialError> {
    match trial.restore(bytes) {
        Ok(()) => {
            let (epochs, step) = (trial.at.epochs.len(), trial.at.step);
            attendant.note(&format!("going on from a checkpoint: {epochs} epochs and {step} steps are done"));
            Ok(trial)
        }
        Err(error) => {
            attendant.note(&format!("the checkpoint is of no use, beginning anew: {}", chain(&error)));
            prepare(job, start, session)
        }
    }
}

/// A trial in motion.
struct Run<'a, 'r> {
    trial: Trial<'a>,
    session: &'r mut Session,
    attendant: &'r mut dyn Attendant,
    meter: usage::Meter,
}

impl Run<'_, '_> {
    fn phases(&mut self) -> Result<Flow, TrialError> {
        let phases = phases(&self.trial.job.recipe);
        while let Some(phase) = phases.get(self.trial.at.phase) {
            let flow = match *phase {
                Phase::Train { epochs, schedule } => self.train(epochs, schedule)?,
                Phase::Prune(how) => self.prune(&how)?,
                Phase::Test(look) => self.test(look)?,
            };
            if flow == Flow::Left {
                return Ok(flow);
            }
            let at = &mut self.trial.at;
            (at.phase, at.epoch, at.step, at.loss) = (at.phase + 1, 0, 0, 0.0);
            if at.phase == 1 && self.attendant.keeps().is_some() {
                self.share();
            }
        }
        Ok(Flow::Done)
    }

    /// Gives the attendant the end of the training before pruning, for trials that have it in common. What it cost is this
    /// trial's alone.
    fn share(&mut self) {
        let Some(prefix) = &self.trial.prefix else { return };
        let mut at = self.trial.at.clone();
        at.steps = self.trial.ensemble.optimizer().steps();
        at.spent.clear();
        match checkpoint::write(prefix, &at, &self.trial.ensemble, None, &self.trial.snapshots) {
            Ok(bytes) => self.attendant.share(bytes),
            Err(error) => self.attendant.note(&format!("nothing is shared: {}", chain(&error))),
        }
    }

    fn train(&mut self, epochs: u32, schedule: Span) -> Result<Flow, TrialError> {
        let (mut images, clock, mut evaluating) = (0, Instant::now(), 0.0);
        while self.trial.at.epoch < epochs {
            let epoch = self.trial.at.epoch;
            let mut order = self.trial.order();
            let Some(seen) = self.train_epoch(&mut order, schedule)? else { return Ok(Flow::Left) };
            images += seen;
            let seconds = clock.elapsed().as_secs_f64() - evaluating;
            let loss = self.trial.at.loss / order.seen() as f64;
            let count = self.trial.at.epochs.len() as u32 + 1;
            check_finite("training", loss, count)?;
            let begun = Instant::now();
            let Some(mut metrics) = self.trial.score(&self.trial.eval, "val", self.attendant)? else {
                self.checkpoint();
                return Ok(Flow::Left);
            };
            evaluating += begun.elapsed().as_secs_f64();
            check_finite("validation", metrics["val/loss"], count)?;
            metrics.insert("train/loss".to_owned(), loss);
            if images > 0 {
                metrics.insert("images_per_second".to_owned(), images as f64 / seconds);
            }
            let at = &mut self.trial.at;
            (at.epoch, at.step, at.loss) = (epoch + 1, 0, 0.0);
            at.epochs.push(metrics.clone());
            self.attendant.epoch(at.epochs.len() as u32, &metrics);
            at.metrics.extend(metrics);
            self.trial.remember(self.attendant.keeps().unwrap_or_default());
        }
        Ok(Flow::Done)
    }

    fn prune(&mut self, how: &Pruning) -> Result<Flow, TrialError> {
        match self.trial.prune(how, self.attendant)? {
            Some(metrics) => {
                self.trial.at.metrics.extend(metrics);
                Ok(Flow::Done)
            }
            None => {
                self.checkpoint();
                Ok(Flow::Left)
            }
        }
    }

    /// The steps that are left of an epoch, and how many images they saw. `None`: the run is to leave, and a checkpoint is
    /// written.
    fn train_epoch(&mut self, order: &mut Order, schedule: Span) -> Result<Option<i64>, TrialError> {
        let recipe = &self.trial.job.recipe;
        let steps = order.steps();
        let mut total =
            Tensor::from(self.trial.at.loss).to_kind(Kind::Double).to_device(self.trial.frozen.device);
        let mut seen = 0;
        while self.trial.at.step < steps {
            if self.attendant.is_leaving() || self.attendant.is_checkpoint_due() {
                self.trial.at.loss = total.double_value(&[]);
                self.checkpoint();
                if self.attendant.is_leaving() {
                    return Ok(None);
                }
            }
            let at = &self.trial.at;
            let moment =
                Moment { epoch: schedule.from + at.epoch, step: at.step, steps, epochs: schedule.of };
            let index = order.batch(at.step);
            total += self.trial.step(&index, learning_rate(recipe.schedule, recipe.lr, moment))?;
            self.trial.at.step += 1;
            seen += index.size()[0];
        }
        self.trial.at.loss = total.double_value(&[]);
        Ok(Some(seen))
    }

    fn test(&mut self, look: Look) -> Result<Flow, TrialError> {
        let recipe = &self.trial.job.recipe;
        let Some(split) = &recipe.split.test else { return Ok(Flow::Done) };
        let task = self.session.task(&recipe.task)?;
        let samples = self.session.samples(recipe, &task, split, &self.trial.frozen)?;
        let scales = recipe.setr.as_ref().map(|setr| Scale::with_mirror_images(&setr.scales));
        let metrics = match (look, scales) {
            (Look::Scales, Some(scales)) => {
                self.trial.score_at(&scales, &samples, "test", "_ms", self.attendant)?
            }
            _ => self.trial.score(&samples, "test", self.attendant)?,
        };
        let Some(metrics) = metrics else {
            self.checkpoint();
            return Ok(Flow::Left);
        };
        if let Some(&loss) = metrics.get("test/loss") {
            check_finite("test", loss, recipe.epochs)?;
        }
        self.trial.at.metrics.extend(metrics);
        Ok(Flow::Done)
    }

    /// Gives the attendant a checkpoint of here and now.
    fn checkpoint(&mut self) {
        let mut at = self.trial.at.clone();
        at.steps = self.trial.ensemble.optimizer().steps();
        at.spent = self.spent();
        let Trial { fingerprint, ensemble, pruned, snapshots, .. } = &self.trial;
        match checkpoint::write(fingerprint, &at, ensemble, pruned.as_ref(), snapshots) {
            Ok(bytes) => self.attendant.checkpoint(bytes, at.epochs.len() as u32),
            Err(error) => self.attendant.note(&format!("no checkpoint: {}", chain(&error))),
        }
    }

    /// Seconds of this attempt and those before it.
    fn spent(&self) -> Metrics {
        let mut spent = self.meter.seconds(self.session.device());
        for (name, before) in &self.trial.at.spent {
            *spent.entry(name.clone()).or_default() += before;
        }
        spent
    }

    fn finish(self) -> Tuned {
        let mut metrics = self.trial.figures();
        metrics.extend(self.spent());
        metrics.extend(self.trial.at.metrics.clone());
        metrics.extend(usage::peak_memory());
        let Trial { job, frozen, ensemble, pruned, .. } = &self.trial;
        Tuned::of(job, &frozen.sha256, ensemble, pruned.as_ref(), &metrics)
    }
}

/// A loss that is not finite ends the trial: it has diverged.
fn check_finite(what: &str, loss: f64, epoch: u32) -> Result<(), TrialError> {
    if loss.is_finite() {
        return Ok(());
    }
    Err(TrialError::new(FailureClass::Diverged, format!("the {what} loss became {loss} in epoch {epoch}")))
}
