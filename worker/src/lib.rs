//! The worker: an agent that leases trials and feeds them to trainers, and the trainer that tunes prompts on a frozen
//! backbone with libtorch.

pub mod agent;
pub mod artifacts;
pub mod backbone;
pub mod convnet;
pub mod data;
pub mod dense;
pub mod doctor;
pub mod home;
pub mod import;
pub mod protocol;
pub mod swin;
pub mod trainer;
pub mod tuning;
pub mod vit;
