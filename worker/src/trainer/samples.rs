//! A split of whichever kind a trial's task has.

use super::error::TrialError;
use super::inputs::Inputs;
use super::scenes::Scenes;
use crate::protocol::FailureClass;

#[derive(Debug)]
pub(super) enum Samples {
    /// Images with one label each.
    Labelled(Inputs),
    /// Images with label maps.
    Mapped(Scenes),
}

impl Samples {
    /// Number of images.
    pub(super) fn len(&self) -> i64 {
        match self {
            Samples::Labelled(inputs) => inputs.len(),
            Samples::Mapped(scenes) => scenes.maps.len() as i64,
        }
    }

    /// Of images and labels.
    pub(super) fn sha256(&self) -> &str {
        match self {
            Samples::Labelled(inputs) => &inputs.split.sha256,
            Samples::Mapped(scenes) => &scenes.maps.sha256,
        }
    }

    /// # Errors
    /// Of images with label maps, which no recipe that asks for this has.
    pub(super) fn labelled(&self) -> Result<&Inputs, TrialError> {
        match self {
            Samples::Labelled(inputs) => Ok(inputs),
            Samples::Mapped(_) => {
                Err(TrialError::new(FailureClass::CodeError, "images with one label each were expected"))
            }
        }
    }
}
