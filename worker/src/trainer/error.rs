//! Why a run failed, in the classes that decide whether it is tried again.

use crate::backbone::WeightsError;
use crate::data::DataError;
use crate::home::HomeError;
use crate::protocol::FailureClass;

/// The end of a run without a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TrialError {
    pub class: FailureClass,
    pub message: String,
}

impl TrialError {
    pub fn new(class: FailureClass, message: impl std::fmt::Display) -> TrialError {
        TrialError { class, message: message.to_string() }
    }

    /// A recipe that cannot be run with these weights and data.
    pub fn invalid(message: impl std::fmt::Display) -> TrialError {
        TrialError::new(FailureClass::InvalidConfig, message)
    }

    /// What a panic of libtorch's binding means. Its C++ exceptions arrive as text.
    pub(super) fn from_panic(payload: &(dyn std::any::Any + Send)) -> TrialError {
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("the trainer panicked");
        let lower = message.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|w| lower.contains(w));
        let class =
            if says(&["cuda out of memory", "cuda error: out of memory", "cublas_status_alloc_failed"]) {
                FailureClass::CudaOom
            } else if says(&["cuda error", "cudnn error", "cublas"]) {
                FailureClass::BadNode
            } else if says(&["can't allocate memory", "not enough memory"]) {
                FailureClass::HostOom
            } else {
                FailureClass::CodeError
            };
        TrialError::new(class, message.lines().take(4).collect::<Vec<_>>().join(" "))
    }
}

/// An error and the errors behind it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        message.push_str(": ");
        message.push_str(inner.to_string().lines().next().unwrap_or_default());
        source = inner.source();
    }
    message
}

impl From<DataError> for TrialError {
    fn from(error: DataError) -> TrialError {
        let class = if error.is_missing() {
            FailureClass::BadNode // the coordinator leases only what was offered: it has gone from this one
        } else if error.is_out_of_memory() {
            FailureClass::HostOom
        } else {
            FailureClass::BadData
        };
        TrialError::new(class, chain(&error))
    }
}

impl From<HomeError> for TrialError {
    fn from(error: HomeError) -> TrialError {
        TrialError::new(FailureClass::BadNode, chain(&error))
    }
}

impl From<WeightsError> for TrialError {
    fn from(error: WeightsError) -> TrialError {
        TrialError::new(FailureClass::BadNode, chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_classified_by_what_libtorch_says() {
        let class = |text: &str| TrialError::from_panic(&text.to_owned()).class;
        assert_eq!(class("CUDA out of memory. Tried to allocate 2 GiB"), FailureClass::CudaOom);
        assert_eq!(class("CUDA error: out of memory"), FailureClass::CudaOom);
        assert_eq!(class("CUDA error: an illegal memory access was encountered"), FailureClass::BadNode);
        assert_eq!(class("DefaultCPUAllocator: can't allocate memory: you tried"), FailureClass::HostOom);
        assert_eq!(class("shape '[2]' is invalid"), FailureClass::CodeError);
    }
}
