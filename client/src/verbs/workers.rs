//! `sweep workers` and `sweep workers release`.

use proto::v1::{ListWorkersRequest, ReleaseWorkerRequest, Worker};

use crate::cli::Format;
use crate::connection::Connection;
use crate::error::CliError;
use crate::output::{Column, Grid};
use crate::records::WorkerRecord;
use crate::{format, output};

pub(crate) async fn list(mut connection: Connection, format: Format) -> Result<(), CliError> {
    let workers = fetch(&mut connection).await?;
    if format == Format::Json {
        let records: Vec<WorkerRecord> = workers.into_iter().map(WorkerRecord::from).collect();
        return output::print_json(&records);
    }
    if workers.is_empty() {
        output::remark("no worker has registered yet; start one with `worker start`");
        return Ok(());
    }
    output::print(&page(&workers))
}

pub(crate) async fn release(
    mut connection: Connection,
    worker: String,
    format: Format,
) -> Result<(), CliError> {
    let reply = connection.client.release_worker(ReleaseWorkerRequest { worker }).await;
    let workers = reply.map_err(|status| connection.explain(&status))?.into_inner().workers;
    if format == Format::Json {
        let records: Vec<WorkerRecord> = workers.into_iter().map(WorkerRecord::from).collect();
        return output::print_json(&records);
    }
    output::print(&page(&workers))
}

/// The table, and below it why workers are quarantined.
fn page(workers: &[Worker]) -> String {
    let mut text = grid(workers).to_text();
    for worker in workers.iter().filter(|worker| !worker.quarantined.is_empty()) {
        let Worker { name, quarantined, .. } = worker;
        text.push_str(&format!(
            "\n{name} is quarantined: {quarantined}; `sweep workers release {name}` lifts it\n"
        ));
    }
    text
}

pub(crate) async fn fetch(connection: &mut Connection) -> Result<Vec<Worker>, CliError> {
    let reply = connection.client.list_workers(ListWorkersRequest {}).await;
    Ok(reply.map_err(|status| connection.explain(&status))?.into_inner().workers)
}

fn grid(workers: &[Worker]) -> Grid {
    let columns = vec![
        Column::text("worker"),
        Column::text("state"),
        Column::number("running"),
        Column::text("devices"),
        Column::text("backbones"),
        Column::text("tasks"),
        Column::number("methods"),
        Column::text("last seen"),
    ];
    let line = |worker: &Worker| {
        let offer = worker.capabilities.clone().unwrap_or_default();
        let names = |names: Vec<String>| if names.is_empty() { "–".to_owned() } else { names.join(" ") };
        vec![
            worker.name.clone(),
            if worker.quarantined.is_empty() { worker.state.clone() } else { "quarantined".to_owned() },
            format!("{}/{}", worker.running, worker.slots),
            names(offer.devices.into_iter().map(|device| device.kind).collect()),
            names(offer.backbones.into_iter().map(|backbone| backbone.name).collect()),
            names(offer.tasks.into_iter().map(|task| task.name).collect()),
            offer.methods.len().to_string(),
            format::moment(worker.last_seen.as_ref()),
        ]
    };
    Grid { columns, rows: workers.iter().map(line).collect() }
}
