//! Cancel, pause, resume.

use super::changes::{Changes, Details, sweep_event};
use crate::store::Op;
use crate::store::error::Error;
use crate::store::rows::{SweepRow, SweepState};
use crate::store::sql::{history, stages, studies, sweeps, trials};
use crate::store::tx::Tx;
use crate::trial::{Command, Millis, TrialId};

/// Ends every trial of a sweep that has not ended.
#[derive(Debug, Clone)]
pub struct Cancel {
    pub sweep: String,
}

/// Stops leasing trials of a sweep.
#[derive(Debug, Clone)]
pub struct Pause {
    pub sweep: String,
}

/// Undoes a pause.
#[derive(Debug, Clone)]
pub struct Resume {
    pub sweep: String,
}

impl Op for Cancel {
    type Output = SweepRow;

    const IS_SMALL: bool = false;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<SweepRow, Error> {
        let row = lock(tx, &self.sweep).await?;
        if matches!(row.state()?, SweepState::Ended | SweepState::Cancelled) {
            return Ok(row);
        }
        let number = row.number;
        let mut changes = Changes::new(vec![row], now)?;
        let running = trials::running(tx, number).await?;
        changes.add(&running)?;
        for trial in &running {
            // A running trial can always be cancelled.
            let _ = changes.step(TrialId(trial.id), Command::Cancel, Details::default());
        }
        // Queued ones have no lease, no attempt and no event of their own.
        let queued = trials::cancel_queued(tx, number, now).await?;
        // Those that wait for their stage or their sampler are no rows yet, and will never be.
        let given_up = stages::cancel(tx, number).await? + studies::cancel(tx, number).await?;
        let row = changes.sweep(number)?;
        row.queued -= queued;
        row.cancelled += queued;
        row.configurations -= given_up;
        row.trials -= row.waiting;
        row.waiting = 0;
        row.state = SweepState::Cancelled.name().to_owned();
        row.paused_because.clear();
        changes.event(sweep_event(number, "cancelled"));
        changes.write(tx).await?;
        reload(tx, number).await
    }
}

impl Op for Pause {
    type Output = SweepRow;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<SweepRow, Error> {
        switch(tx, &self.sweep, SweepState::Paused, now).await
    }
}

impl Op for Resume {
    type Output = SweepRow;

    async fn run<T: Tx>(&self, tx: &mut T, now: Millis) -> Result<SweepRow, Error> {
        switch(tx, &self.sweep, SweepState::Active, now).await
    }
}

async fn switch<T: Tx>(tx: &mut T, wanted: &str, target: SweepState, now: Millis) -> Result<SweepRow, Error> {
    let row = lock(tx, wanted).await?;
    let (wanted, event) = match target {
        SweepState::Paused => ("paused", "paused"),
        _ => ("resumed", "resumed"),
    };
    match row.state()? {
        state if state == target => return Ok(row),
        state @ (SweepState::Ended | SweepState::Cancelled) => {
            return Err(Error::SweepOver { id: row.id, state: state.name(), wanted });
        }
        _ => {}
    }
    let number = row.number;
    let mut changes = Changes::new(vec![row], now)?;
    let row = changes.sweep(number)?;
    row.state = target.name().to_owned();
    row.paused_because.clear();
    row.failures = 0;
    if target == SweepState::Active {
        history::forget_code_errors(tx, number).await?;
    }
    changes.event(sweep_event(number, event));
    changes.write(tx).await?;
    reload(tx, number).await
}

pub(super) async fn lock<T: Tx>(tx: &mut T, wanted: &str) -> Result<SweepRow, Error> {
    let number = sweeps::resolve(tx, wanted).await?.number;
    reload(tx, number).await
}

pub(super) async fn reload<T: Tx>(tx: &mut T, number: i64) -> Result<SweepRow, Error> {
    sweeps::lock(tx, &[number]).await?.pop().ok_or(Error::Conflict("sweep"))
}
