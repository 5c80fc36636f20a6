//! The operations: each loads what it touches, asks the lifecycle, and writes what it decided.

use super::error::Error;
use super::{Op, Tx};
use crate::trial::Millis;

mod change;
mod changes;
mod claim;
mod control;
mod early_stop;
mod extend;
mod finish;
pub(crate) use finish::hex;
mod lease;
mod prefixes;
mod reap;
mod renew;
mod requeue;
mod reuse;
mod stages;
mod submit;
mod suggest;
mod worker;

pub use claim::Wanted;
pub(super) use claim::{Ask, PATIENCE, is_any, served};
pub use control::{Cancel, Pause, Resume};
pub use extend::{Added, Extend};
pub use finish::{Finish, NewEnd, Outcome, Point, Progress, Ran, Report, Verdict};
pub use lease::{Lease, Leased};
pub use reap::{Reap, Reaped};
pub use renew::{Lost, Renew};
pub use requeue::Requeue;
pub use submit::{NewConfiguration, NewStudies, NewStudy, NewSweep, NewTrial, Submit};
pub use suggest::{Proposal, Propose, Suggest};
pub use worker::{Drain, Register, Release};

/// Does the work of a call as that of one that joins with none.
async fn alone<O: Op, T: Tx>(call: &O, tx: &mut T, now: Millis) -> Result<O::Output, Error> {
    O::run_all(&[call], tx, now).await?.pop().unwrap_or(Err(Error::Conflict("call")))
}

/// Lower-case letters and digits that are not mistaken for each other.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// A random word, for ids that people type.
fn random_word(length: usize) -> String {
    (0..length).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
}
