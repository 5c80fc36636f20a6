//! The trainer: runs one trial from top to bottom. A child process of the agent (`serve`), or `worker train` itself.

mod attendant;
mod cache;
mod checkpoint;
pub mod device;
mod ensemble;
mod error;
mod inputs;
mod memory;
mod metrics;
mod optim;
mod order;
mod predict;
mod prune;
mod ran;
mod rewind;
mod run;
mod samples;
mod scenes;
mod schedule;
mod serve;
mod session;
mod trial;
mod tuned;
mod usage;

pub use attendant::Attendant;
pub use ensemble::{Ensemble, Setup, cross_entropy};
pub use error::TrialError;
pub use metrics::Scores;
pub use optim::{Member, Optimizer, Rule};
pub use predict::{LabelMap, Prediction, label_maps, predict};
pub use ran::CODE;
pub use run::{Job, Metrics, Outcome, run, run_from};
pub use schedule::{Moment, learning_rate};
pub use serve::{Pipe, serve};
pub use session::Session;
pub use tuned::{Tuned, TunedError};
