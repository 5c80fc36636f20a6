//! The sentences of a watch. Pure.

use proto::v1::TrialState;

use super::state::{Phase, Run, State};
use crate::error::Outcome;
use crate::format;

/// A line per trial that ended: how far the sweep is, what became of it, its score, what it is.
pub(crate) fn ended(state: &State, run: &Run) -> String {
    let tally = state.tally();
    let mut parts = vec![format!("[{}/{}] trial {} {}", tally.ended(), tally.total, run.id, outcome(run))];
    if run.status == TrialState::Succeeded {
        parts.extend(score(state, run));
    }
    parts.push(state.label(run));
    let time = run.seconds().map(format::duration);
    let place: Vec<String> = time.into_iter().chain(present(&run.worker)).collect();
    if !place.is_empty() {
        parts.push(format!("({})", place.join(", ")));
    }
    if run.status == TrialState::Failed {
        parts.extend(present(&run.message));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("  ")
}

/// `succeeded`, or `failed: cuda_oom`.
fn outcome(run: &Run) -> String {
    let class = format::failure(run.failure);
    if run.status == TrialState::Failed && !class.is_empty() {
        return format!("failed: {class}");
    }
    format::trial_state(run.status).to_owned()
}

/// A line for an attempt that came to nothing.
pub(crate) fn requeued(state: &State, run: &Run) -> String {
    let why = present(&run.message).map(|why| format!(": {why}")).unwrap_or_default();
    format!("trial {} queued again{why}  {}", run.id, state.label(run)).trim_end().to_owned()
}

/// The objective's metric and its value, once there is one.
pub(crate) fn score(state: &State, run: &Run) -> Option<String> {
    let name = &state.objective.metric;
    run.score.map(|score| format!("{name} {}", format::metric(name, score)))
}

/// Columns of a curve in the terminal.
const COLUMNS: usize = 12;

/// A curve in a few characters, from its lowest value to its highest; empty before there are two values.
pub(crate) fn curve(values: &[f64]) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    if values.len() < 2 {
        return String::new();
    }
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let columns = values.len().min(COLUMNS);
    let level = |column: usize| {
        // The first and the last value are always shown.
        let value = values[column * (values.len() - 1) / (columns - 1)];
        let share = if high > low { (value - low) / (high - low) } else { 0.5 };
        LEVELS[(share * (LEVELS.len() - 1) as f64).round() as usize]
    };
    (0..columns).map(level).collect()
}

/// Counts for the bar: `28 succeeded, 1 failed, 4 running, about 12m left`.
pub(crate) fn progress(state: &State) -> String {
    let tally = state.tally();
    let mut parts = counts(state);
    if tally.running > 0 {
        parts.push(format!("{} running", tally.running));
    }
    if state.phase == Phase::Paused {
        parts.push("paused".to_owned());
    }
    parts.extend(state.remaining().map(|left| format!("about {} left", format::duration(left))));
    parts.join(", ")
}

fn counts(state: &State) -> Vec<String> {
    let tally = state.tally();
    [
        (tally.succeeded, "succeeded"),
        (tally.stopped, "stopped early"),
        (tally.diverged, "diverged"),
        (tally.failed, "failed"),
        (tally.cancelled, "cancelled"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect()
}

/// What is being watched, and how much of it is over already.
pub(crate) fn opening(state: &State) -> String {
    let tally = state.tally();
    let counts = counts(state);
    let done = if counts.is_empty() { String::new() } else { format!(" ({} already)", counts.join(", ")) };
    let paused = if state.phase == Phase::Paused { "; it is paused" } else { "" };
    format!("sweep {} {}: {} trials{done}{paused}", state.id, state.name, tally.total)
}

/// One line for the whole sweep.
pub(crate) fn summary(state: &State) -> String {
    let verb = if state.phase == Phase::Cancelled { "cancelled" } else { "ended" };
    let elapsed = format::duration(state.elapsed());
    let mut line = format!("sweep {} {} {verb} after {elapsed}: ", state.id, state.name);
    let counts = counts(state);
    line.push_str(&if counts.is_empty() { "no trials".to_owned() } else { counts.join(", ") });
    if let Some(best) = state.best() {
        let score = score(state, best).unwrap_or_default();
        line.push_str(&format!("; best {score}  trial {} {}", best.id, state.label(best)));
    }
    line.trim_end().to_owned()
}

/// Diverged trials are results; a sweep without any other result is no success all the same.
pub(crate) fn verdict(state: &State) -> Outcome {
    let tally = state.tally();
    let has_result = tally.succeeded + tally.stopped > 0;
    if tally.failed > 0 || tally.cancelled > 0 || state.phase == Phase::Cancelled || !has_result {
        Outcome::SweepFailed
    } else {
        Outcome::Done
    }
}

fn present(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
