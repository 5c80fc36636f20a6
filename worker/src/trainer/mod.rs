//! The trainer: runs one trial from top to bottom. A child process of the agent (`serve`), or `worker train` itself.

mod cache;
pub mod device;
mod ensemble;
mod error;
mod inputs;
mod metrics;
mod optim;
mod run;
mod schedule;
mod serve;
mod session;
mod state;
mod usage;

pub use ensemble::{Ensemble, Member, cross_entropy};
pub use error::TrialError;
pub use metrics::Scores;
pub use optim::{Optimizer, Rule};
pub use run::{Job, Metrics, run};
pub use schedule::factor;
pub use serve::{Pipe, serve};
pub use session::Session;
pub use state::{State, StateError};
