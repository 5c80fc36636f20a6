//! Trains and scores one segmentation: `worker segment`.

use std::path::PathBuf;

use sweeps::recipe::{Fidelity, HeadInit, Location, Method, Preprocessing, Recipe};
use tch::{Device, Kind, Tensor};

use super::folder::{Folder, FolderError, Sample};
use super::segmenter::{Making, Segmenter};
use super::windows::{Scale, Sliding};
use super::{Confusion, Cropping};
use crate::backbone::{Arch, Backbone};
use crate::data;
use crate::trainer::{
    Job, Metrics, Moment, Session, TrialError, check as check_backbone, learning_rate, optimiser,
};
use crate::tuning::{seeded, stream};

/// What a recipe does not say.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of images and label maps.
    pub data: PathBuf,
    pub classes: i64,
    /// Of the heads' convolutions.
    pub channels: i64,
    /// Factor of the heads' learning rate.
    pub head_rate: f64,
    /// Of the sliding windows, in pixels.
    pub stride: i64,
    /// Whether the eval split is scored in several sizes, too, at the end.
    pub multi_scale: bool,
}

/// Why a segmentation cannot be trained.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Trial(#[from] TrialError),
    #[error("`{backbone}` is a {family} backbone: the head needs the patches of a ViT")]
    Family { backbone: String, family: &'static str },
    #[error(
        "--stride is {stride}, but windows are {side} pixels wide: pixels between them would not be seen; use at most {side}"
    )]
    Stride { stride: i64, side: i64 },
    #[error("{0}")]
    Unread(String),
    #[error("the training loss became {loss} in epoch {epoch}")]
    Diverged { loss: f64, epoch: u32 },
}

/// Crops and windows at once in a forward pass are `batch_size` and one. `on_epoch` is told the metrics of each epoch:
/// `train/loss`; `val/miou`, `val/mean_accuracy` and `val/pixel_accuracy` at a single scale. The final ones are returned, with
/// `val_multi/…` if asked for.
pub fn run(
    job: &Job,
    session: &mut Session,
    settings: &Settings,
    on_epoch: &mut dyn FnMut(u32, &Metrics),
) -> Result<Metrics, SegmentError> {
    let recipe = &job.recipe;
    check(recipe)?;
    let backbone = session.backbone(&recipe.backbone)?.0;
    check_backbone(recipe, &backbone)?;
    let Arch::Vit(arch) = backbone.arch() else {
        let (backbone, family) = (recipe.backbone.clone(), backbone.arch().family().name());
        return Err(SegmentError::Family { backbone, family });
    };
    let (rule, member) = optimiser(recipe, job.seed);
    let making = Making {
        method: &recipe.method,
        classes: settings.classes,
        side: i64::from(recipe.image_size),
        channels: settings.channels,
        head_rate: settings.head_rate,
        rule,
        member,
    };
    let open = |split: &str| Folder::open(&settings.data, split, settings.classes);
    let (train, eval) = (open(&recipe.split.train)?, open(&recipe.split.eval)?);
    let segmenter = Segmenter::new(&backbone, arch, &making);
    let mut trainer =
        Trainer { job, device: session.device(), backbone: &backbone, segmenter, train, position: 0 };
    let sliding = Sliding { side: making.side, stride: settings.stride };
    if sliding.stride > sliding.side {
        return Err(SegmentError::Stride { stride: sliding.stride, side: sliding.side });
    }
    let mut metrics = Metrics::new();
    for epoch in 0..recipe.epochs {
        let loss = trainer.epoch(epoch)?;
        if !loss.is_finite() {
            return Err(SegmentError::Diverged { loss, epoch: epoch + 1 });
        }
        metrics = trainer.score(&eval, sliding, Scale::SINGLE, "val")?;
        metrics.insert("train/loss".to_owned(), loss);
        on_epoch(epoch + 1, &metrics);
    }
    if settings.multi_scale {
        metrics.extend(trainer.score(&eval, sliding, &Scale::multi(), "val_multi")?);
    }
    metrics.insert("params/trainable".to_owned(), trainer.segmenter.trainable() as f64);
    Ok(metrics)
}

/// What a recipe can say that means nothing here is refused, and so is a method that changes what the heads stand on.
fn check(recipe: &Recipe) -> Result<(), SegmentError> {
    let unread = |what: &str| {
        Err(SegmentError::Unread(format!("{what} means nothing for segmentation; leave it away")))
    };
    if recipe.preprocessing != Preprocessing::VptTf {
        return unread("recipe: a preprocessing");
    }
    if recipe.head_init != HeadInit::Vpt {
        return unread("head_init");
    }
    if recipe.split.test.is_some() {
        return Err(SegmentError::Unread(
            "split.test: there is no test split; write `test: null`".to_owned(),
        ));
    }
    if recipe.pruning.is_some() {
        return unread("pruning_ratio, segment_ratio: pruning");
    }
    let why = match &recipe.method {
        Method::Vpt(vpt) if vpt.location == Location::Pad => "location `pad`: the grid of patches would grow",
        Method::Vpt(vpt)
            if vpt.insertion_depth > 0 && vpt.deep.is_some() && vpt.fidelity == Fidelity::Code =>
        {
            "fidelity `code` with an insertion_depth: patches would be overwritten"
        }
        Method::MlpK { .. } => "method `mlp_k`: it is a head for classification",
        Method::Sidetune => "method `sidetune`: it adds to the pooled feature",
        Method::Spt(_) => "method `spt`: its prompts are made of the images of a classification task",
        _ => return Ok(()),
    };
    Err(SegmentError::Unread(format!("{why}; choose another for segmentation")))
}

struct Trainer<'a> {
    job: &'a Job,
    device: Device,
    backbone: &'a Backbone,
    segmenter: Segmenter,
    train: Folder,
    /// Crops drawn so far.
    position: u64,
}

impl Trainer<'_> {
    /// One pass over the training images in a random order; the mean loss of its steps.
    fn epoch(&mut self, epoch: u32) -> Result<f64, SegmentError> {
        let recipe = &self.job.recipe;
        let n = self.train.samples().len() as i64;
        let order = seeded(stream(self.job.seed, "order", u64::from(epoch)), || {
            Tensor::randperm(n, (Kind::Int64, Device::Cpu))
        });
        let batches = order.split(i64::from(recipe.batch_size), 0);
        let (steps, mut total) = (batches.len() as u64, 0.0);
        for (step, index) in (0..).zip(&batches) {
            let (images, labels) = self.batch(index)?;
            let at = Moment { epoch, step, steps, epochs: recipe.epochs };
            let lr = learning_rate(recipe.schedule, recipe.lr, at);
            total += self.segmenter.train_step(self.backbone, &images, &labels, lr).double_value(&[]);
        }
        Ok(total / steps as f64)
    }

    fn batch(&mut self, index: &Tensor) -> Result<(Tensor, Tensor), SegmentError> {
        let cropping = Cropping::new(i64::from(self.job.recipe.image_size));
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for i in Vec::<i64>::try_from(index).expect("a vector of indices") {
            let (image, map) = self.train.read(&self.train.samples()[i as usize])?;
            // Before the crop, so that what is filled up is 0 behind the normalisation, too.
            let image = self.normalised(&image);
            let (image, map) = cropping.draw(&image, &map, self.job.seed, self.position);
            self.position += 1;
            images.push(image);
            labels.push(map);
        }
        Ok((
            Tensor::stack(&images, 0).to_device(self.device),
            Tensor::stack(&labels, 0).to_device(self.device),
        ))
    }

    fn normalised(&self, image: &Tensor) -> Tensor {
        data::normalise(&image.unsqueeze(0), self.job.recipe.normalization).squeeze_dim(0)
    }

    fn score(
        &self,
        eval: &Folder,
        sliding: Sliding,
        scales: &[Scale],
        prefix: &str,
    ) -> Result<Metrics, SegmentError> {
        let mut confusion = Confusion::new(eval.classes());
        let see = |window: &Tensor| self.segmenter.logits(self.backbone, window);
        let mut add = |sample: &Sample| {
            let (image, labels) = eval.read(sample)?;
            let image = self.normalised(&image).to_device(self.device);
            confusion.add(&sliding.classes(&image, scales, &see), &labels);
            Ok::<(), SegmentError>(())
        };
        eval.samples().iter().try_for_each(&mut add)?;
        Ok(confusion.scores(prefix))
    }
}
