//! How a watch is shown: bars on a terminal, a line per trial elsewhere, or events as JSON lines.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::v1::Event;

use super::report;
use super::state::{Notice, State};
use crate::cli::Format;
use crate::error::CliError;
use crate::output;
use crate::records::EventRecord;

/// More running trials than this are counted, not shown.
const MAX_BARS: usize = 8;

pub(crate) enum View {
    Bars(Bars),
    Lines,
    Json,
}

impl View {
    pub(crate) fn new(format: Format) -> Self {
        let has_terminal = std::io::stderr().is_terminal();
        match format {
            Format::Json => View::Json,
            _ if has_terminal => View::Bars(Bars::new()),
            _ => View::Lines,
        }
    }

    /// Shows what an event changed.
    pub(crate) fn show(
        &mut self,
        state: &State,
        event: &Event,
        notice: Option<Notice>,
    ) -> Result<(), CliError> {
        if let View::Json = self {
            return output::print_json_line(&EventRecord::from(event));
        }
        let with_bars = matches!(self, View::Bars(_));
        match notice {
            // On a terminal the bars count; only what is new about failures is worth a line.
            Some(Notice::Ended { trial, is_new }) if is_new || !with_bars => {
                self.say_of(state, trial, report::ended);
            }
            Some(Notice::Requeued { trial }) if !with_bars => self.say_of(state, trial, report::requeued),
            Some(Notice::Ended { .. } | Notice::Requeued { .. }) | None => {}
            Some(Notice::Paused) => {
                let why =
                    if event.message.is_empty() { String::new() } else { format!(": {}", event.message) };
                self.say(&format!("the sweep was paused{why}; `sweep resume {}` goes on", state.id));
            }
            Some(Notice::Resumed) => self.say("the sweep goes on"),
        }
        Ok(())
    }

    /// Draws the bars anew.
    pub(crate) fn refresh(&mut self, state: &State) {
        if let View::Bars(bars) = self {
            bars.draw(state);
        }
    }

    /// A line to stderr, above the bars.
    pub(crate) fn say(&self, line: &str) {
        match self {
            View::Bars(bars) => bars.all.suspend(|| output::remark(line)),
            View::Lines | View::Json => output::remark(line),
        }
    }

    /// Takes the bars away.
    pub(crate) fn close(&mut self) {
        if let View::Bars(bars) = self {
            bars.clear();
        }
    }

    fn say_of(&self, state: &State, trial: i64, sentence: fn(&State, &super::state::Run) -> String) {
        if let Some(run) = state.trial(trial) {
            self.say(&sentence(state, run));
        }
    }
}

/// A bar for the sweep and one for each running trial.
pub(crate) struct Bars {
    all: MultiProgress,
    sweep: ProgressBar,
    trials: BTreeMap<i64, ProgressBar>,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let sweep = all.add(ProgressBar::no_length().with_style(style("{bar:24} {pos}/{len}  {wide_msg}")));
        Self { all, sweep, trials: BTreeMap::new() }
    }

    fn draw(&mut self, state: &State) {
        let tally = state.tally();
        self.sweep.set_length(tally.total);
        self.sweep.set_position(tally.ended());
        self.sweep.set_message(report::progress(state));
        let shown: Vec<_> = state.running().take(MAX_BARS).collect();
        self.trials.retain(|id, bar| {
            let stays = shown.iter().any(|run| run.id == *id);
            if !stays {
                bar.finish_and_clear();
                self.all.remove(bar);
            }
            stays
        });
        for run in shown {
            let bar = self.trials.entry(run.id).or_insert_with(|| {
                let bar = ProgressBar::no_length()
                    .with_style(style("  {prefix:12} {bar:10} {pos:>3}/{len}  {wide_msg}"));
                self.all.add(bar.with_prefix(format!("trial {}", run.id)))
            });
            bar.set_length(u64::from(run.epochs));
            bar.set_position(u64::from(run.epoch));
            let score = report::score(state, run).unwrap_or_default();
            let curve = report::curve(&run.curve);
            let words = [score, curve, state.label(run)].into_iter().filter(|word| !word.is_empty());
            bar.set_message(words.collect::<Vec<_>>().join("  "));
        }
    }

    fn clear(&mut self) {
        for bar in self.trials.values() {
            bar.finish_and_clear();
        }
        self.sweep.finish_and_clear();
    }
}

/// A style from one of the templates above; a template that cannot be read would be a bar without a message.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
