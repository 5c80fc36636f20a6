//! The search as it goes on: which trials are not worth their while. Pure.

pub mod early_stop;
