//! The one map from errors to gRPC status codes.

use tonic::{Code, Status};

use crate::store::Error;
use crate::sweep_file::FileError;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NoSweep(_) | Error::NoTrial(_) | Error::NoWorker(_) | Error::NoSuchWorker(_) => {
                Code::NotFound
            }
            Error::AmbiguousSweep { .. } => Code::InvalidArgument,
            Error::NotReusable { .. }
            | Error::NoChange { .. }
            | Error::NoExtension { .. }
            | Error::SweepOver { .. }
            | Error::NoEvent { .. }
            | Error::TwoBackbones { .. } => Code::FailedPrecondition,
            Error::Conflict(_) => Code::Aborted,
            Error::Corrupt { .. } | Error::Refused(_) => Code::Internal,
            Error::Database(_) | Error::Closed => Code::Unavailable,
        };
        if matches!(code, Code::Internal | Code::Unavailable | Code::Aborted) {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, source, "call failed");
        }
        Self::new(code, error.to_string())
    }
}

impl From<FileError> for Status {
    fn from(error: FileError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}
