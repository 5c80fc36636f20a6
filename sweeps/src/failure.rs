//! Why an attempt fails, in the words that sweep files, the wire, the database and messages share.

use serde::{Deserialize, Serialize};

/// Why an attempt failed; the names are those of `sweep.v1.FailureClass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The recipe cannot be run here or anywhere.
    InvalidConfig,
    CodeError,
    /// The loss is not finite: a scored end, never retried.
    Diverged,
    CudaOom,
    HostOom,
    Timeout,
    /// An image or a label file that cannot be read.
    BadData,
    BadNode,
    /// Worker after worker was lost while it ran the trial. Said by the coordinator alone.
    Poison,
}

impl FailureClass {
    /// Every class.
    pub const ALL: [Self; 9] = [
        Self::InvalidConfig,
        Self::CodeError,
        Self::Diverged,
        Self::CudaOom,
        Self::HostOom,
        Self::Timeout,
        Self::BadData,
        Self::BadNode,
        Self::Poison,
    ];

    /// The name used in sweep files, in the database and in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidConfig => "invalid_config",
            Self::CodeError => "code_error",
            Self::Diverged => "diverged",
            Self::CudaOom => "cuda_oom",
            Self::HostOom => "host_oom",
            Self::Timeout => "timeout",
            Self::BadData => "bad_data",
            Self::BadNode => "bad_node",
            Self::Poison => "poison",
        }
    }

    /// The class of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_found_by_the_name_that_serde_writes() {
        for class in FailureClass::ALL {
            assert_eq!(FailureClass::from_name(class.name()), Some(class));
            assert_eq!(serde_json::to_value(class).unwrap(), class.name());
        }
        assert_eq!(FailureClass::from_name("preempted"), None);
    }
}
