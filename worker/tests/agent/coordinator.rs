//! A scripted coordinator on a real socket: it answers as told and lets the test await each call.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::v1::verdict::Outcome;
use proto::v1::workers_server::{Workers, WorkersServer};
use proto::v1::*;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A call that arrived.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Register(RegisterRequest),
    Lease,
    Renew(RenewRequest),
    Report(ReportRequest),
    Finish(FinishRequest),
    Drain,
}

/// What the coordinator knows and how it behaves; outlives its restarts.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) ttl: Duration,
    pub(crate) token: Option<String>,
    pub(crate) queue: Mutex<VecDeque<Assignment>>,
    pub(crate) lost: Mutex<Vec<Token>>,
    /// Answers NOT_FOUND to everything until the next Register.
    pub(crate) forgetful: Mutex<bool>,
    /// Ends that were accepted, in order.
    pub(crate) ends: Mutex<Vec<End>>,
    woken: Notify,
    calls: mpsc::UnboundedSender<Call>,
}

impl Script {
    pub(crate) fn new(ttl: Duration) -> (Self, mpsc::UnboundedReceiver<Call>) {
        let (calls, received) = mpsc::unbounded_channel();
        let script = Self {
            ttl,
            token: None,
            queue: Mutex::default(),
            lost: Mutex::default(),
            forgetful: Mutex::default(),
            ends: Mutex::default(),
            woken: Notify::new(),
            calls,
        };
        (script, received)
    }

    pub(crate) fn submit(&self, assignment: Assignment) {
        self.queue.lock().unwrap().push_back(assignment);
        self.woken.notify_waiters();
    }

    fn take(&self, max: u32) -> Vec<Assignment> {
        let mut queue = self.queue.lock().unwrap();
        let n = queue.len().min(max as usize);
        queue.drain(..n).collect()
    }

    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let sent = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let wanted = self.token.as_ref().map(|token| format!("Bearer {token}"));
        if wanted.is_some() && wanted.as_deref() != sent {
            return Err(Status::unauthenticated("a token is needed"));
        }
        Ok(())
    }

    fn remember(&self) -> Result<(), Status> {
        if *self.forgetful.lock().unwrap() { Err(Status::not_found("no such worker")) } else { Ok(()) }
    }

    fn record(&self, call: Call) {
        // The test may be over.
        let _ = self.calls.send(call);
    }
}

#[derive(Debug, Clone)]
struct Service(Arc<Script>);

#[tonic::async_trait]
impl Workers for Service {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        self.0.admit(&request)?;
        *self.0.forgetful.lock().unwrap() = false;
        self.0.record(Call::Register(request.into_inner()));
        Ok(Response::new(RegisterResponse {
            worker_id: "w1".into(),
            lease_ttl_ms: self.0.ttl.as_millis() as u64,
            report_every_ms: 20,
        }))
    }

    async fn lease(&self, request: Request<LeaseRequest>) -> Result<Response<LeaseResponse>, Status> {
        let request = request.into_inner();
        self.0.record(Call::Lease);
        self.0.remember()?;
        let woken = self.0.woken.notified();
        let mut assignments = self.0.take(request.max);
        if assignments.is_empty() {
            let wait = Duration::from_millis(u64::from(request.wait_ms));
            let _ = tokio::time::timeout(wait, woken).await;
            assignments = self.0.take(request.max);
        }
        Ok(Response::new(LeaseResponse { assignments }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        self.0.remember()?;
        let request = request.into_inner();
        self.0.record(Call::Renew(request.clone()));
        let gone = self.0.lost.lock().unwrap();
        let (lost, held) = request.tokens.into_iter().partition::<Vec<_>, _>(|t| gone.contains(t));
        let lost = lost.into_iter().map(|token| Lost { token: Some(token), reason: "cancelled".into() });
        Ok(Response::new(RenewResponse { held, lost: lost.collect() }))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        self.0.remember()?;
        self.0.record(Call::Report(request.into_inner()));
        Ok(Response::new(ReportResponse::default()))
    }

    async fn finish(&self, request: Request<FinishRequest>) -> Result<Response<FinishResponse>, Status> {
        self.0.remember()?;
        let request = request.into_inner();
        self.0.ends.lock().unwrap().extend(request.ends.clone());
        let verdict = |end: &End| Verdict {
            token: end.token,
            outcome: Outcome::Accepted.into(),
            reason: String::new(),
        };
        let verdicts = request.ends.iter().map(verdict).collect();
        self.0.record(Call::Finish(request));
        Ok(Response::new(FinishResponse { verdicts }))
    }

    async fn drain(&self, _request: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        self.0.record(Call::Drain);
        self.0.woken.notify_waiters();
        Ok(Response::new(DrainResponse::default()))
    }
}

/// A coordinator process, as far as a worker can tell: dropping it cuts every connection.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    pub(crate) fn start(script: Arc<Script>, address: Option<SocketAddr>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (bound, told) = std::sync::mpsc::channel();
        let address = address.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            tonic::transport::Server::builder()
                .add_service(WorkersServer::new(Service(script)))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
        });
        Self { address: told.recv_timeout(Duration::from_secs(30)).unwrap(), runtime: Some(runtime) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}
