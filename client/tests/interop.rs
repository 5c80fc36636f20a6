//! What `sweep export` writes, opened by the real Optuna and the real TensorBoard. `make interop` installs both and runs this.

mod support;

use std::process::Command;

use proto::v1::*;
use support::{Server, World};

fn a_world() -> World {
    let trial = |id: i64| Trial {
        id,
        sweep_id: "3f2a9c01".into(),
        seed: id % 2,
        state: if id == 4 { TrialState::Stopped } else { TrialState::Succeeded } as i32,
        settings_json: format!(
            r#"{{"lr":{},"method":"gated","optimizer":{{"name":"sgd"}}}}"#,
            id as f64 / 10.0
        ),
        objective: (id != 4).then_some(80.0 + id as f64),
        metrics: [("test/top1".to_owned(), 70.0 + id as f64)].into(),
        epochs: 5,
        started: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        ended: Some(prost_types::Timestamp { seconds: 1_700_000_060, nanos: 0 }),
        ..Trial::default()
    };
    let sweep = Sweep {
        id: "3f2a9c01".into(),
        name: "study".into(),
        state: SweepState::Ended as i32,
        objective: Some(Objective { metric: "val/top1".into(), goal: "maximize".into(), at: "last".into() }),
        ..Sweep::default()
    };
    World { sweeps: vec![sweep], trials: (1..=4).map(trial).collect(), ..World::default() }
}

fn python(script: &str, argument: &std::path::Path) -> String {
    let program =
        std::env::var("INTEROP_PYTHON").expect("INTEROP_PYTHON names a Python with optuna and tensorboard");
    let output = Command::new(program).arg("-c").arg(script).arg(argument).output().expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "needs Optuna: make interop"]
fn optuna_opens_the_study_and_goes_on_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("study.db");
    let server = Server::start(a_world());
    server
        .sweep(&["export", "last", "--to", "optuna", &format!("sqlite:///{}", file.display())])
        .assert()
        .success();
    let script = "
import sys, optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
url = 'sqlite:///' + sys.argv[1]
study = optuna.load_study(study_name='study-3f2a9c01', storage=url)
print(study.direction.name, study.best_value, study.best_params['lr'], study.best_trial.user_attrs['seed'])
print([trial.state.name for trial in study.trials])
trial = study.ask()
study.tell(trial, trial.suggest_float('lr', 0.1, 0.4))
print(len(study.trials))
";
    let said = python(script, &file);
    assert_eq!(said, "MAXIMIZE 83.0 0.3 1\n['COMPLETE', 'COMPLETE', 'COMPLETE', 'PRUNED']\n5\n");
}

#[test]
#[ignore = "needs TensorBoard: make interop"]
fn tensorboard_reads_the_scalars_and_the_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(a_world());
    let place = folder.path().join("runs");
    let place = place.to_str().expect("text");
    server.sweep(&["export", "last", "--to", "tensorboard", place]).assert().success();
    let script = "
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
events = EventAccumulator(sys.argv[1]); events.Reload()
print(events.Tags()['scalars'], events.Scalars('test/top1')[0].value)
data = events.summary_metadata['_hparams_/session_start_info'].plugin_data.content
print(HParamsPluginData.FromString(data).session_start_info.hparams['method'].string_value)
";
    let said = python(script, &folder.path().join("runs/trial-2"));
    assert_eq!(said, "['test/top1'] 72.0\ngated\n");
}
