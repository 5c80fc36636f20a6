//! What a sweep file means, from YAML to typed trials. Pure: no I/O, no async, no clock.
//!
//! [`Spec::parse`] is the way in: a [`Spec`] in hand is valid, counted and expanded, and its
//! [`configurations`](Spec::configurations) carry complete [`Recipe`]s.

pub mod change;
mod failure;
pub mod recipe;
pub mod schema;
pub mod settings;
pub mod space;
pub mod spec;
pub mod stage;
pub mod study;
pub mod value;
mod yaml;

pub use failure::FailureClass;
pub use recipe::{Recipe, RecipeError};
pub use space::{Configuration, Plan, StagePlan, TrialRef};
pub use spec::{Spec, SpecError, SpecErrors};
pub use stage::Stage;
pub use value::{Settings, Value};
