//! The JSON that `--output json` prints: messages of the wire with names for numbers. Pure.
//!
//! Scripts read these records: a key may be added, none renamed.

use std::collections::BTreeMap;

use proto::v1::{
    Attempt, Counts, Event, EventKind, ExplainResponse, GetResponse, GetTrialResponse, Orphan, Point,
    Provenance, Sweep, Trial, Worker,
};
use serde::Serialize;

use crate::error::CliError;
use crate::format::{self, Settings};

#[derive(Debug, Serialize)]
pub(crate) struct SweepRecord {
    id: String,
    name: String,
    project: String,
    labels: BTreeMap<String, String>,
    state: &'static str,
    paused_because: Option<String>,
    created: String,
    objective: Option<ObjectiveRecord>,
    report: Vec<String>,
    axes: Vec<String>,
    priority: i32,
    configurations: u64,
    counts: CountsRecord,
}

#[derive(Debug, Serialize)]
pub(crate) struct ObjectiveRecord {
    metric: String,
    goal: String,
    at: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct CountsRecord {
    trials: u64,
    waiting: u64,
    queued: u64,
    running: u64,
    succeeded: u64,
    stopped: u64,
    failed: u64,
    cancelled: u64,
}

/// All trials of a sweep.
pub(crate) fn total(counts: &Counts) -> u64 {
    counts.waiting + counts.queued + counts.running + ended(counts)
}

/// Trials that are terminal.
pub(crate) fn ended(counts: &Counts) -> u64 {
    counts.succeeded + counts.stopped + counts.failed + counts.cancelled
}

fn present(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl From<Sweep> for SweepRecord {
    fn from(sweep: Sweep) -> Self {
        let state = format::sweep_state(sweep.state());
        let counts = sweep.counts.unwrap_or_default();
        Self {
            id: sweep.id,
            name: sweep.name,
            project: sweep.project,
            labels: sweep.labels.into_iter().collect(),
            state,
            paused_because: present(sweep.paused_because),
            created: format::moment(sweep.created.as_ref()),
            objective: sweep.objective.map(|objective| ObjectiveRecord {
                metric: objective.metric,
                goal: objective.goal,
                at: objective.at,
            }),
            report: sweep.report,
            axes: sweep.axes,
            priority: sweep.priority,
            configurations: sweep.configurations,
            counts: CountsRecord {
                trials: total(&counts),
                waiting: counts.waiting,
                queued: counts.queued,
                running: counts.running,
                succeeded: counts.succeeded,
                stopped: counts.stopped,
                failed: counts.failed,
                cancelled: counts.cancelled,
            },
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct ShowRecord {
    sweep: Option<SweepRecord>,
    failures: Vec<FailureRecord>,
    unserved: Vec<UnservedRecord>,
    provenance: ProvenanceRecord,
    overrides: Vec<String>,
    file: String,
}

#[derive(Debug, Serialize)]
struct FailureRecord {
    class: &'static str,
    trials: u64,
    example: String,
}

#[derive(Debug, Serialize)]
struct UnservedRecord {
    trials: u64,
    backbone: String,
    task: String,
    method: String,
    reasons: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ProvenanceRecord {
    client_version: String,
    git_commit: Option<String>,
    git_dirty: bool,
}

impl From<GetResponse> for ShowRecord {
    fn from(reply: GetResponse) -> Self {
        let failure = |count: proto::v1::FailureCount| FailureRecord {
            class: format::failure(count.class()),
            trials: count.trials,
            example: count.example,
        };
        let unserved = |unserved: proto::v1::Unserved| UnservedRecord {
            trials: unserved.trials,
            backbone: unserved.backbone,
            task: unserved.task,
            method: unserved.method,
            reasons: unserved.reasons,
        };
        let Provenance { client_version, git_commit, git_dirty } = reply.provenance.unwrap_or_default();
        Self {
            sweep: reply.sweep.map(SweepRecord::from),
            failures: reply.failures.into_iter().map(failure).collect(),
            unserved: reply.unserved.into_iter().map(unserved).collect(),
            provenance: ProvenanceRecord { client_version, git_commit: present(git_commit), git_dirty },
            overrides: reply.overrides,
            file: reply.file,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct TrialRecord {
    id: i64,
    sweep_id: String,
    stage: String,
    block: Option<String>,
    config_hash: String,
    seed: i64,
    parameters: Settings,
    state: &'static str,
    attempt: u32,
    worker: Option<String>,
    objective: Option<f64>,
    metrics: BTreeMap<String, f64>,
    failure: Option<String>,
    message: Option<String>,
    epoch: u32,
    epochs: u32,
    started: Option<String>,
    ended: Option<String>,
    /// The trial whose result it took over.
    origin: Option<OriginRecord>,
}

#[derive(Debug, Serialize)]
struct OriginRecord {
    trial: i64,
    sweep: String,
}

impl TryFrom<Trial> for TrialRecord {
    type Error = CliError;

    fn try_from(trial: Trial) -> Result<Self, CliError> {
        let state = format::trial_state(trial.state());
        let failure = format::failure(trial.failure());
        Ok(Self {
            id: trial.id,
            parameters: format::settings(&trial.settings_json)?,
            sweep_id: trial.sweep_id,
            stage: trial.stage,
            block: present(trial.block),
            config_hash: trial.config_hash,
            seed: trial.seed,
            state,
            attempt: trial.attempt,
            worker: present(trial.worker),
            objective: trial.objective,
            metrics: trial.metrics.into_iter().collect(),
            failure: present(failure.to_owned()),
            message: present(trial.message),
            epoch: trial.epoch,
            epochs: trial.epochs,
            started: present(format::moment(trial.started.as_ref())),
            ended: present(format::moment(trial.ended.as_ref())),
            origin: trial
                .origin
                .map(|origin| OriginRecord { trial: origin.trial_id, sweep: origin.sweep_id }),
        })
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct TrialDetail {
    trial: TrialRecord,
    attempts: Vec<AttemptRecord>,
    points: Vec<PointRecord>,
    orphans: Vec<OrphanRecord>,
    recipe: Settings,
    /// Where the tuned tensors lie.
    artifact: Option<String>,
    /// Where the next attempt goes on.
    checkpoint: Option<String>,
    /// Scores of pruned prompts, and which stay.
    pruning: Option<serde_json::Value>,
}

#[derive(Debug, Serialize)]
struct AttemptRecord {
    number: u32,
    worker: String,
    started: Option<String>,
    ended: Option<String>,
    end: String,
    failure: Option<String>,
    message: Option<String>,
}

/// A result that came too late.
#[derive(Debug, Serialize)]
struct OrphanRecord {
    attempt: u32,
    worker: String,
    at: String,
    reason: String,
    metrics: BTreeMap<String, f64>,
}

#[derive(Debug, Serialize)]
struct PointRecord {
    name: String,
    epoch: u32,
    value: f64,
}

impl TryFrom<GetTrialResponse> for TrialDetail {
    type Error = CliError;

    fn try_from(reply: GetTrialResponse) -> Result<Self, CliError> {
        let attempt = |attempt: Attempt| AttemptRecord {
            failure: present(format::failure(attempt.failure()).to_owned()),
            number: attempt.number,
            worker: attempt.worker,
            started: present(format::moment(attempt.started.as_ref())),
            ended: present(format::moment(attempt.ended.as_ref())),
            end: attempt.end,
            message: present(attempt.message),
        };
        let orphan = |orphan: Orphan| OrphanRecord {
            attempt: orphan.attempt,
            worker: orphan.worker,
            at: format::moment(orphan.at.as_ref()),
            reason: orphan.reason,
            metrics: orphan.metrics.into_iter().collect(),
        };
        let point = |point: Point| PointRecord { name: point.name, epoch: point.epoch, value: point.value };
        Ok(Self {
            trial: reply.trial.unwrap_or_default().try_into()?,
            attempts: reply.attempts.into_iter().map(attempt).collect(),
            points: reply.points.into_iter().map(point).collect(),
            orphans: reply.orphans.into_iter().map(orphan).collect(),
            recipe: recipe(&reply.recipe_json)?,
            artifact: present(reply.artifact),
            checkpoint: present(reply.checkpoint),
            pruning: present(reply.pruning_json)
                .map(|json| serde_json::from_str(&json))
                .transpose()
                .map_err(|source| CliError::BadReply { what: "what was pruned", source })?,
        })
    }
}

/// Reads a complete recipe as the coordinator sent it.
fn recipe(json: &str) -> Result<Settings, CliError> {
    serde_json::from_str(json).map_err(|source| CliError::BadReply { what: "a recipe", source })
}

/// A trial file for `worker train`: the complete recipe with the seed beside it.
pub(crate) fn trial_file(reply: &GetTrialResponse) -> Result<Settings, CliError> {
    let mut keys = recipe(&reply.recipe_json)?;
    let seed = reply.trial.as_ref().map(|trial| trial.seed).unwrap_or_default();
    keys.insert("seed".to_owned(), seed.into());
    if !reply.start.is_empty() {
        keys.insert("start".to_owned(), reply.start.clone().into());
    }
    Ok(keys)
}

/// Why a trial waits.
#[derive(Debug, Serialize)]
pub(crate) struct ExplainRecord {
    state: &'static str,
    reasons: Vec<String>,
    workers: Vec<VerdictRecord>,
}

#[derive(Debug, Serialize)]
struct VerdictRecord {
    worker: String,
    reasons: Vec<String>,
}

impl From<ExplainResponse> for ExplainRecord {
    fn from(reply: ExplainResponse) -> Self {
        let verdict = |verdict: proto::v1::WorkerVerdict| VerdictRecord {
            worker: verdict.worker,
            reasons: verdict.reasons,
        };
        Self {
            state: format::trial_state(reply.state()),
            reasons: reply.reasons,
            workers: reply.workers.into_iter().map(verdict).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct WorkerRecord {
    id: String,
    name: String,
    state: String,
    slots: u32,
    running: u32,
    quarantined: Option<String>,
    rests_until: Option<String>,
    registered: String,
    last_seen: String,
    backbones: Vec<String>,
    tasks: Vec<String>,
    methods: Vec<String>,
    devices: Vec<DeviceRecord>,
    labels: BTreeMap<String, String>,
    worker_version: String,
    libtorch_version: String,
}

#[derive(Debug, Serialize)]
struct DeviceRecord {
    kind: String,
    name: String,
    memory_bytes: u64,
}

impl From<Worker> for WorkerRecord {
    fn from(worker: Worker) -> Self {
        let offer = worker.capabilities.unwrap_or_default();
        let device = |device: proto::v1::Device| DeviceRecord {
            kind: device.kind,
            name: device.name,
            memory_bytes: device.memory_bytes,
        };
        Self {
            id: worker.id,
            name: worker.name,
            state: worker.state,
            slots: worker.slots,
            running: worker.running,
            quarantined: present(worker.quarantined),
            rests_until: present(format::moment(worker.rests_until.as_ref())),
            registered: format::moment(worker.registered.as_ref()),
            last_seen: format::moment(worker.last_seen.as_ref()),
            backbones: offer.backbones.into_iter().map(|backbone| backbone.name).collect(),
            tasks: offer.tasks.into_iter().map(|task| task.name).collect(),
            methods: offer.methods,
            devices: offer.devices.into_iter().map(device).collect(),
            labels: offer.labels.into_iter().collect(),
            worker_version: offer.worker_version,
            libtorch_version: offer.libtorch_version,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct EventRecord {
    seq: u64,
    at: String,
    kind: &'static str,
    trial: Option<i64>,
    attempt: Option<u32>,
    worker: Option<String>,
    epoch: Option<u32>,
    metrics: BTreeMap<String, f64>,
    failure: Option<String>,
    message: Option<String>,
}

impl From<&Event> for EventRecord {
    fn from(event: &Event) -> Self {
        let kind = match event.kind() {
            EventKind::Unspecified => "unknown",
            EventKind::Submitted => "submitted",
            EventKind::Leased => "leased",
            EventKind::Reported => "reported",
            EventKind::Succeeded => "succeeded",
            EventKind::Stopped => "stopped",
            EventKind::Failed => "failed",
            EventKind::Requeued => "requeued",
            EventKind::Cancelled => "cancelled",
            EventKind::Paused => "paused",
            EventKind::Resumed => "resumed",
            EventKind::Ended => "ended",
            EventKind::Extended => "extended",
            EventKind::StageOpened => "stage_opened",
            EventKind::Suggested => "suggested",
            EventKind::GroupFailed => "group_failed",
            EventKind::Revived => "revived",
        };
        Self {
            seq: event.seq,
            at: format::moment(event.at.as_ref()),
            kind,
            trial: Some(event.trial_id).filter(|id| *id != 0),
            attempt: Some(event.attempt).filter(|attempt| *attempt != 0),
            worker: present(event.worker.clone()),
            epoch: Some(event.epoch).filter(|epoch| *epoch != 0),
            metrics: event.metrics.iter().map(|(name, value)| (name.clone(), *value)).collect(),
            failure: present(format::failure(event.failure()).to_owned()),
            message: present(event.message.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_file_is_the_recipe_with_its_seed() {
        let reply = GetTrialResponse {
            trial: Some(Trial { seed: 42, ..Trial::default() }),
            recipe_json: r#"{"lr":0.1,"method":"linear"}"#.into(),
            ..GetTrialResponse::default()
        };
        let file = trial_file(&reply).expect("a recipe");
        assert_eq!(serde_json::to_string(&file).expect("json"), r#"{"lr":0.1,"method":"linear","seed":42}"#);
        let started = GetTrialResponse { start: "file:///a".into(), ..reply.clone() };
        assert_eq!(trial_file(&started).expect("a recipe")["start"], "file:///a");
        let broken = GetTrialResponse { recipe_json: "{".into(), ..reply };
        assert!(trial_file(&broken).expect_err("broken").to_string().contains("a recipe"));
    }
}
