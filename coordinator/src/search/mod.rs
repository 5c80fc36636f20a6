//! What is decided from results while a sweep runs: which trial goes on, and which configuration comes next. Pure.

pub mod cma_es;
pub mod early_stop;
pub mod sampler;
pub mod tpe;
