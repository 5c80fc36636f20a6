//! `sweep watch`: follows the events of a sweep to its end, through lost connections and coordinator restarts.
//!
//! What is known is folded in [`state`]; this module only receives, shows and reconnects.

mod backoff;
mod report;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::time::Duration;

use proto::v1::{GetRequest, Sweep, WatchRequest};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use self::backoff::Backoff;
use self::state::State;
use self::view::View;
use crate::cli::Format;
use crate::connection::Connection;
use crate::error::{CliError, Outcome};

/// Why a stream of events came to an end.
enum Stopped {
    /// The sweep is over.
    Over,
    /// It could not be opened: worth another try.
    Refused { reason: String },
    /// The stream broke: worth another try.
    Broken { reason: String, life: Life },
    /// The coordinator closed the stream before the sweep's end was heard: it shuts down, or the end came before
    /// the first event that was asked for.
    Closed { life: Life },
}

/// What came of a stream that had opened.
struct Life {
    open_for: Duration,
    had_events: bool,
}

/// Follows a sweep to its end; Ctrl-C stops the watching, not the sweep.
pub(crate) async fn watch(
    connection: &mut Connection,
    sweep: &str,
    format: Format,
) -> Result<Outcome, CliError> {
    let mut state = read(connection, sweep).await?;
    let mut view = View::new(format);
    view.say(&report::opening(&state));
    view.refresh(&state);
    let end = tokio::select! {
        end = follow(connection, &mut state, &mut view) => Some(end),
        _ = tokio::signal::ctrl_c() => None,
    };
    view.close();
    let Some(end) = end else {
        view.say(&format!(
            "stopped watching; the sweep goes on. `sweep watch {}` watches it again",
            state.id
        ));
        return Ok(Outcome::Interrupted);
    };
    end?;
    view.say(&report::summary(&state));
    Ok(report::verdict(&state))
}

/// Reads a sweep and its trials. What happens between the two readings comes again as events.
async fn read(connection: &mut Connection, sweep: &str) -> Result<State, CliError> {
    let sweep = get(connection, sweep).await?;
    let trials = connection.trials(&sweep.id, &[], 0).await?;
    State::new(&sweep, trials)
}

async fn get(connection: &mut Connection, sweep: &str) -> Result<Sweep, CliError> {
    let reply = connection.client.get(GetRequest { sweep: sweep.to_owned() }).await;
    let reply = reply.map_err(|status| connection.explain(&status))?.into_inner();
    Ok(reply.sweep.unwrap_or_default())
}

async fn follow(connection: &mut Connection, state: &mut State, view: &mut View) -> Result<(), CliError> {
    let mut backoff = Backoff::default();
    while !state.is_over() {
        let reason = match stream(connection, state, view).await? {
            Stopped::Over => break,
            Stopped::Refused { reason } => reason,
            Stopped::Broken { reason, life } => {
                backoff.streamed(life.open_for, life.had_events);
                reason
            }
            Stopped::Closed { life } => {
                if !life.had_events && has_ended(connection, state).await? {
                    break;
                }
                backoff.streamed(life.open_for, life.had_events);
                "it closed the stream".to_owned()
            }
        };
        let server = connection.server.clone();
        if backoff.is_fresh() {
            view.say(&format!("lost the coordinator at {server} ({reason}); trying again"));
        }
        match backoff.next(Instant::now().into_std()) {
            Ok(pause) => sleep(pause).await,
            Err(minutes) => return Err(CliError::Lost { server, minutes, reason }),
        }
    }
    // Scores as the coordinator counts them, whatever the events said of them.
    match read(connection, &state.id).await {
        Ok(now) if now.is_over() => *state = now,
        Ok(_) | Err(CliError::Unreachable { .. }) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Asks whether the sweep is over, where the events do not say so.
async fn has_ended(connection: &mut Connection, state: &State) -> Result<bool, CliError> {
    match read(connection, &state.id).await {
        Ok(now) => Ok(now.is_over()),
        Err(CliError::Unreachable { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Folds events until the stream ends.
async fn stream(
    connection: &mut Connection,
    state: &mut State,
    view: &mut View,
) -> Result<Stopped, CliError> {
    let request = WatchRequest { sweep: state.id.clone(), after_seq: state.seq };
    let mut events = match connection.client.watch(request).await {
        Ok(reply) => reply.into_inner(),
        Err(status) if is_passing(&status) => {
            return Ok(Stopped::Refused { reason: status.message().to_owned() });
        }
        Err(status) => return Err(connection.explain(&status)),
    };
    let opened = Instant::now();
    let mut had_events = false;
    loop {
        let message = events.message().await;
        let life = Life { open_for: opened.elapsed(), had_events };
        let batch = match message {
            Ok(Some(reply)) => reply.events,
            Ok(None) => return Ok(Stopped::Closed { life }),
            Err(status) if is_passing(&status) => {
                return Ok(Stopped::Broken { reason: status.message().to_owned(), life });
            }
            Err(status) => return Err(connection.explain(&status)),
        };
        if let Some(after) = state.missing_after(&batch) {
            introduce(connection, state, after).await?;
        }
        for event in &batch {
            had_events = true;
            let notice = state.apply(event);
            view.show(state, event, notice)?;
        }
        view.refresh(state);
        if state.is_over() {
            return Ok(Stopped::Over);
        }
    }
}

/// Asks for trials of a stage that opened meanwhile. When that fails the connection is lost, and the stream will
/// say so next; the trials stay without a label until then.
async fn introduce(connection: &mut Connection, state: &mut State, after: i64) -> Result<(), CliError> {
    let id = state.id.clone();
    match connection.trials(&id, &[], after).await {
        Ok(trials) => state.introduce(trials),
        Err(CliError::Unreachable { .. } | CliError::Coordinator { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// `true` for what a restart of the coordinator or a broken connection looks like.
fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
    )
}
