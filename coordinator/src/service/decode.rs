//! Requests, checked and bounded.

use std::collections::{BTreeMap, HashMap};

use proto::v1;
use sweeps::change::Change;
use tonic::Status;

use crate::offer::{Backbone, Device, Offer, Task, Warm};
use crate::store::Token;
use crate::store::ops::{NewEnd, Outcome, Point, Progress, Ran};
use crate::sweep_file::File;
use crate::trial::{Cause, FailureClass, TrialId, WorkerId};

/// Bytes of a sweep file.
const MAX_FILE: usize = 1 << 20;
/// Bytes of any name, id or key.
const MAX_NAME: usize = 256;
/// Bytes kept of a failure's message.
const MAX_MESSAGE: usize = 8 << 10;
const MAX_PRUNING: usize = 1 << 20;
/// Entries of a list of a worker's call.
const MAX_ENTRIES: usize = 10_000;
const MAX_OVERRIDES: usize = 1_000;
const MAX_OVERRIDE: usize = 4 << 10;
const MAX_SLOTS: u32 = 1_024;
const MAX_LABELS: usize = 64;

pub(super) fn name(field: &str, text: String) -> Result<String, Status> {
    if text.is_empty() {
        return Err(Status::invalid_argument(format!("{field} is empty")));
    }
    optional_name(field, text)
}

pub(super) fn optional_name(field: &str, text: String) -> Result<String, Status> {
    if text.len() > MAX_NAME {
        return Err(Status::resource_exhausted(format!("{field} is longer than {MAX_NAME} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!("{field} holds a control character")));
    }
    Ok(text)
}

pub(super) fn worker_id(text: String) -> Result<WorkerId, Status> {
    name("worker_id", text).map(WorkerId)
}

/// `limit`, or `default` for 0; refused above `max`.
pub(super) fn limit(given: u32, default: u32, max: u32) -> Result<u32, Status> {
    match given {
        0 => Ok(default),
        given if given > max => Err(Status::resource_exhausted(format!("limit {given} is above {max}"))),
        given => Ok(given),
    }
}

fn bounded<V>(field: &str, list: &[V], max: usize) -> Result<(), Status> {
    if list.len() > max {
        let message = format!("{field} has {} entries, at most {max} are allowed", list.len());
        return Err(Status::resource_exhausted(message));
    }
    Ok(())
}

pub(super) fn file(request: v1::SubmitRequest) -> Result<File, Status> {
    if request.file.len() > MAX_FILE {
        let message =
            format!("the sweep file has {} bytes, at most {MAX_FILE} are allowed", request.file.len());
        return Err(Status::resource_exhausted(message));
    }
    bounded("overrides", &request.overrides, MAX_OVERRIDES)?;
    if request.overrides.iter().any(|text| text.len() > MAX_OVERRIDE || text.contains('\0')) {
        let message = format!("an override is longer than {MAX_OVERRIDE} bytes or holds a NUL");
        return Err(Status::resource_exhausted(message));
    }
    if request.file.contains('\0') {
        return Err(Status::invalid_argument("the sweep file holds a NUL: it is no text"));
    }
    let provenance = request.provenance.unwrap_or_default();
    Ok(File {
        text: request.file,
        overrides: request.overrides,
        given_key: optional_name("key", request.key)?,
        client_version: optional_name("provenance.client_version", provenance.client_version)?,
        git_commit: optional_name("provenance.git_commit", provenance.git_commit)?,
        git_dirty: provenance.git_dirty,
    })
}

/// Parameters to be changed; none: nothing is.
pub(super) fn change(given: &[String]) -> Result<Option<Change>, Status> {
    if given.is_empty() {
        return Ok(None);
    }
    if given.iter().any(|text| text.len() > MAX_OVERRIDE) {
        return Err(Status::resource_exhausted(format!("a change is longer than {MAX_OVERRIDE} bytes")));
    }
    Change::parse(given).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// A worker's name as part of its id: letters, digits, `.`, `_` and `-`.
pub(super) fn worker_name(text: String) -> Result<String, Status> {
    let text = name("name", text)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.len() > 64 || !text.chars().all(is_plain) {
        let message = format!("name `{text}` must be at most 64 letters, digits, `.`, `_` or `-`");
        return Err(Status::invalid_argument(message));
    }
    Ok(text)
}

pub(super) fn slots(slots: u32) -> Result<u32, Status> {
    match slots {
        1..=MAX_SLOTS => Ok(slots),
        _ => Err(Status::invalid_argument(format!("slots is {slots}; 1 to {MAX_SLOTS} are allowed"))),
    }
}

pub(super) fn offer(given: v1::Capabilities) -> Result<Offer, Status> {
    bounded("capabilities.backbones", &given.backbones, MAX_ENTRIES)?;
    bounded("capabilities.tasks", &given.tasks, MAX_ENTRIES)?;
    bounded("capabilities.methods", &given.methods, MAX_ENTRIES)?;
    bounded("capabilities.devices", &given.devices, MAX_ENTRIES)?;
    let backbone = |given: v1::Backbone| {
        Ok(Backbone {
            name: name("backbone.name", given.name)?,
            sha256: optional_name("backbone.sha256", given.sha256)?,
            depth: given.depth,
            dim: given.dim,
            family: optional_name("backbone.family", given.family)?,
        })
    };
    let task = |given: v1::Task| {
        bounded("task.splits", &given.splits, MAX_ENTRIES)?;
        let splits = given.splits.into_iter().map(|split| name("task.splits", split));
        Ok(Task {
            name: name("task.name", given.name)?,
            classes: given.classes,
            splits: splits.collect::<Result<_, Status>>()?,
        })
    };
    let device = |given: v1::Device| {
        Ok(Device {
            kind: optional_name("device.kind", given.kind)?,
            name: optional_name("device.name", given.name)?,
            memory_bytes: given.memory_bytes,
        })
    };
    let methods = given.methods.into_iter().map(|method| name("capabilities.methods", method));
    Ok(Offer {
        backbones: given.backbones.into_iter().map(backbone).collect::<Result<_, Status>>()?,
        tasks: given.tasks.into_iter().map(task).collect::<Result<_, Status>>()?,
        methods: methods.collect::<Result<_, Status>>()?,
        devices: given.devices.into_iter().map(device).collect::<Result<_, Status>>()?,
        libtorch_version: optional_name("libtorch_version", given.libtorch_version)?,
        worker_version: optional_name("worker_version", given.worker_version)?,
        labels: labels(given.labels)?,
    })
}

fn labels(given: HashMap<String, String>) -> Result<BTreeMap<String, String>, Status> {
    if given.len() > MAX_LABELS {
        let message = format!("capabilities.labels has {} entries, at most {MAX_LABELS}", given.len());
        return Err(Status::resource_exhausted(message));
    }
    let pair = |(key, value)| Ok((name("label", key)?, optional_name("label", value)?));
    given.into_iter().map(pair).collect()
}

pub(super) fn warm(given: Vec<v1::Warm>) -> Result<Vec<Warm>, Status> {
    bounded("warm", &given, MAX_SLOTS as usize)?;
    let one = |given: v1::Warm| {
        Ok(Warm { backbone: name("warm.backbone", given.backbone)?, task: name("warm.task", given.task)? })
    };
    given.into_iter().map(one).collect()
}

pub(super) fn tokens(given: Vec<v1::Token>) -> Result<Vec<Token>, Status> {
    bounded("tokens", &given, MAX_ENTRIES)?;
    Ok(given.iter().map(token).collect())
}

fn token(given: &v1::Token) -> Token {
    Token { trial: TrialId(given.trial_id), attempt: given.attempt }
}

fn needed_token(given: Option<v1::Token>) -> Result<Token, Status> {
    given.as_ref().map(token).ok_or_else(|| Status::invalid_argument("token is missing"))
}

fn points(given: Vec<v1::Point>) -> Result<Vec<Point>, Status> {
    bounded("points", &given, MAX_ENTRIES)?;
    let point = |given: v1::Point| {
        if given.epoch == 0 {
            return Err(Status::invalid_argument(format!("point `{}`: epochs count from 1", given.name)));
        }
        Ok(Point { name: name("point.name", given.name)?, epoch: given.epoch, value: given.value })
    };
    given.into_iter().map(point).collect()
}

pub(super) fn progress(given: Vec<v1::Progress>) -> Result<Vec<Progress>, Status> {
    bounded("progress", &given, MAX_ENTRIES)?;
    let one = |given: v1::Progress| {
        Ok(Progress {
            token: needed_token(given.token)?,
            points: points(given.points)?,
            checkpoint: reference("progress.checkpoint", given.checkpoint)?,
            prefix: reference("progress.prefix", given.prefix)?,
        })
    };
    given.into_iter().map(one).collect()
}

pub(super) fn ends(given: Vec<v1::End>) -> Result<Vec<NewEnd>, Status> {
    bounded("ends", &given, MAX_ENTRIES)?;
    given.into_iter().map(end).collect()
}

fn end(given: v1::End) -> Result<NewEnd, Status> {
    use v1::end::How;
    let outcome = match given.how {
        Some(How::Success(success)) => Outcome::Success {
            metrics: metrics(success.metrics)?,
            artifact: reference("success.artifact", success.artifact)?,
            pruning_json: pruning(success.pruning_json)?,
            ran: Ran {
                inputs: optional_name("success.inputs", success.inputs)?,
                code: optional_name("success.code", success.code)?,
                origin: (success.reused != 0).then_some(TrialId(success.reused)),
            },
        },
        Some(How::Failure(failure)) => {
            let class = failure_class(failure.class())
                .ok_or_else(|| Status::invalid_argument("failure.class is missing or unknown"))?;
            Outcome::Failure { class, message: message(failure.message) }
        }
        Some(How::Interruption(interruption)) => {
            let cause = match interruption.cause.as_str() {
                "preempted" => Cause::Preempted,
                "drained" => Cause::Drained,
                other => {
                    let text = format!("interruption.cause `{other}` is neither preempted nor drained");
                    return Err(Status::invalid_argument(text));
                }
            };
            Outcome::Interruption { cause, message: message(interruption.message) }
        }
        None => {
            return Err(Status::invalid_argument("an end says neither success, failure nor interruption"));
        }
    };
    Ok(NewEnd {
        token: needed_token(given.token)?,
        points: points(given.points)?,
        checkpoint: reference("end.checkpoint", given.checkpoint)?,
        prefix: reference("end.prefix", given.prefix)?,
        outcome,
    })
}

/// A URL, or nothing.
fn reference(what: &str, text: String) -> Result<Option<String>, Status> {
    if text.len() > MAX_MESSAGE || text.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!("{what} is no URL of at most {MAX_MESSAGE} bytes")));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// An object is all that is asked of it: only people read what is in it.
fn pruning(text: String) -> Result<Option<String>, Status> {
    let is_object = || serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).is_ok();
    if text.is_empty() {
        Ok(None)
    } else if text.len() > MAX_PRUNING || text.contains("\\u0000") || !is_object() {
        let message = format!("success.pruning_json is no JSON object of at most {MAX_PRUNING} bytes");
        Err(Status::invalid_argument(message))
    } else {
        Ok(Some(text))
    }
}

fn metrics(given: HashMap<String, f64>) -> Result<BTreeMap<String, f64>, Status> {
    if given.len() > MAX_ENTRIES {
        return Err(Status::resource_exhausted(format!("metrics has more than {MAX_ENTRIES} entries")));
    }
    given.into_iter().map(|(key, value)| Ok((name("metric", key)?, value))).collect()
}

/// A message's beginning, without what a database cannot hold.
fn message(text: String) -> String {
    let mut text = text.replace('\0', "\u{fffd}");
    if text.len() > MAX_MESSAGE {
        text.truncate(text.floor_char_boundary(MAX_MESSAGE));
        text.push('…');
    }
    text
}

/// A class to choose trials by.
pub(super) fn class(given: i32) -> Result<FailureClass, Status> {
    let known = v1::FailureClass::try_from(given).ok();
    let class = match known {
        Some(v1::FailureClass::Poison) => Some(FailureClass::Poison),
        known => known.and_then(failure_class),
    };
    class.ok_or_else(|| Status::invalid_argument(format!("unknown failure class {given}")))
}

fn failure_class(given: v1::FailureClass) -> Option<FailureClass> {
    use v1::FailureClass as C;
    Some(match given {
        // That workers are lost is seen here, never told.
        C::Unspecified | C::Poison => return None,
        C::InvalidConfig => FailureClass::InvalidConfig,
        C::CodeError => FailureClass::CodeError,
        C::Diverged => FailureClass::Diverged,
        C::CudaOom => FailureClass::CudaOom,
        C::HostOom => FailureClass::HostOom,
        C::Timeout => FailureClass::Timeout,
        C::BadData => FailureClass::BadData,
        C::BadNode => FailureClass::BadNode,
    })
}

/// The name in the database of a state to be listed; `None` for one that no trial is in yet.
pub(super) fn trial_state(given: i32) -> Result<Option<&'static str>, Status> {
    use v1::TrialState as S;
    match S::try_from(given) {
        Ok(S::Queued) => Ok(Some("queued")),
        Ok(S::Running) => Ok(Some("running")),
        Ok(S::Succeeded) => Ok(Some("succeeded")),
        Ok(S::Failed) => Ok(Some("failed")),
        Ok(S::Cancelled) => Ok(Some("cancelled")),
        Ok(S::Stopped) => Ok(Some("stopped")),
        Ok(S::Waiting) => Ok(None),
        Ok(S::Unspecified) | Err(_) => Err(Status::invalid_argument(format!("unknown trial state {given}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_at_characters() {
        let long = message("é".repeat(MAX_MESSAGE));
        assert!(long.len() <= MAX_MESSAGE + "…".len() && long.ends_with("é…"));
        assert_eq!(message("a\0b".to_owned()), "a\u{fffd}b");
    }

    #[test]
    fn names_are_bounded() {
        assert!(name("x", String::new()).is_err());
        assert!(name("x", "a".repeat(MAX_NAME + 1)).is_err());
        assert!(name("x", "a\nb".to_owned()).is_err());
        assert!(worker_name("gpu 1".to_owned()).is_err());
        assert!(worker_name("gpu-1.lab".to_owned()).is_ok());
    }
}
