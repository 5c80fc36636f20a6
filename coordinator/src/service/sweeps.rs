//! The service `Sweeps`.

use std::sync::Arc;

use prost::Message;
use proto::v1;
use proto::v1::sweeps_server::Sweeps;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{POLL, Service, decode, encode, results};
use crate::store::Error;
use crate::store::explain::{Explain, ExplainSweep};
use crate::store::ops::{Added, Cancel, Extend, NewSweep, Pause, Release, Requeue, Resume, Submit};
use crate::store::reads::{
    Events, FindKey, FindSweep, GetSweep, GetTrial, ListSweeps, ListWorkers, LiveOffers, Results, Trials,
};
use crate::store::rows::{EventRow, SweepRow, SweepState};
use crate::sweep_file::{self, File};
use crate::trial::TrialId;

/// Events in one message of a watch.
const WATCH_BATCH: u32 = 500;
/// Bytes after which a page ends early: clients refuse messages of more than 4 MiB unless told otherwise.
const PAGE_BYTES: usize = 3 << 20;

#[tonic::async_trait]
impl Sweeps for Service {
    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        let file = decode::file(request.into_inner())?;
        let known = self.store.read(FindKey { key: file.key() }).await?;
        let (row, created, warnings) = match known {
            Some(row) => (row, false, Vec::new()),
            None => self.submit_new(file).await?,
        };
        tracing::info!(sweep = row.id, name = row.name, trials = row.trials, created, "sweep submitted");
        Ok(Response::new(v1::SubmitResponse {
            sweep_id: row.id,
            created,
            configurations: row.configurations as u64,
            trials: row.trials as u64,
            warnings,
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let sweep = decode::name("sweep", request.into_inner().sweep)?;
        let details = self.store.read(GetSweep { sweep }).await?;
        Ok(Response::new(encode::details(details)?))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let limit = decode::limit(request.into_inner().limit, 100, 1_000)?;
        let rows = self.store.read(ListSweeps { limit }).await?;
        let sweeps = rows.into_iter().map(encode::sweep).collect::<Result<_, _>>()?;
        Ok(Response::new(v1::ListResponse { sweeps }))
    }

    type WatchStream = ReceiverStream<Result<v1::WatchResponse, Status>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let sweep = decode::name("sweep", request.sweep)?;
        let row = self.store.read(FindSweep { sweep }).await?;
        let after = i64::try_from(request.after_seq).unwrap_or(i64::MAX);
        if after > row.last_seq {
            return Err(Error::NoEvent { id: row.id, events: row.last_seq }.into());
        }
        let (sender, receiver) = mpsc::channel(4);
        let is_over = matches!(row.state()?, SweepState::Ended | SweepState::Cancelled);
        if !is_over || after < row.last_seq {
            let service = self.clone();
            tokio::spawn(async move {
                if let Err(status) = service.send_events(row.number, after, &sender).await {
                    // The watcher may be gone already.
                    let _ = sender.send(Err(status)).await;
                }
            });
        }
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn trials(
        &self,
        request: Request<v1::TrialsRequest>,
    ) -> Result<Response<v1::TrialsResponse>, Status> {
        let request = request.into_inner();
        let wanted = request.states.iter().map(|state| decode::trial_state(*state));
        let wanted: Vec<_> = wanted.collect::<Result<_, _>>()?;
        let states: Vec<_> = wanted.iter().copied().flatten().collect();
        let limit = decode::limit(request.limit, 1_000, 10_000)?;
        let sweep = decode::name("sweep", request.sweep)?;
        let trials = Trials { sweep, after: request.after, states, limit };
        // Only states that no trial is ever in were asked for.
        let none = !wanted.is_empty() && trials.states.is_empty();
        let rows = if none { Vec::new() } else { self.store.read(trials).await? };
        let trials = rows.into_iter().map(encode::trial).collect::<Result<_, _>>()?;
        let (trials, is_last) = page(trials, limit);
        let next_after = trials.last().map_or(0, |trial| if is_last { 0 } else { trial.id });
        Ok(Response::new(v1::TrialsResponse { trials, next_after }))
    }

    async fn get_trial(
        &self,
        request: Request<v1::GetTrialRequest>,
    ) -> Result<Response<v1::GetTrialResponse>, Status> {
        let trial = TrialId(request.into_inner().trial_id);
        let details = self.store.read(GetTrial { trial }).await?;
        Ok(Response::new(encode::trial_details(details)?))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let v1::ExplainRequest { trial_id, sweep } = request.into_inner();
        let explanation = if sweep.is_empty() {
            self.store.read(Explain { trial: TrialId(trial_id) }).await?
        } else {
            self.store.read(ExplainSweep { sweep }).await?
        };
        Ok(Response::new(encode::explanation(explanation)))
    }

    async fn results(
        &self,
        request: Request<v1::ResultsRequest>,
    ) -> Result<Response<v1::ResultsResponse>, Status> {
        let request = request.into_inner();
        let limit = decode::limit(request.limit, 10_000, 100_000)?;
        let sweep = decode::name("sweep", request.sweep)?;
        let found = self.store.read(Results { sweep, after: request.after, limit }).await?;
        let row = &found.sweep;
        let mut response = v1::ResultsResponse {
            objective: Some(encode::objective(row.objective()?)),
            report: crate::store::rows::from_json("sweep", &row.id, &row.report_json)?,
            axes: crate::store::rows::from_json("sweep", &row.id, &row.axes_json)?,
            first_recipe_json: found.first_recipe_json,
            allow_test_selection: row.allow_test_selection != 0,
            test_stages: found.test_stages,
            ..Default::default()
        };
        let mut outcomes = found.outcomes.iter().peekable();
        let mut configurations = Vec::with_capacity(found.configurations.len());
        for row in found.configurations {
            let own = outcomes.next_if(|outcomes| outcomes.config == row.number);
            configurations.push(results::configuration(row, own, &request.metrics)?);
        }
        let (configurations, is_last) = page(configurations, limit);
        response.next_after = configurations.last().map_or(0, |row| if is_last { 0 } else { row.number });
        response.configurations = configurations;
        Ok(Response::new(response))
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        let sweep = decode::name("sweep", request.into_inner().sweep)?;
        let row = self.store.write(Cancel { sweep }).await?;
        tracing::info!(sweep = row.id, "sweep cancelled");
        Ok(Response::new(v1::CancelResponse { sweep: Some(encode::sweep(row)?) }))
    }

    async fn pause(&self, request: Request<v1::PauseRequest>) -> Result<Response<v1::PauseResponse>, Status> {
        let sweep = decode::name("sweep", request.into_inner().sweep)?;
        let row = self.store.write(Pause { sweep }).await?;
        Ok(Response::new(v1::PauseResponse { sweep: Some(encode::sweep(row)?) }))
    }

    async fn resume(
        &self,
        request: Request<v1::ResumeRequest>,
    ) -> Result<Response<v1::ResumeResponse>, Status> {
        let sweep = decode::name("sweep", request.into_inner().sweep)?;
        let row = self.store.write(Resume { sweep }).await?;
        Ok(Response::new(v1::ResumeResponse { sweep: Some(encode::sweep(row)?) }))
    }

    async fn requeue(
        &self,
        request: Request<v1::RequeueRequest>,
    ) -> Result<Response<v1::RequeueResponse>, Status> {
        let request = request.into_inner();
        let sweep = decode::name("sweep", request.sweep)?;
        let classes = request.classes.into_iter().map(decode::class).collect::<Result<_, _>>()?;
        let change = decode::change(&request.changes)?;
        let (row, trials) = self.store.write(Requeue { sweep, classes, change }).await?;
        tracing::info!(sweep = row.id, trials, "failed trials queued again");
        Ok(Response::new(v1::RequeueResponse { sweep: Some(encode::sweep(row)?), trials }))
    }

    async fn extend(
        &self,
        request: Request<v1::ExtendRequest>,
    ) -> Result<Response<v1::ExtendResponse>, Status> {
        let v1::ExtendRequest { sweep, file, overrides, provenance } = request.into_inner();
        let sweep = decode::name("sweep", sweep)?;
        let file = decode::file(v1::SubmitRequest { file, overrides, provenance, key: String::new() })?;
        let (file, warnings) = self.expand(file).await?;
        let (row, added) = self.store.write(Extend { sweep, file }).await?;
        let Added { configurations, trials } = added;
        tracing::info!(sweep = row.id, configurations, trials, "sweep extended");
        let sweep = Some(encode::sweep(row)?);
        Ok(Response::new(v1::ExtendResponse { sweep, configurations, trials, warnings }))
    }

    async fn list_workers(
        &self,
        _request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let rows = self.store.read(ListWorkers).await?;
        let workers = rows.into_iter().map(encode::worker).collect::<Result<_, _>>()?;
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn release_worker(
        &self,
        request: Request<v1::ReleaseWorkerRequest>,
    ) -> Result<Response<v1::ReleaseWorkerResponse>, Status> {
        let worker = decode::name("worker", request.into_inner().worker)?;
        let released = self.store.write(Release { worker }).await?;
        let ids: Vec<_> = released.into_iter().map(|row| row.id).collect();
        tracing::info!(workers = ids.join(" "), "workers released");
        let rows = self.store.read(ListWorkers).await?;
        let rows = rows.into_iter().filter(|(row, _)| ids.contains(&row.id));
        let workers = rows.map(encode::worker).collect::<Result<_, _>>()?;
        Ok(Response::new(v1::ReleaseWorkerResponse { workers }))
    }
}

impl Service {
    /// Expands a file and queues its trials.
    async fn submit_new(&self, file: File) -> Result<(SweepRow, bool, Vec<String>), Status> {
        let (sweep, warnings) = self.expand(file).await?;
        let (row, created) = self.store.write(Submit { sweep }).await?;
        Ok((row, created, warnings))
    }

    /// One file at a time: an expanded one may take much memory.
    async fn expand(&self, file: File) -> Result<(NewSweep, Vec<String>), Status> {
        let stops = |_| Status::unavailable("the coordinator stops");
        let turn = Arc::clone(&self.expansions).acquire_owned().await.map_err(stops)?;
        let offers = self.store.read(LiveOffers).await?;
        let expand = move || (sweep_file::expand(file, &offers), turn);
        // The turn goes along: the thread goes on when the caller has gone away.
        let expanded = tokio::task::spawn_blocking(expand).await;
        let (expanded, _turn) = expanded.map_err(|_| Status::internal("reading the sweep file broke off"))?;
        Ok(expanded?)
    }

    /// Sends events until the sweep is over, the watcher is gone, or the coordinator stops.
    async fn send_events(
        &self,
        sweep: i64,
        mut after: i64,
        sender: &mpsc::Sender<Result<v1::WatchResponse, Status>>,
    ) -> Result<(), Status> {
        let mut changes = self.store.changes();
        loop {
            changes.mark_unchanged();
            let rows = self.store.read(Events { sweep, after, limit: WATCH_BATCH }).await?;
            let is_full = rows.len() == WATCH_BATCH as usize;
            // What had ended may have been queued again.
            let is_end = |row: &EventRow| row.kind == "ended" || (row.kind == "cancelled" && row.trial == 0);
            let is_over = !is_full && rows.last().is_some_and(is_end);
            let events = rows.into_iter().map(encode::event).collect::<Result<Vec<_>, _>>()?;
            let mut rest = events.as_slice();
            while !rest.is_empty() {
                let (events, later) = rest.split_at(fitting(rest));
                after = events.last().map_or(after, |event| event.seq as i64);
                rest = later;
                if sender.send(Ok(v1::WatchResponse { events: events.to_vec() })).await.is_err() {
                    return Ok(());
                }
            }
            if is_over {
                return Ok(());
            }
            if is_full {
                continue;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(POLL) => {}
                () = sender.closed() => return Ok(()),
                () = self.shutdown.cancelled() => {
                    return Err(Status::unavailable(format!("the coordinator stops; watch again after {after}")));
                }
            }
        }
    }
}

/// As many entries as a message should hold, and whether they are the last.
fn page<M: Message>(mut entries: Vec<M>, limit: u32) -> (Vec<M>, bool) {
    let is_last = entries.len() < limit as usize;
    let fitting = fitting(&entries);
    let is_cut = fitting < entries.len();
    entries.truncate(fitting);
    (entries, is_last && !is_cut)
}

/// How many entries, from the first, a message should hold: at least one if there is one.
fn fitting<M: Message>(entries: &[M]) -> usize {
    let mut bytes = 0;
    let fits = entries.iter().take_while(|entry| {
        bytes += entry.encoded_len();
        bytes <= PAGE_BYTES
    });
    fits.count().max(1).min(entries.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_by_bytes() {
        let event = |bytes| v1::Event { message: "x".repeat(bytes), ..Default::default() };
        let mib = 1 << 20;
        assert_eq!(fitting::<v1::Event>(&[]), 0);
        assert_eq!(fitting(&[event(5 * mib), event(1)]), 1, "one at least");
        assert_eq!(fitting(&[event(mib), event(mib), event(mib), event(1)]), 2);
        assert_eq!(fitting(&[event(1), event(1)]), 2);
        let (entries, is_last) = page(vec![event(2 * mib), event(2 * mib)], 10);
        assert_eq!((entries.len(), is_last), (1, false));
    }
}
