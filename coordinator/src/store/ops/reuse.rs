//! Taking over the result of an earlier trial. The worker has seen that it reads the same bytes and runs the same code;
//! here, in the transaction that ends the attempt, it is checked that the result is of the same recipe and seed.

use std::collections::BTreeMap;

use super::changes::{Changes, Details};
use super::finish::{Finish, NewEnd, Outcome, Ran};
use crate::store::error::Error;
use crate::store::rows::{OriginRow, PointRow, from_json, to_u32};
use crate::store::sql::leases::Token;
use crate::store::sql::reuse::{self, ReusableInsert};
use crate::store::tx::Tx;
use crate::trial::{Command, Holder};

/// Adds the results that attempts of a call end with instead of their own, whose points become theirs: `points` gets the new ones. Only
/// an attempt that holds its trial is given anything.
pub(super) async fn take_over<T: Tx>(
    tx: &mut T,
    changes: &mut Changes,
    call: &Finish,
    points: &mut Vec<PointRow>,
    origins: &mut BTreeMap<Token, OriginRow>,
) -> Result<(), Error> {
    for end in &call.ends {
        let Outcome::Success { ran: Ran { inputs, code, origin: Some(origin) }, .. } = &end.outcome else {
            continue;
        };
        let (token, trial) = (end.token, end.token.trial);
        let mut has_come_to = |epoch| {
            let by = Holder { worker: call.worker.clone(), attempt: token.attempt };
            changes.step(trial, Command::Report { by, epoch }, Details::default()).is_ok()
        };
        if !has_come_to(0) {
            continue;
        }
        let found = reuse::origin(tx, trial, *origin, inputs, code).await?;
        let found = found.ok_or(Error::NotReusable { trial, origin: *origin })?;
        let new = reuse::copy_points(tx, (trial, token.attempt), &found).await?;
        has_come_to(to_u32(new.iter().map(|row| row.epoch).max().unwrap_or(0)));
        points.extend(new);
        origins.insert(token, found);
    }
    Ok(())
}

/// What later trials may take over of an end.
pub(super) fn reusable(end: &NewEnd) -> Option<ReusableInsert> {
    match &end.outcome {
        Outcome::Success { ran, .. } if ran.origin.is_none() && !ran.inputs.is_empty() => {
            let Ran { inputs, code, .. } = ran.clone();
            Some(ReusableInsert { trial: end.token.trial, inputs, code })
        }
        _ => None,
    }
}

/// The finite metrics of a result.
pub(super) fn metrics(origin: &OriginRow) -> Result<BTreeMap<String, f64>, Error> {
    let metrics: BTreeMap<String, Option<f64>> = from_json("result", origin.trial, &origin.metrics_json)?;
    Ok(metrics.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

/// Of the event.
pub(super) fn message(origin: &OriginRow) -> String {
    format!("taken over from trial {} of sweep {}", origin.trial, origin.sweep_id)
}
