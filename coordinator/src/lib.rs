//! The owner of the truth: queues trials in SQLite or Postgres, leases them to workers, and keeps what they report.

pub mod fair;
pub mod faults;
pub mod health;
pub mod offer;
pub mod reaper;
pub mod score;
pub mod search;
pub mod server;
pub mod service;
pub mod store;
pub mod sweep_file;
pub mod trial;
