//! Calls to the coordinator: who we are, what is repeated and for how long. What to call, and when, is the core's.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::dial::{Address, Bearer, root_cause};
use proto::v1::verdict::Outcome;
use proto::v1::workers_client::WorkersClient;
use proto::v1::{
    Assignment, DrainRequest, End, FailureClass, FinishRequest, FinishResponse, LeaseRequest, Progress,
    RegisterRequest, RenewRequest, RenewResponse, ReportRequest, ReportResponse, Token, Warm,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::core::POINTS_AT_ONCE;
use super::death::failure;
use super::facts::{Event, Terms};
use super::{AgentError, Config};

/// A call that has not been answered after this long is given up, and repeated where repeating is right.
const CALL_LIMIT: Duration = Duration::from_secs(20);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);
/// NOT_FOUND is answered by registering again; when that does not help, the thing itself is not there.
const NOT_FOUND_LIMIT: u32 = 3;

type Client = WorkersClient<InterceptedService<Channel, Bearer>>;

/// The coordinator as the agent sees it. Clones share the registration.
#[derive(Debug, Clone)]
pub(super) struct Link {
    client: Client,
    server: String,
    registration: Arc<Mutex<Registration>>,
    events: mpsc::Sender<Event>,
}

#[derive(Debug, Default)]
struct Registration {
    request: RegisterRequest,
    worker_id: Option<String>,
}

impl Link {
    /// Nothing is called yet: the coordinator may be started later.
    pub(super) fn new(config: &Config, events: mpsc::Sender<Event>) -> Result<Self, AgentError> {
        let address = Address::new(&config.server)?;
        let bearer = Bearer::new(config.token.as_deref())?;
        if bearer.has_token() && !address.is_loopback() && !address.is_encrypted() {
            tracing::warn!(
                server = %address,
                "SWEEP_TOKEN goes there unencrypted; TLS (https://) or a tunnel to a loopback address avoids this"
            );
        }
        let channel = address
            .endpoint(config.ca.as_deref())?
            .connect_timeout(CONNECT_LIMIT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .connect_lazy();
        let client = WorkersClient::with_interceptor(channel, bearer);
        Ok(Self { client, server: address.to_string(), registration: Arc::default(), events })
    }

    /// Announces the worker, trying until the coordinator answers. An answer that repeating cannot mend is an error.
    pub(super) async fn register(&self, request: RegisterRequest) -> Result<Terms, AgentError> {
        if let Ok(mut registration) = self.registration.lock() {
            registration.request = request;
        }
        let mut pause = Pause::default();
        let mut is_told = false;
        loop {
            match self.register_once().await {
                Ok(terms) => return Ok(terms),
                Err(status) if matches!(status.code(), Code::Unavailable | Code::Internal) && !is_told => {
                    is_told = true;
                    tracing::warn!(
                        server = self.server,
                        why = root_cause(&status),
                        "the coordinator cannot be reached; is it running at this address? trying again; --server or \
                         SWEEP_SERVER sets another"
                    );
                }
                Err(status) if is_refusal(&status) => {
                    return Err(AgentError::Refused {
                        why: status.message().to_owned(),
                        code: status.code(),
                    });
                }
                Err(status) => pause.after("register", &status).await,
            }
        }
    }

    async fn register_once(&self) -> Result<Terms, Status> {
        let request = self.registration.lock().map(|r| r.request.clone()).unwrap_or_default();
        let mut client = self.client.clone();
        let reply = limited(CALL_LIMIT, client.register(request)).await?;
        tracing::info!(worker = reply.worker_id, ttl_ms = reply.lease_ttl_ms, "registered");
        if let Ok(mut registration) = self.registration.lock() {
            registration.worker_id = Some(reply.worker_id);
        }
        Ok(Terms {
            ttl: Duration::from_millis(reply.lease_ttl_ms),
            report_every: Duration::from_millis(reply.report_every_ms),
        })
    }

    fn worker_id(&self) -> Option<String> {
        self.registration.lock().ok().and_then(|registration| registration.worker_id.clone())
    }

    /// After NOT_FOUND: the coordinator has another database, or none that remembers us.
    async fn reacquaint(&self, status: &Status) {
        if status.code() != Code::NotFound {
            return;
        }
        match self.register_once().await {
            Ok(terms) => _ = self.events.send(Event::Registered(terms)).await,
            Err(error) => tracing::warn!(%error, "the coordinator does not know this worker"),
        }
    }

    /// Asks for trials until there is an answer. Gives the time from which the leases count.
    pub(super) async fn lease(
        &self,
        max: u32,
        wait: Duration,
        ttl: Duration,
        warm: Vec<Warm>,
    ) -> (Instant, Vec<Assignment>) {
        let mut pause = Pause::default();
        let fresh = || (uuid::Uuid::new_v4().to_string(), Instant::now());
        let (mut request, mut sent) = fresh();
        loop {
            // What was granted to an old request may have run out before its answer comes.
            if sent.elapsed() > ttl / 2 {
                (request, sent) = fresh();
            }
            let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
            let worker_id = self.worker_id().unwrap_or_default();
            let mut client = self.client.clone();
            let call = client.lease(LeaseRequest {
                worker_id,
                request: request.clone(),
                max,
                wait_ms,
                warm: warm.clone(),
            });
            match limited(wait + CALL_LIMIT, call).await {
                Ok(reply) => return (sent, reply.assignments),
                Err(status) => {
                    self.reacquaint(&status).await;
                    if status.code() == Code::NotFound {
                        (request, sent) = fresh();
                    }
                    pause.after("lease", &status).await;
                }
            }
        }
    }

    /// One try: the core decides when to try again.
    pub(super) async fn renew(&self, tokens: Vec<Token>, limit: Duration) -> Result<RenewResponse, Status> {
        let worker_id = self.worker_id().unwrap_or_default();
        let mut client = self.client.clone();
        let reply = limited(limit, client.renew(RenewRequest { worker_id, tokens })).await;
        self.judged("renew", reply).await
    }

    /// One try: the core decides when to try again.
    pub(super) async fn report(&self, progress: Vec<Progress>) -> Result<ReportResponse, Status> {
        let worker_id = self.worker_id().unwrap_or_default();
        let mut client = self.client.clone();
        let reply = limited(CALL_LIMIT, client.report(ReportRequest { worker_id, progress })).await;
        self.judged("report", reply).await
    }

    async fn judged<T>(&self, call: &'static str, reply: Result<T, Status>) -> Result<T, Status> {
        if let Err(status) = &reply {
            tracing::warn!(call, code = ?status.code(), why = status.message(), "call failed");
            self.reacquaint(status).await;
        }
        reply
    }

    /// Ends attempts, trying until each one is answered. An end that the coordinator refuses to read is replaced by
    /// a failure that says so; refused again, it is given up, and the lease runs out.
    pub(super) async fn finish(&self, mut ends: Vec<End>) {
        for end in &mut ends {
            self.report_excess(end).await;
        }
        let Err(status) = self.finish_until_answered(&ends).await else { return };
        tracing::error!(code = ?status.code(), why = status.message(), ends = ends.len(), "ends refused");
        for end in ends {
            let one = [end];
            let Err(status) = self.finish_until_answered(&one).await else { continue };
            let [End { token, .. }] = one;
            let why = format!("the coordinator refused the attempt's result: {}", status.message());
            let how = Some(failure(FailureClass::CodeError, why));
            if let Err(status) = self.finish_until_answered(&[End { token, how, ..Default::default() }]).await
            {
                tracing::error!(?token, code = ?status.code(), why = status.message(), "end given up");
            }
        }
    }

    /// Reports the points of an end that are more than one call may carry.
    async fn report_excess(&self, end: &mut End) {
        let mut pause = Pause::default();
        while end.points.len() > POINTS_AT_ONCE {
            let points = end.points[..POINTS_AT_ONCE].to_vec();
            match self.report(vec![Progress { token: end.token, points, ..Default::default() }]).await {
                Err(status) if !is_unreadable(&status) => pause.after("report", &status).await,
                // A refusal means that these points are lost, the result is not.
                _ => _ = end.points.drain(..POINTS_AT_ONCE),
            }
        }
    }

    /// Fails only when repeating cannot help.
    async fn finish_until_answered(&self, ends: &[End]) -> Result<(), Status> {
        let mut pause = Pause::default();
        let mut not_found = 0;
        loop {
            let worker_id = self.worker_id().unwrap_or_default();
            let mut client = self.client.clone();
            let call = client.finish(FinishRequest { worker_id, ends: ends.to_vec() });
            match limited(CALL_LIMIT, call).await {
                Ok(reply) => return log_verdicts(&reply),
                Err(status) => {
                    not_found += u32::from(status.code() == Code::NotFound);
                    if is_unreadable(&status) || not_found > NOT_FOUND_LIMIT {
                        return Err(status);
                    }
                    self.reacquaint(&status).await;
                    pause.after("finish", &status).await;
                }
            }
        }
    }

    /// Says that the worker leaves, trying until it is answered; the caller sets the limit.
    pub(super) async fn drain(&self) {
        let Some(worker_id) = self.worker_id() else { return };
        let mut pause = Pause::default();
        loop {
            let mut client = self.client.clone();
            match limited(CALL_LIMIT, client.drain(DrainRequest { worker_id: worker_id.clone() })).await {
                Ok(_) => return,
                Err(status) if status.code() == Code::NotFound => return,
                Err(status) => pause.after("drain", &status).await,
            }
        }
    }
}

fn log_verdicts(reply: &FinishResponse) -> Result<(), Status> {
    for verdict in &reply.verdicts {
        let token = verdict.token.unwrap_or_default();
        let (trial, attempt) = (token.trial_id, token.attempt);
        match verdict.outcome() {
            Outcome::Accepted => tracing::info!(trial, attempt, "end accepted"),
            _ => tracing::warn!(
                trial,
                attempt,
                reason = verdict.reason,
                "end refused: the trial had been lost"
            ),
        }
    }
    Ok(())
}

/// Whether the coordinator will never take these contents.
fn is_unreadable(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::OutOfRange
            | Code::Internal
    )
}

/// Whether repeating the same call cannot help.
fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Unimplemented
    )
}

async fn limited<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(reply) => reply.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// Growing pauses between tries, jittered so that a restarted coordinator is not met by all workers at once.
#[derive(Debug, Default)]
struct Pause {
    tries: u32,
}

impl Pause {
    async fn after(&mut self, call: &'static str, status: &Status) {
        let pause = PAUSE_FIRST.saturating_mul(1 << self.tries.min(16)).min(PAUSE_LONGEST);
        let pause = pause.mul_f64(rand::random_range(0.5..1.0));
        self.tries += 1;
        tracing::warn!(call, code = ?status.code(), why = status.message(), ?pause, "call failed; trying again");
        tokio::time::sleep(pause).await;
    }
}
