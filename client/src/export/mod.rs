//! A sweep for other programs. Pure but for the files written.

pub(crate) mod optuna;
pub(crate) mod tensorboard;

use proto::v1::{GetTrialResponse, Objective, Sweep};

use crate::error::CliError;
use crate::format::{self, Settings};

/// A trial with its settings and points.
#[derive(Debug)]
pub(crate) struct Exported {
    pub(crate) reply: GetTrialResponse,
    pub(crate) settings: Settings,
}

/// A sweep and all of its trials.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) sweep: Sweep,
    pub(crate) trials: Vec<Exported>,
}

impl Export {
    pub(crate) fn new(sweep: Sweep, replies: Vec<GetTrialResponse>) -> Result<Self, CliError> {
        let read = |reply: GetTrialResponse| {
            let trial = reply.trial.as_ref();
            let settings = format::settings(trial.map_or("", |trial| &trial.settings_json))?;
            Ok(Exported { reply, settings })
        };
        Ok(Self { sweep, trials: replies.into_iter().map(read).collect::<Result<_, CliError>>()? })
    }

    pub(crate) fn objective(&self) -> Objective {
        self.sweep.objective.clone().unwrap_or_default()
    }
}

#[cfg(test)]
pub(crate) mod example {
    use proto::v1::{Point, Trial, TrialState};

    use super::*;

    /// A trial that succeeded, one that was stopped early, one that failed, one that waits; lr and method vary.
    pub(crate) fn export() -> Export {
        let states = [TrialState::Succeeded, TrialState::Stopped, TrialState::Failed, TrialState::Queued];
        let trial = |(id, state): (i64, TrialState)| {
            let gate = if id == 2 { r#","gate_init":5"# } else { "" };
            let method = if id == 2 { "gated" } else { "linear" };
            let settings_json = format!(
                r#"{{"lr":{},"method":"{method}"{gate},"schedule":{{"name":"constant"}}}}"#,
                id as f64 / 10.0
            );
            let trial = Trial {
                id,
                seed: 7,
                state: state as i32,
                settings_json,
                config_hash: format!("{id:064x}"),
                objective: (state == TrialState::Succeeded).then_some(81.5),
                metrics: [("test/top1".to_owned(), 80.0), ("val/top1".to_owned(), 81.5)].into(),
                started: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
                ended: (id < 4).then_some(prost_types::Timestamp { seconds: 1_700_000_060, nanos: 0 }),
                ..Trial::default()
            };
            let point = |epoch, value| Point { name: "val/top1".into(), epoch, value };
            let points = if id < 3 { vec![point(1, 70.0), point(2, f64::NAN)] } else { Vec::new() };
            GetTrialResponse { trial: Some(trial), points, ..GetTrialResponse::default() }
        };
        let sweep = Sweep {
            id: "3f2a9c01".into(),
            name: "study".into(),
            objective: Some(Objective {
                metric: "val/top1".into(),
                goal: "maximize".into(),
                at: "last".into(),
            }),
            ..Sweep::default()
        };
        Export::new(sweep, (1..).zip(states).map(trial).collect()).expect("valid")
    }
}
