//! `sweep list` and `sweep show`.

use proto::v1::{GetRequest, GetResponse, ListRequest, Stage, Sweep};

use crate::cli::{Format, ShowArgs};
use crate::connection::Connection;
use crate::error::CliError;
use crate::output::{Column, Grid};
use crate::records::{ShowRecord, SweepRecord, ended, total};
use crate::{format, output};

pub(crate) async fn list(mut connection: Connection, limit: u32, format: Format) -> Result<(), CliError> {
    let reply = connection.client.list(ListRequest { limit }).await;
    let sweeps = reply.map_err(|status| connection.explain(&status))?.into_inner().sweeps;
    if format == Format::Json {
        let records: Vec<SweepRecord> = sweeps.into_iter().map(SweepRecord::from).collect();
        return output::print_json(&records);
    }
    if sweeps.is_empty() {
        output::remark("there is no sweep yet; `sweep submit FILE` makes one");
        return Ok(());
    }
    output::print(&grid(&sweeps).to_text())
}

fn grid(sweeps: &[Sweep]) -> Grid {
    let columns = vec![
        Column::text("id"),
        Column::text("name"),
        Column::text("state"),
        Column::number("ended"),
        Column::number("running"),
        Column::number("failed"),
        Column::number("configurations"),
        Column::text("created"),
    ];
    let line = |sweep: &Sweep| {
        let counts = sweep.counts.unwrap_or_default();
        vec![
            sweep.id.clone(),
            sweep.name.clone(),
            format::sweep_state(sweep.state()).to_owned(),
            format!("{}/{}", ended(&counts), total(&counts)),
            counts.running.to_string(),
            counts.failed.to_string(),
            sweep.configurations.to_string(),
            format::moment(sweep.created.as_ref()),
        ]
    };
    Grid { columns, rows: sweeps.iter().map(line).collect() }
}

pub(crate) async fn show(mut connection: Connection, args: ShowArgs, format: Format) -> Result<(), CliError> {
    let reply = connection.client.get(GetRequest { sweep: args.sweep }).await;
    let reply = reply.map_err(|status| connection.explain(&status))?.into_inner();
    if args.file {
        return output::print(&reply.file);
    }
    match format {
        Format::Json => output::print_json(&ShowRecord::from(reply)),
        _ => output::print(&page(&reply)),
    }
}

/// A sweep as a page of `name  value` lines and the tables of what went wrong.
fn page(reply: &GetResponse) -> String {
    let sweep = reply.sweep.clone().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in facts(reply, &sweep) {
        if !value.is_empty() {
            text.push_str(&format!("{name:<14}{value}\n"));
        }
    }
    if reply.stages.len() > 1 {
        text.push_str("\nstages\n");
        for stage in reply.stages.iter().filter(|stage| !stage.from.is_empty()) {
            let Stage { name, from, waiting, opened, failed, .. } = stage;
            text.push_str(&format!(
                "  {name} from {from}: {opened} groups opened, {waiting} waiting, {failed} without a score\n"
            ));
            for group in &stage.failed_groups {
                text.push_str(&format!("        no score in {group}\n"));
            }
        }
    }
    for stage in reply.stages.iter().filter(|stage| stage.studies > 0) {
        let Stage { name, sampler, studies, suggested, to_suggest, .. } = stage;
        text.push_str(&format!(
            "\nsampler\n  {name} by {sampler}: {suggested} of {to_suggest} configurations chosen, in {studies} studies\n"
        ));
    }
    if !reply.failures.is_empty() {
        text.push_str("\nfailures\n");
        for failure in &reply.failures {
            let class = format::failure(failure.class());
            text.push_str(&format!("  {:>5} {class}: {}\n", failure.trials, failure.example));
        }
    }
    if !reply.unserved.is_empty() {
        text.push_str("\nqueued, and no live worker can run them\n");
        for unserved in &reply.unserved {
            let kind = format!("{} {} {}", unserved.backbone, unserved.task, unserved.method);
            text.push_str(&format!("  {:>5} {kind}\n", unserved.trials));
            if unserved.reasons.is_empty() {
                text.push_str("        there is no live worker\n");
            }
            for reason in &unserved.reasons {
                text.push_str(&format!("        {reason}\n"));
            }
        }
    }
    text
}

fn facts(reply: &GetResponse, sweep: &Sweep) -> Vec<(&'static str, String)> {
    let counts = sweep.counts.unwrap_or_default();
    let objective = sweep.objective.clone().unwrap_or_default();
    let provenance = reply.provenance.clone().unwrap_or_default();
    let mut labels: Vec<String> =
        sweep.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    labels.sort();
    let mut state = format::sweep_state(sweep.state()).to_owned();
    if !sweep.paused_because.is_empty() {
        state.push_str(&format!(" ({})", sweep.paused_because));
    }
    let dirty = if provenance.git_dirty { " with changes" } else { "" };
    let commit = match provenance.git_commit.as_str() {
        "" => String::new(),
        commit => format!("{commit}{dirty}"),
    };
    let parts = [
        ("waiting", counts.waiting),
        ("queued", counts.queued),
        ("running", counts.running),
        ("succeeded", counts.succeeded),
        ("stopped", counts.stopped),
        ("failed", counts.failed),
        ("cancelled", counts.cancelled),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}")).collect();
    let trials = match parts.as_slice() {
        [] => "0".to_owned(),
        parts => format!("{} ({})", total(&counts), parts.join(", ")),
    };
    vec![
        ("sweep", sweep.id.clone()),
        ("name", sweep.name.clone()),
        ("project", sweep.project.clone()),
        ("labels", labels.join(" ")),
        ("state", state),
        ("created", format::moment(sweep.created.as_ref())),
        ("objective", format!("{} {}, {} epoch", objective.goal, objective.metric, objective.at)),
        ("report", sweep.report.join(" ")),
        ("axes", sweep.axes.join(" ")),
        ("priority", sweep.priority.to_string()),
        ("configurations", format!(" {}", sweep.configurations)),
        ("trials", trials),
        ("overrides", reply.overrides.join(" ")),
        ("client", provenance.client_version),
        ("commit", commit),
    ]
}

#[cfg(test)]
mod tests {
    use proto::v1::{Counts, FailureClass, FailureCount, Objective, Provenance, SweepState, Unserved};

    use super::*;

    fn sweep() -> Sweep {
        Sweep {
            id: "3f2a9c01".into(),
            name: "prompt-study".into(),
            project: "replication".into(),
            labels: [("paper".to_owned(), "table-1".to_owned())].into(),
            state: SweepState::Paused as i32,
            created: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 }),
            objective: Some(Objective {
                metric: "val/top1".into(),
                goal: "maximize".into(),
                at: "last".into(),
            }),
            configurations: 10,
            counts: Some(Counts { queued: 12, running: 2, succeeded: 14, failed: 2, ..Counts::default() }),
            paused_because: "20 trials in a row failed".into(),
            report: vec!["test/top1".into()],
            axes: vec!["task".into(), "lr".into()],
            ..Sweep::default()
        }
    }

    #[test]
    fn a_sweep_with_everything() {
        let reply = GetResponse {
            sweep: Some(sweep()),
            failures: vec![FailureCount {
                class: FailureClass::CudaOom as i32,
                trials: 2,
                example: "out of memory at batch 64".into(),
            }],
            file: "version: 1\n".into(),
            overrides: vec!["base.epochs=5".into()],
            provenance: Some(Provenance {
                client_version: "0.1.0".into(),
                git_commit: "9d5ed678fe57bcca610140957afab571".into(),
                git_dirty: true,
            }),
            unserved: vec![Unserved {
                trials: 6,
                backbone: "vit_b16".into(),
                task: "vtab/dtd".into(),
                method: "gated".into(),
                reasons: vec!["gpu-03 lacks task vtab/dtd".into()],
            }],
            stages: vec![
                Stage { name: "tune".into(), ..Stage::default() },
                Stage {
                    name: "final".into(),
                    from: "tune".into(),
                    waiting: 3,
                    opened: 2,
                    failed: 1,
                    failed_groups: vec![r#"{"task":"vtab/dtd"}"#.into()],
                    ..Stage::default()
                },
            ],
        };
        insta::assert_snapshot!(page(&reply));
    }

    #[test]
    fn a_list_of_sweeps() {
        insta::assert_snapshot!(grid(&[sweep()]).to_text());
    }
}
