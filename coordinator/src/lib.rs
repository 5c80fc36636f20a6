//! The owner of the truth: queues trials in SQLite or Postgres, leases them to workers, and keeps what they report.

pub mod offer;
pub mod score;
pub mod store;
pub mod trial;
