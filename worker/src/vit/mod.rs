//! vit

pub mod arch;
