//! What a sweep file means, from YAML to typed trials. Pure: no I/O, no async, no clock.

pub mod recipe;
pub mod value;
mod yaml;

pub use recipe::{Recipe, RecipeError};
pub use value::{Settings, Value};
