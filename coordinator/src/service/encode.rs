//! Rows as messages.

use std::collections::HashMap;

use proto::v1;
use tonic::Status;

use crate::offer::Offer;
use crate::score::{At, Goal, Objective};
use crate::store::Error;
use crate::store::Token;
use crate::store::explain::Explanation;
use crate::store::ops::{Leased, Lost, Verdict};
use crate::store::reads::{SweepDetails, TrialDetails};
use crate::store::rows::{
    AssignmentRow, AttemptRow, EventRow, OrphanRow, PointRow, SweepRow, SweepState, TrialView, WorkerRow,
    class, from_json, to_u32,
};
use crate::trial::{FailureClass, Millis};

pub(super) fn timestamp(at: Millis) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.div_euclid(1_000), nanos: (at.rem_euclid(1_000) * 1_000_000) as i32 }
}

pub(super) fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

pub(super) fn objective(given: Objective) -> v1::Objective {
    let goal = match given.goal {
        Goal::Maximize => "maximize",
        Goal::Minimize => "minimize",
    };
    let at = match given.at {
        At::Last => "last",
        At::Best => "best",
    };
    v1::Objective { metric: given.metric, goal: goal.to_owned(), at: at.to_owned() }
}

pub(super) fn sweep(row: SweepRow) -> Result<v1::Sweep, Status> {
    let state = match row.state()? {
        SweepState::Active => v1::SweepState::Active,
        SweepState::Paused => v1::SweepState::Paused,
        SweepState::Ended => v1::SweepState::Ended,
        SweepState::Cancelled => v1::SweepState::Cancelled,
    };
    Ok(v1::Sweep {
        objective: Some(objective(row.objective()?)),
        labels: from_json("sweep", &row.id, &row.labels_json)?,
        report: from_json("sweep", &row.id, &row.report_json)?,
        axes: from_json("sweep", &row.id, &row.axes_json)?,
        id: row.id,
        name: row.name,
        project: row.project,
        state: state.into(),
        created: Some(timestamp(row.created)),
        configurations: count(row.configurations),
        counts: Some(v1::Counts {
            waiting: count(row.waiting),
            queued: count(row.queued),
            running: count(row.running),
            succeeded: count(row.succeeded),
            stopped: count(row.stopped),
            failed: count(row.failed),
            cancelled: count(row.cancelled),
        }),
        last_seq: count(row.last_seq),
        priority: i32::try_from(row.priority).unwrap_or_default(),
        paused_because: row.paused_because,
        allow_test_selection: row.allow_test_selection != 0,
    })
}

pub(super) fn details(details: SweepDetails) -> Result<v1::GetResponse, Status> {
    let mut failures = Vec::new();
    for row in details.failures {
        failures.push(v1::FailureCount {
            class: failure(class("trial", "failures", Some(&row.class))?).into(),
            trials: count(row.trials),
            example: row.example.unwrap_or_default(),
        });
    }
    let unserved = details.unserved.into_iter().map(|row| v1::Unserved {
        trials: count(row.trials),
        backbone: row.need.backbone,
        task: row.need.task,
        method: row.need.method,
        reasons: row.reasons,
    });
    let failed_groups = |stage: &str| {
        let of_stage = details.failed_groups.iter().filter(|group| group.stage == stage);
        of_stage.map(|group| group.key_json.clone()).collect()
    };
    let stages = details.stages.iter().map(|row| v1::Stage {
        name: row.name.clone(),
        from: row.parent.clone().unwrap_or_default(),
        waiting: count(row.waiting),
        opened: count(row.opened),
        failed: count(row.failed),
        failed_groups: failed_groups(&row.name),
        ..Default::default()
    });
    let mut stages: Vec<v1::Stage> = stages.collect();
    if let (Some(first), Some((sampler, counts))) = (stages.first_mut(), details.studies) {
        first.sampler = sampler;
        first.studies = count(counts.studies);
        first.suggested = count(counts.made);
        first.to_suggest = count(counts.size);
    }
    let mut response =
        v1::GetResponse { failures, unserved: unserved.collect(), stages, ..Default::default() };
    if let Some(source) = details.source {
        response.overrides = from_json("source", &details.sweep.id, &source.overrides_json)?;
        response.file = source.file;
        response.provenance = Some(v1::Provenance {
            client_version: source.client_version,
            git_commit: source.git_commit,
            git_dirty: source.git_dirty != 0,
        });
    }
    response.sweep = Some(sweep(details.sweep)?);
    Ok(response)
}

fn failure(given: Option<FailureClass>) -> v1::FailureClass {
    use v1::FailureClass as C;
    match given {
        None => C::Unspecified,
        Some(FailureClass::InvalidConfig) => C::InvalidConfig,
        Some(FailureClass::CodeError) => C::CodeError,
        Some(FailureClass::Diverged) => C::Diverged,
        Some(FailureClass::CudaOom) => C::CudaOom,
        Some(FailureClass::HostOom) => C::HostOom,
        Some(FailureClass::Timeout) => C::Timeout,
        Some(FailureClass::BadData) => C::BadData,
        Some(FailureClass::BadNode) => C::BadNode,
        Some(FailureClass::Poison) => C::Poison,
    }
}

/// Metrics as stored: null is a value that was not finite.
fn metrics(table: &'static str, row: i64, json: Option<&str>) -> Result<HashMap<String, f64>, Error> {
    let Some(json) = json else { return Ok(HashMap::new()) };
    let metrics: HashMap<String, Option<f64>> = from_json(table, row, json)?;
    Ok(metrics.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect())
}

pub(super) fn event(row: EventRow) -> Result<v1::Event, Error> {
    use v1::EventKind as K;
    let kind = match row.kind.as_str() {
        "submitted" => K::Submitted,
        "leased" => K::Leased,
        "reported" => K::Reported,
        "succeeded" => K::Succeeded,
        "failed" => K::Failed,
        "requeued" => K::Requeued,
        "cancelled" => K::Cancelled,
        "paused" => K::Paused,
        "resumed" => K::Resumed,
        "ended" => K::Ended,
        "extended" => K::Extended,
        "stage_opened" => K::StageOpened,
        "group_failed" => K::GroupFailed,
        "revived" => K::Revived,
        "stopped" => K::Stopped,
        "suggested" => K::Suggested,
        _ => K::Unspecified,
    };
    Ok(v1::Event {
        seq: count(row.seq),
        at: Some(timestamp(row.at)),
        kind: kind.into(),
        trial_id: row.trial,
        attempt: to_u32(row.attempt),
        epoch: to_u32(row.epoch),
        metrics: metrics("event", row.seq, row.metrics_json.as_deref())?,
        failure: failure(class("event", row.seq, row.class.as_deref())?).into(),
        worker: row.worker,
        message: row.message,
    })
}

fn trial_state(name: &str) -> v1::TrialState {
    use v1::TrialState as S;
    match name {
        "queued" => S::Queued,
        "running" => S::Running,
        "succeeded" => S::Succeeded,
        "stopped" => S::Stopped,
        "failed" => S::Failed,
        "cancelled" => S::Cancelled,
        _ => S::Unspecified,
    }
}

pub(super) fn explanation(given: Explanation) -> v1::ExplainResponse {
    let verdict = |(worker, reasons)| v1::WorkerVerdict { worker, reasons };
    v1::ExplainResponse {
        state: trial_state(&given.state).into(),
        reasons: given.reasons,
        workers: given.workers.into_iter().map(verdict).collect(),
    }
}

pub(super) fn trial(row: TrialView) -> Result<v1::Trial, Error> {
    let state = trial_state(&row.state);
    Ok(v1::Trial {
        id: row.id,
        metrics: metrics("result", row.id, row.metrics_json.as_deref())?,
        failure: failure(class("trial", row.id, row.class.as_deref())?).into(),
        sweep_id: row.sweep_id,
        stage: row.stage,
        block: row.block,
        config_hash: row.hash,
        seed: row.seed,
        settings_json: row.settings_json,
        state: state.into(),
        attempt: to_u32(row.attempt),
        worker: row.worker.unwrap_or_default(),
        objective: row.objective,
        message: row.message.unwrap_or_default(),
        epoch: to_u32(row.epoch),
        epochs: to_u32(row.epochs),
        started: row.started.map(timestamp),
        ended: row.ended.map(timestamp),
        origin: row
            .origin
            .map(|trial_id| v1::Origin { trial_id, sweep_id: row.origin_sweep.unwrap_or_default() }),
    })
}

pub(super) fn trial_details(details: TrialDetails) -> Result<v1::GetTrialResponse, Error> {
    let point = |row: PointRow| v1::Point {
        name: row.name,
        epoch: to_u32(row.epoch),
        value: row.value.unwrap_or(f64::NAN),
    };
    Ok(v1::GetTrialResponse {
        trial: Some(trial(details.trial)?),
        attempts: details.attempts.into_iter().map(attempt).collect::<Result<_, _>>()?,
        points: details.points.into_iter().map(point).collect(),
        orphans: details.orphans.into_iter().map(orphan).collect::<Result<_, _>>()?,
        recipe_json: details.recipe_json,
        artifact: details.artifact.unwrap_or_default(),
        pruning_json: details.pruning_json.unwrap_or_default(),
        checkpoint: details.checkpoint.unwrap_or_default(),
        start: details.start.unwrap_or_default(),
    })
}

fn orphan(row: OrphanRow) -> Result<v1::Orphan, Error> {
    Ok(v1::Orphan {
        metrics: metrics("orphan", row.trial, Some(&row.metrics_json))?,
        attempt: to_u32(row.attempt),
        worker: row.worker,
        at: Some(timestamp(row.at)),
        reason: row.reason,
    })
}

fn attempt(row: AttemptRow) -> Result<v1::Attempt, Error> {
    Ok(v1::Attempt {
        failure: failure(class("attempt", row.trial, row.class.as_deref())?).into(),
        number: to_u32(row.number),
        worker: row.worker,
        started: Some(timestamp(row.started)),
        ended: row.ended.map(timestamp),
        end: row.how.unwrap_or_else(|| "running".to_owned()),
        message: row.message.unwrap_or_default(),
    })
}

pub(super) fn worker((row, running): (WorkerRow, i64)) -> Result<v1::Worker, Error> {
    Ok(v1::Worker {
        capabilities: Some(capabilities(row.offer()?)),
        id: row.id,
        name: row.name,
        registered: Some(timestamp(row.registered)),
        last_seen: Some(timestamp(row.last_seen)),
        state: row.state,
        slots: to_u32(row.slots),
        running: to_u32(running),
        quarantined: row.quarantined.unwrap_or_default(),
        rests_until: (row.rests_until > 0).then(|| timestamp(row.rests_until)),
    })
}

fn capabilities(offer: Offer) -> v1::Capabilities {
    let backbone = |given: crate::offer::Backbone| v1::Backbone {
        name: given.name,
        sha256: given.sha256,
        depth: given.depth,
        dim: given.dim,
        family: given.family,
    };
    let task = |given: crate::offer::Task| v1::Task {
        name: given.name,
        classes: given.classes,
        splits: given.splits,
    };
    let device = |given: crate::offer::Device| v1::Device {
        kind: given.kind,
        name: given.name,
        memory_bytes: given.memory_bytes,
    };
    v1::Capabilities {
        backbones: offer.backbones.into_iter().map(backbone).collect(),
        tasks: offer.tasks.into_iter().map(task).collect(),
        methods: offer.methods,
        devices: offer.devices.into_iter().map(device).collect(),
        libtorch_version: offer.libtorch_version,
        worker_version: offer.worker_version,
        labels: offer.labels.into_iter().collect(),
    }
}

/// One of these assignments.
pub(super) fn assignment(row: AssignmentRow, leased: &Leased) -> Result<v1::Assignment, Error> {
    let own = leased.leaders.iter().filter(|leader| leader.trial == row.trial);
    let rewinds: Vec<Option<i64>> = own.map(|leader| leader.rewind).collect();
    let own = leased.reusable.iter().filter(|other| other.trial == row.trial).map(|row| v1::Reusable {
        trial_id: row.origin,
        inputs: row.inputs.clone(),
        code: row.code.clone(),
    });
    let checkpoints = row.checkpoints()?;
    Ok(v1::Assignment {
        trial_id: row.trial,
        attempt: to_u32(row.attempt),
        sweep_id: row.sweep_id,
        recipe_json: row.recipe_json,
        seed: row.seed,
        timeout_ms: row.timeout_ms.map_or(0, count),
        checkpoint: row.checkpoint.unwrap_or_default(),
        checkpoint_every_ms: checkpoints.every_ms.unwrap_or_default(),
        checkpoint_on_drain: checkpoints.on_drain,
        start: row.start.unwrap_or_default(),
        reusable: own.collect(),
        prefix: row.prefix_url.unwrap_or_default(),
        keep_prefix: !rewinds.is_empty(),
        keep_epochs: rewinds.into_iter().flatten().map(to_u32).collect(),
    })
}

pub(super) fn token(token: Token) -> v1::Token {
    v1::Token { trial_id: token.trial.0, attempt: token.attempt }
}

pub(super) fn lost(lost: Lost) -> v1::Lost {
    v1::Lost { token: Some(token(lost.token)), reason: lost.reason }
}

pub(super) fn verdict(given: Token, verdict: Verdict) -> v1::Verdict {
    use v1::verdict::Outcome;
    let (outcome, reason) = match verdict {
        Verdict::Accepted { reason } => (Outcome::Accepted, reason),
        Verdict::Fenced { reason } => (Outcome::Fenced, reason),
    };
    v1::Verdict { token: Some(token(given)), outcome: outcome.into(), reason }
}
