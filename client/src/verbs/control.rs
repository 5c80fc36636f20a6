//! `sweep pause`, `resume`, `cancel` and `requeue`.

use proto::v1::{CancelRequest, PauseRequest, RequeueRequest, ResumeRequest, Sweep};

use crate::cli::{Format, RequeueArgs};
use crate::connection::Connection;
use crate::error::CliError;
use crate::records::SweepRecord;
use crate::{format, output};

pub(crate) async fn pause(mut connection: Connection, sweep: String, output: Format) -> Result<(), CliError> {
    let reply = connection.client.pause(PauseRequest { sweep }).await;
    let sweep = reply.map_err(|status| connection.explain(&status))?.into_inner().sweep;
    print(sweep, output)
}

pub(crate) async fn resume(
    mut connection: Connection,
    sweep: String,
    output: Format,
) -> Result<(), CliError> {
    let reply = connection.client.resume(ResumeRequest { sweep }).await;
    let sweep = reply.map_err(|status| connection.explain(&status))?.into_inner().sweep;
    print(sweep, output)
}

pub(crate) async fn cancel(
    mut connection: Connection,
    sweep: String,
    output: Format,
) -> Result<(), CliError> {
    let reply = connection.client.cancel(CancelRequest { sweep }).await;
    let sweep = reply.map_err(|status| connection.explain(&status))?.into_inner().sweep;
    print(sweep, output)
}

pub(crate) async fn requeue(
    mut connection: Connection,
    args: RequeueArgs,
    output: Format,
) -> Result<(), CliError> {
    let classes = args.classes.into_iter().map(|class| format::class(class).into()).collect();
    let reply =
        connection.client.requeue(RequeueRequest { sweep: args.sweep, classes, changes: args.changes }).await;
    let reply = reply.map_err(|status| connection.explain(&status))?.into_inner();
    if output == Format::Table {
        output::print(&format!("{} trials queued again\n", reply.trials))?;
    }
    print(reply.sweep, output)
}

/// Says in what state the sweep is now.
fn print(sweep: Option<Sweep>, output: Format) -> Result<(), CliError> {
    let sweep = sweep.unwrap_or_default();
    if output == Format::Json {
        return output::print_json(&SweepRecord::from(sweep));
    }
    let counts = sweep.counts.unwrap_or_default();
    let state = format::sweep_state(sweep.state());
    output::print(&format!(
        "sweep {} {} is {state}: {} queued, {} running, {} succeeded, {} failed, {} cancelled\n",
        sweep.id,
        sweep.name,
        counts.waiting + counts.queued,
        counts.running,
        counts.succeeded + counts.stopped,
        counts.failed,
        counts.cancelled
    ))
}
