//! TensorBoard: a folder per trial, in it one file of events with the metrics of every epoch as scalars and the settings for
//! the plugin of hyperparameters.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use prost::Message;
use proto::v1::{Trial, TrialState};
use serde_json::Value;

use super::{Export, Exported};
use crate::format;

/// `tensorflow.Event`, as far as it is written here.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, tag = "3")]
    file_version: String,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<SummaryMetadata>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryMetadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

/// `tensorboard.hparams.HParamsPluginData`.
#[derive(Clone, PartialEq, Message)]
struct Hparams {
    #[prost(message, optional, tag = "3")]
    start: Option<SessionStart>,
    #[prost(message, optional, tag = "4")]
    end: Option<SessionEnd>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionStart {
    #[prost(map = "string, message", tag = "1")]
    hparams: HashMap<String, prost_types::Value>,
    #[prost(string, tag = "4")]
    group_name: String,
    #[prost(double, tag = "5")]
    start_time_secs: f64,
}

#[derive(Clone, PartialEq, Message)]
struct SessionEnd {
    /// 1: succeeded, 2: failed, 3: running.
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(double, tag = "2")]
    end_time_secs: f64,
}

/// Writes a folder per trial into `folder`, which is made if it is missing.
pub(crate) fn write(export: &Export, folder: &Path) -> Result<(), io::Error> {
    for exported in &export.trials {
        let trial = exported.reply.trial.clone().unwrap_or_default();
        let run = folder.join(format!("trial-{}", trial.id));
        fs::create_dir_all(&run)?;
        let started = trial.started.as_ref().map_or(0.0, format::seconds);
        let file = run.join(format!("events.out.tfevents.{:010}.sweep", started as i64));
        let mut file = io::BufWriter::new(fs::File::create_new(file)?);
        for event in events(exported, &trial, started) {
            write_record(&mut file, &event.encode_to_vec())?;
        }
        file.flush()?;
    }
    Ok(())
}

fn events(exported: &Exported, trial: &Trial, started: f64) -> Vec<Event> {
    let event = |step: i64, values: Vec<SummaryValue>| Event {
        wall_time: started,
        step,
        file_version: String::new(),
        summary: Some(Summary { values }),
    };
    let ended = trial.ended.as_ref().map_or(started, format::seconds);
    let start = SessionStart {
        hparams: exported.settings.iter().map(|(name, value)| (name.clone(), hparam(value))).collect(),
        // Trials of one configuration are a group: TensorBoard averages over them.
        group_name: trial.config_hash.clone(),
        start_time_secs: started,
    };
    let status = match trial.state() {
        TrialState::Succeeded | TrialState::Stopped => 1,
        TrialState::Failed | TrialState::Cancelled => 2,
        _ => 3,
    };
    let end = SessionEnd { status, end_time_secs: ended };
    let mut events = vec![
        Event { wall_time: started, file_version: "brain.Event:2".to_owned(), ..Event::default() },
        event(0, vec![plugin("_hparams_/session_start_info", Hparams { start: Some(start), end: None })]),
    ];
    let scalar = |tag: &str, value: f64| SummaryValue {
        tag: tag.to_owned(),
        simple_value: Some(value as f32),
        metadata: None,
    };
    for point in &exported.reply.points {
        events.push(event(i64::from(point.epoch), vec![scalar(&point.name, point.value)]));
    }
    let is_curve = |name: &String| exported.reply.points.iter().any(|point| point.name == *name);
    let mut last: Vec<(&String, &f64)> = trial.metrics.iter().filter(|(name, _)| !is_curve(name)).collect();
    last.sort_by_key(|(name, _)| *name);
    for (name, value) in last {
        events.push(event(i64::from(trial.epoch), vec![scalar(name, *value)]));
    }
    events
        .push(event(0, vec![plugin("_hparams_/session_end_info", Hparams { start: None, end: Some(end) })]));
    events
}

fn plugin(tag: &str, data: Hparams) -> SummaryValue {
    let plugin_data = PluginData { plugin_name: "hparams".to_owned(), content: data.encode_to_vec() };
    let metadata = SummaryMetadata { plugin_data: Some(plugin_data) };
    SummaryValue { tag: tag.to_owned(), simple_value: None, metadata: Some(metadata) }
}

/// A setting as the plugin takes it: a number, a truth value or a text.
fn hparam(value: &Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::Bool(truth) => Kind::BoolValue(*truth),
        other => Kind::StringValue(format::setting(other)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// A record of a TFRecord file: length, its checksum, the data, its checksum.
fn write_record(file: &mut impl Write, data: &[u8]) -> Result<(), io::Error> {
    let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8);
    let length = (data.len() as u64).to_le_bytes();
    file.write_all(&length)?;
    file.write_all(&masked(&length).to_le_bytes())?;
    file.write_all(data)?;
    file.write_all(&masked(data).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::example::export;

    #[test]
    fn a_file_holds_the_scalars_of_a_trial() {
        let folder = tempfile::tempdir().expect("a folder");
        write(&export(), folder.path()).expect("written");
        assert_eq!(fs::read_dir(folder.path()).expect("runs").count(), 4);
        let file = folder.path().join("trial-1/events.out.tfevents.1700000000.sweep");
        let bytes = fs::read(file).expect("the file");
        let mut rest = bytes.as_slice();
        let mut lines = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().expect("eight bytes")) as usize;
            let event = Event::decode(&rest[12..12 + length]).expect("an event");
            let values = event.summary.iter().flat_map(|summary| &summary.values);
            lines.push(format!(
                "{}{}",
                event.file_version,
                values.map(|v| format!("{} {} {:?}", event.step, v.tag, v.simple_value)).collect::<String>()
            ));
            rest = &rest[12 + length + 4..];
        }
        insta::assert_snapshot!(lines.join("\n"));
        assert!(write(&export(), folder.path()).is_err(), "a file that is there already is left alone");
    }

    #[test]
    fn checksums_are_those_of_tensorflow() {
        // The first twelve bytes of every file that TensorBoard writes for `brain.Event:2` with a time: 24 bytes of data.
        let mut record = Vec::new();
        write_record(&mut record, &[0; 24]).expect("written");
        assert_eq!(record[..12], [0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
    }
}
