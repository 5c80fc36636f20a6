//! Images with label maps, as a trial sees them: crops to train on, sliding windows to score.

use std::rc::Rc;

use sweeps::recipe::{Normalization, Recipe, Setr};
use tch::{Device, Tensor};

use super::attendant::Attendant;
use super::error::TrialError;
use super::run::Metrics;
use crate::data::{self, Maps, Sample};
use crate::dense::{Confusion, Cropping, Scale, Sliding};

/// Images that are decoded at once when they are scored.
const CHUNK: usize = 8;

/// Logits `[C, S, S]` of a normalised window `[3, S, S]`.
pub(super) type See<'a> = &'a dyn Fn(&Tensor) -> Tensor;

/// How images are looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub cropping: Cropping,
    pub sliding: Sliding,
    pub normalization: Normalization,
    pub device: Device,
}

impl View {
    pub(super) fn new(recipe: &Recipe, setr: &Setr, device: Device) -> View {
        let side = i64::from(recipe.image_size);
        let Setr { cat_max_ratio, photometric, .. } = *setr;
        View {
            cropping: Cropping { side, scale: Cropping::SCALE, cat_max_ratio, photometric },
            sliding: Sliding { side, stride: i64::from(setr.stride) },
            normalization: recipe.normalization,
            device,
        }
    }

    /// Probabilities `[C, H, W]` of an image `[3, H, W]` of 0 to 255.
    pub(super) fn probabilities(&self, image: &Tensor, scales: &[Scale], see: See<'_>) -> Tensor {
        let image = data::normalise(&image.to_device(self.device), self.normalization);
        tch::no_grad(|| self.sliding.probabilities(&image, scales, see))
    }
}

/// A split of images with label maps.
#[derive(Debug)]
pub(super) struct Scenes {
    pub maps: Rc<Maps>,
    pub view: View,
}

impl Scenes {
    /// Crops `[B, 3, S, S]` of the images at `index`, normalised, and their labels `[B, S, S]`, on the device. The crop of
    /// the i-th is a function of the seed and `position` + i alone.
    pub(super) fn crops(
        &self,
        index: &[i64],
        seed: i64,
        position: u64,
    ) -> Result<(Tensor, Tensor), TrialError> {
        let index: Vec<usize> = index.iter().map(|&i| i as usize).collect();
        let View { cropping, normalization, device, .. } = self.view;
        let normalise = |image: &Tensor| data::normalise(image, normalization);
        let draw = |(position, sample): (u64, Sample)| {
            let Sample { image, labels } = sample;
            let sample = Sample { image: image.to_device(device), labels: labels.to_device(device) };
            cropping.draw(&sample, &normalise, seed, position)
        };
        let samples = self.maps.read(&index)?;
        let (images, labels): (Vec<Tensor>, Vec<Tensor>) = (position..).zip(samples).map(draw).unzip();
        Ok((Tensor::stack(&images, 0), Tensor::stack(&labels, 0)))
    }

    /// Scores of all images, by their short names. `None`: the run is to leave.
    pub(super) fn score(
        &self,
        scales: &[Scale],
        see: See<'_>,
        attendant: &dyn Attendant,
    ) -> Result<Option<Metrics>, TrialError> {
        let mut confusion = Confusion::new(self.maps.classes());
        let all: Vec<usize> = (0..self.maps.len()).collect();
        for index in all.chunks(CHUNK) {
            for sample in self.maps.read(index)? {
                if attendant.is_leaving() {
                    return Ok(None);
                }
                let probabilities = self.view.probabilities(&sample.image, scales, see);
                confusion.add(&probabilities, &sample.labels.to_device(self.view.device));
            }
        }
        Ok(Some(confusion.scores().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
    }
}
