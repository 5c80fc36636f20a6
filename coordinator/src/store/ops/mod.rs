//! The operations: each loads what it touches, asks the lifecycle, and writes what it decided.

mod changes;
mod control;
mod early_stop;
mod finish;
pub(crate) use finish::hex;
mod lease;
mod prefixes;
mod reap;
mod requeue;
mod reuse;
mod stages;
mod submit;
mod worker;

pub use control::{Cancel, Pause, Resume};
pub use finish::{Finish, NewEnd, Outcome, Point, Progress, Ran, Report, Verdict};
pub use lease::{Lease, Leased, Lost, Renew};
pub(super) use lease::{avoiding, fitting};
pub use reap::{Reap, Reaped};
pub use requeue::Requeue;
pub use submit::{NewConfiguration, NewSweep, NewTrial, Submit};
pub use worker::{Drain, Register, Release};

/// Lower-case letters and digits that are not mistaken for each other.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// A random word, for ids that people type.
fn random_word(length: usize) -> String {
    (0..length).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
}
