//! Trials that prune and have the training before it in common: one of them, the leader, trains it and keeps a checkpoint;
//! the others wait for that, and start from it. Whatever becomes of the leader, they do not wait for ever: if it ends
//! without having kept anything, the next one leads; if it succeeded so, each trains for itself.

use std::collections::HashSet;

use crate::store::error::Error;
use crate::store::sql::leases::Token;
use crate::store::sql::prefixes::{self, Group, HELD};
use crate::store::sql::trials;
use crate::store::tx::Tx;
use crate::trial::{Millis, TrialId};

/// Who leads among trials that are written together: the first of each group.
pub(super) struct Leaders {
    is_sharing: bool,
    known: HashSet<(String, i64, Option<i64>)>,
}

impl Leaders {
    /// `is_sharing`: of a sweep whose trials share at all.
    pub(super) fn new(is_sharing: bool) -> Self {
        Self { is_sharing, known: HashSet::new() }
    }

    /// When a trial is due: at once, or when its leader says so.
    pub(super) fn not_before(&mut self, prefix: Option<&str>, seed: i64, start_from: Option<i64>) -> Millis {
        match prefix.filter(|_| self.is_sharing) {
            Some(prefix) if !self.known.insert((prefix.to_owned(), seed, start_from)) => HELD,
            _ => 0,
        }
    }
}

/// Notes where an attempt that holds its trial has kept what it shares, and lets the others go.
pub(super) async fn publish<T: Tx>(tx: &mut T, token: Token, url: &Option<String>) -> Result<(), Error> {
    if url.is_none() {
        return Ok(());
    }
    for (group, _) in groups(tx, &[token.trial]).await? {
        prefixes::publish(tx, &group, url.clone()).await?;
        prefixes::release(tx, &group).await?;
    }
    Ok(())
}

/// Lets those go on that waited for trials which have ended.
pub(super) async fn release<T: Tx>(tx: &mut T, ended: &[TrialId]) -> Result<(), Error> {
    if ended.is_empty() {
        return Ok(());
    }
    for (group, has_result) in groups(tx, ended).await? {
        if has_result {
            prefixes::publish(tx, &group, None).await?;
            prefixes::release(tx, &group).await?;
        } else {
            prefixes::release_next(tx, &group).await?;
        }
    }
    Ok(())
}

async fn groups<T: Tx>(tx: &mut T, of: &[TrialId]) -> Result<Vec<(Group, bool)>, Error> {
    let mut groups = Vec::new();
    for sweep in trials::sweeps_of(tx, of).await? {
        groups.extend(prefixes::groups(tx, sweep, of).await?);
    }
    Ok(groups)
}
