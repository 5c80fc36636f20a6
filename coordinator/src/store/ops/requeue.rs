//! Trying failed trials again.

use std::collections::BTreeMap;

use ::sweeps::change::Change;

use super::changes::{Changes, Details, sweep_event};
use super::{change, control, stages};
use crate::store::Op;
use crate::store::error::Error;
use crate::store::rows::{EventRow, SweepRow, SweepState};
use crate::store::sql::{history, trials};
use crate::store::tx::Tx;
use crate::trial::{Command, FailureClass, Millis, TrialId};

/// Queues the failed trials of a sweep again, as if they had never failed. A sweep that had ended goes on.
#[derive(Debug, Clone)]
pub struct Requeue {
    pub sweep: String,
    /// None: all but `diverged`, which is a result.
    pub classes: Vec<FailureClass>,
    /// Parameters with which they are tried again.
    pub change: Option<Change>,
}

impl Op for Requeue {
    /// The sweep, and how many trials were queued.
    type Output = (SweepRow, u64);

    const IS_SMALL: bool = false;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<(SweepRow, u64), Error> {
        let row = control::lock(tx, &self.sweep).await?;
        if row.state()? == SweepState::Cancelled {
            return Err(Error::SweepOver { id: row.id, state: "cancelled", wanted: "requeued" });
        }
        let number = row.number;
        let mut failed = trials::failed(tx, number, &self.classes()).await?;
        if failed.is_empty() {
            return Ok((row, 0));
        }
        let mut changes = Changes::new(vec![row], now)?;
        let messages = match &self.change {
            Some(change) => {
                let messages = change::apply(tx, &mut changes, number, &failed, change).await?;
                // They belong to other configurations now.
                let ids: Vec<TrialId> = failed.iter().map(|trial| TrialId(trial.id)).collect();
                failed = trials::load(tx, &ids).await?;
                messages
            }
            None => BTreeMap::new(),
        };
        changes.add(&failed)?;
        let count = failed.len() as u64;
        changes
            .event(EventRow { message: format!("{count} failed trials"), ..sweep_event(number, "resumed") });
        for trial in &failed {
            // A failed trial can always be revived.
            let message = messages.get(&trial.id).cloned().unwrap_or_default();
            let _ =
                changes.step(TrialId(trial.id), Command::Revive, Details { message, ..Details::default() });
        }
        let mut configurations: Vec<i64> = failed.iter().map(|trial| trial.config).collect();
        configurations.sort_unstable();
        configurations.dedup();
        stages::revive(tx, &mut changes, number, &configurations).await?;
        let row = changes.sweep(number)?;
        row.state = SweepState::Active.name().to_owned();
        row.paused_because.clear();
        row.failures = 0;
        history::forget_code_errors(tx, number).await?;
        changes.write(tx).await?;
        Ok((control::reload(tx, number).await?, count))
    }
}

impl Requeue {
    fn classes(&self) -> Vec<FailureClass> {
        match self.classes.as_slice() {
            [] => FailureClass::ALL.into_iter().filter(|class| *class != FailureClass::Diverged).collect(),
            classes => classes.to_vec(),
        }
    }
}
