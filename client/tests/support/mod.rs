//! A coordinator with scripted replies, on a port of its own, and the command `sweep` against it.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use assert_cmd::Command;
use proto::v1::sweeps_server::{Sweeps, SweepsServer};
use proto::v1::*;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status};

/// What a call to `Watch` sends, and how it ends.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub events: Vec<Event>,
    pub end: Result<(), Status>,
    /// Keeps the stream open after the events, as a coordinator does that has nothing to say.
    pub stays: bool,
}

/// What the coordinator knows. Everything else is answered NOT_FOUND.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub token: Option<String>,
    pub sweeps: Vec<Sweep>,
    pub trials: Vec<Trial>,
    pub results: Vec<Configuration>,
    pub recipe: String,
    pub workers: Vec<Worker>,
    /// What `Explain` says of any trial, besides its state.
    pub explanation: ExplainResponse,
    /// One for each call to `Watch`, in order.
    pub watches: VecDeque<Script>,
    /// `after_seq` of each call to `Watch`.
    pub watched_after: Vec<u64>,
    pub submitted: Vec<SubmitRequest>,
    /// What `Pause` answers instead of pausing.
    pub refuse_pause: Option<Status>,
}

pub(crate) type Shared = Arc<Mutex<World>>;

/// A running coordinator; it stops with the value.
pub(crate) struct Server {
    pub address: SocketAddr,
    pub world: Shared,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    pub(crate) fn start(world: World) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), Arc::new(Mutex::new(world)))
    }

    /// Starts where another one was, as after a restart.
    pub(crate) fn start_at(address: SocketAddr, world: Shared) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let service = SweepsServer::new(Service(world.clone()));
        let server = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, world, runtime }
    }

    /// Goes away without a goodbye: open streams break, the port refuses.
    pub(crate) fn kill(self) -> (SocketAddr, Shared) {
        self.runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        (self.address, self.world)
    }

    /// The command `sweep`, pointed here.
    pub(crate) fn sweep(&self, arguments: &[&str]) -> Command {
        let mut command = sweep(arguments);
        command.env("SWEEP_SERVER", format!("http://{}", self.address));
        command
    }
}

/// The command `sweep`, in an environment without settings of its own.
pub(crate) fn sweep(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sweep"));
    command.env_remove("SWEEP_TOKEN").env_remove("SWEEP_SERVER").env("NO_COLOR", "1").args(arguments);
    command
}

struct Service(Shared);

impl Service {
    fn world<T>(&self, request: &Request<T>) -> Result<std::sync::MutexGuard<'_, World>, Status> {
        let world = self.0.lock().expect("no panic");
        let sent = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        match &world.token {
            Some(token) if sent != Some(&format!("Bearer {token}")) => {
                Err(Status::unauthenticated("a token is needed"))
            }
            _ => Ok(world),
        }
    }
}

impl World {
    fn sweep(&mut self, id: &str) -> Result<&mut Sweep, Status> {
        let missing = || Status::not_found(format!("no sweep `{id}`; `sweep list` shows those there are"));
        if id == "last" {
            return self.sweeps.last_mut().ok_or_else(missing);
        }
        self.sweeps.iter_mut().find(|sweep| sweep.id.starts_with(id)).ok_or_else(missing)
    }
}

#[tonic::async_trait]
impl Sweeps for Service {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<SubmitResponse>, Status> {
        let mut world = self.world(&request)?;
        let request = request.into_inner();
        let created = world.submitted.is_empty();
        world.submitted.push(request);
        let sweep = world.sweep("last")?;
        let (sweep_id, configurations) = (sweep.id.clone(), sweep.configurations);
        let trials = world.trials.len() as u64;
        Ok(Response::new(SubmitResponse { sweep_id, created, configurations, trials, warnings: vec![] }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let mut world = self.world(&request)?;
        let sweep = world.sweep(&request.get_ref().sweep)?.clone();
        Ok(Response::new(GetResponse { sweep: Some(sweep), ..GetResponse::default() }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let sweeps = self.world(&request)?.sweeps.clone();
        Ok(Response::new(ListResponse { sweeps }))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let script = {
            let mut world = self.world(&request)?;
            world.watched_after.push(request.get_ref().after_seq);
            let script = world.watches.pop_front();
            script.ok_or_else(|| Status::failed_precondition("the script has no further watch"))?
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            let _ = sender.send(Ok(WatchResponse { events: script.events })).await;
            if script.stays {
                sender.closed().await;
            }
            if let Err(status) = script.end {
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    /// Pages of two, so that paging is always seen.
    async fn trials(&self, request: Request<TrialsRequest>) -> Result<Response<TrialsResponse>, Status> {
        let mut world = self.world(&request)?;
        let request = request.into_inner();
        world.sweep(&request.sweep)?;
        let wanted = |trial: &&Trial| {
            trial.id > request.after && (request.states.is_empty() || request.states.contains(&trial.state))
        };
        let found: Vec<Trial> = world.trials.iter().filter(wanted).cloned().collect();
        let trials: Vec<Trial> = found.iter().take(2).cloned().collect();
        let next_after = if found.len() > 2 { trials[1].id } else { 0 };
        Ok(Response::new(TrialsResponse { trials, next_after }))
    }

    async fn get_trial(
        &self,
        request: Request<GetTrialRequest>,
    ) -> Result<Response<GetTrialResponse>, Status> {
        let world = self.world(&request)?;
        let id = request.get_ref().trial_id;
        let trial = world.trials.iter().find(|trial| trial.id == id).cloned();
        let trial = Some(trial.ok_or_else(|| Status::not_found(format!("no trial {id}")))?);
        let recipe_json = world.recipe.clone();
        Ok(Response::new(GetTrialResponse { trial, recipe_json, ..GetTrialResponse::default() }))
    }

    /// Pages of one.
    async fn results(&self, request: Request<ResultsRequest>) -> Result<Response<ResultsResponse>, Status> {
        let mut world = self.world(&request)?;
        let request = request.into_inner();
        let sweep = world.sweep(&request.sweep)?.clone();
        let mut left = world.results.iter().filter(|row| row.number > request.after).cloned();
        let configurations: Vec<Configuration> = left.by_ref().take(1).collect();
        let next_after = match (configurations.first(), left.next()) {
            (Some(row), Some(_)) => row.number,
            _ => 0,
        };
        Ok(Response::new(ResultsResponse {
            configurations,
            next_after,
            objective: sweep.objective,
            report: sweep.report,
            axes: sweep.axes,
            ..ResultsResponse::default()
        }))
    }

    async fn extend(&self, request: Request<ExtendRequest>) -> Result<Response<ExtendResponse>, Status> {
        let mut world = self.world(&request)?;
        let sweep = world.sweep(&request.get_ref().sweep)?.clone();
        Ok(Response::new(ExtendResponse { sweep: Some(sweep), ..ExtendResponse::default() }))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        let mut world = self.world(&request)?;
        let sweep = world.sweep(&request.get_ref().sweep)?;
        sweep.state = SweepState::Cancelled as i32;
        Ok(Response::new(CancelResponse { sweep: Some(sweep.clone()) }))
    }

    async fn pause(&self, request: Request<PauseRequest>) -> Result<Response<PauseResponse>, Status> {
        let mut world = self.world(&request)?;
        if let Some(status) = &world.refuse_pause {
            return Err(status.clone());
        }
        let sweep = world.sweep(&request.get_ref().sweep)?;
        sweep.state = SweepState::Paused as i32;
        Ok(Response::new(PauseResponse { sweep: Some(sweep.clone()) }))
    }

    async fn requeue(&self, request: Request<RequeueRequest>) -> Result<Response<RequeueResponse>, Status> {
        let mut world = self.world(&request)?;
        let sweep = world.sweep(&request.get_ref().sweep)?;
        sweep.state = SweepState::Active as i32;
        Ok(Response::new(RequeueResponse { sweep: Some(sweep.clone()), trials: 2 }))
    }

    async fn resume(&self, request: Request<ResumeRequest>) -> Result<Response<ResumeResponse>, Status> {
        let mut world = self.world(&request)?;
        let sweep = world.sweep(&request.get_ref().sweep)?;
        sweep.state = SweepState::Active as i32;
        Ok(Response::new(ResumeResponse { sweep: Some(sweep.clone()) }))
    }

    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let workers = self.world(&request)?.workers.clone();
        Ok(Response::new(ListWorkersResponse { workers }))
    }

    async fn release_worker(
        &self,
        request: Request<ReleaseWorkerRequest>,
    ) -> Result<Response<ReleaseWorkerResponse>, Status> {
        let mut world = self.world(&request)?;
        let wanted = &request.get_ref().worker;
        let mut released = Vec::new();
        for worker in world.workers.iter_mut().filter(|worker| [&worker.id, &worker.name].contains(&wanted)) {
            worker.quarantined.clear();
            released.push(worker.clone());
        }
        if released.is_empty() {
            return Err(Status::not_found(format!("there is no worker `{wanted}`")));
        }
        Ok(Response::new(ReleaseWorkerResponse { workers: released }))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let world = self.world(&request)?;
        let id = request.get_ref().trial_id;
        let trial = world.trials.iter().find(|trial| trial.id == id);
        let state = trial.ok_or_else(|| Status::not_found(format!("no trial {id}")))?.state;
        Ok(Response::new(ExplainResponse { state, ..world.explanation.clone() }))
    }
}
