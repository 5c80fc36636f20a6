//! What a tuned artifact says about images that it has never seen.

use std::path::Path;

use image::GrayImage;
use tch::{Device, Kind, Tensor};

use super::ensemble::Ensemble;
use super::error::{TrialError, chain};
use super::inputs::{CHUNK, Frozen};
use super::optim::{Member, Rule};
use super::scenes::View;
use super::session::Session;
use super::trial::{check, see, setup};
use super::tuned::Tuned;
use crate::data;
use crate::dense::Scale;
use crate::protocol::FailureClass;

/// The classes of one image, by an artifact.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Relative to the folder.
    pub file: String,
    /// The most probable class.
    pub class: usize,
    /// Of each class; they sum to one.
    pub probabilities: Vec<f32>,
}

/// The label map of one image, by an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    /// Of the image, relative to the folder.
    pub file: String,
    /// Class k is k + 1, as in the maps that it was trained on.
    pub map: GrayImage,
}

/// Predicts every JPEG and PNG below a folder, in the order of their names, a chunk at a time.
///
/// # Errors
/// An artifact that labels pixels, was tuned on another backbone or does not fit its own recipe, and the first image that
/// cannot be read. What `each` answers ends the run too.
pub fn predict<E: From<TrialError>>(
    tuned: &Tuned,
    folder: &Path,
    session: &mut Session,
    mut each: impl FnMut(&[Prediction]) -> Result<(), E>,
) -> Result<(), E> {
    let recipe = &tuned.recipe;
    if recipe.setr.is_some() {
        return Err(E::from(TrialError::invalid("it labels pixels, not whole images")));
    }
    let (ensemble, frozen) = prepare(tuned, session)?;
    let files = data::images_below(folder).map_err(TrialError::from)?;
    for files in files.chunks(CHUNK as usize) {
        let images: Vec<Tensor> = files
            .iter()
            .map(|file| data::image(folder, file, recipe.preprocessing, i64::from(recipe.image_size)))
            .collect::<Result<_, _>>()
            .map_err(|error| E::from(TrialError::new(FailureClass::BadData, chain(&error))))?;
        let x = frozen.entering(&Tensor::stack(&images, 0));
        let logits = ensemble.evaluate(&frozen.backbone, &x).get(0); // [B, C]
        let probabilities = logits.softmax(-1, Kind::Float).to_device(Device::Cpu);
        let predictions: Vec<Prediction> =
            (0..).zip(files).map(|(i, file)| one(file, &probabilities.get(i))).collect();
        each(&predictions)?;
    }
    Ok(())
}

/// As [`predict`], by an artifact that labels pixels: one image at a time, at a single scale.
///
/// # Errors
/// As [`predict`]; an artifact that labels whole images.
pub fn label_maps<E: From<TrialError>>(
    tuned: &Tuned,
    folder: &Path,
    session: &mut Session,
    mut each: impl FnMut(LabelMap) -> Result<(), E>,
) -> Result<(), E> {
    let recipe = &tuned.recipe;
    let Some(setr) = &recipe.setr else {
        return Err(E::from(TrialError::invalid("it labels whole images, not their pixels")));
    };
    let (ensemble, frozen) = prepare(tuned, session)?;
    let view = View::new(recipe, setr, frozen.device);
    let see = |window: &Tensor| see(&ensemble, &frozen, window);
    for file in data::images_below(folder).map_err(TrialError::from)? {
        let bad = |error| E::from(TrialError::new(FailureClass::BadData, chain(&error)));
        let image = data::rgb(folder, &file).map_err(bad)?;
        let labels = view.probabilities(&image, Scale::SINGLE, &see).argmax(0, false) + 1; // [H, W]
        let (height, width) = (labels.size()[0] as u32, labels.size()[1] as u32);
        let labels = labels.to_kind(Kind::Uint8).to_device(Device::Cpu).reshape([-1]);
        let labels = Vec::<u8>::try_from(labels).expect("a vector of bytes");
        let map = GrayImage::from_raw(width, height, labels).expect("a label for each pixel");
        each(LabelMap { file, map })?;
    }
    Ok(())
}

/// `probabilities`: `[C]` on the CPU.
fn one(file: &str, probabilities: &Tensor) -> Prediction {
    let class = usize::try_from(probabilities.argmax(0, false).int64_value(&[])).unwrap_or(0);
    let probabilities = Vec::<f32>::try_from(probabilities).expect("a vector of floats");
    Prediction { file: file.to_owned(), class, probabilities }
}

/// An ensemble of one that holds the artifact's tensors, and the backbone that they were tuned on.
fn prepare(tuned: &Tuned, session: &mut Session) -> Result<(Ensemble, Frozen), TrialError> {
    let recipe = &tuned.recipe;
    let (backbone, identity, sha256) = session.backbone(&recipe.backbone)?;
    tuned.check_backbone(&sha256).map_err(TrialError::invalid)?;
    check(recipe, &backbone)?;
    let members = [Member { seed: tuned.seed, wd: 0.0, wd_head: 0.0, momentum: 0.0 }];
    let (classes, kept) = (tuned.classes().map_err(TrialError::invalid)?, tuned.kept());
    let ensemble = Ensemble::new(&backbone, &setup(recipe, classes, Rule::Sgd, &members, kept.as_ref()));
    tuned.give_to(&ensemble).map_err(TrialError::invalid)?;
    let frozen = Frozen {
        backbone,
        identity,
        sha256,
        normalization: recipe.normalization,
        entry: ensemble.entry(),
        device: session.device(),
    };
    Ok((ensemble, frozen))
}
