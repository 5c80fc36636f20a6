//! The connection to the coordinator, and what a gRPC status means to a user.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use proto::dial::{Address, Bearer, root_cause};
use proto::v1::sweeps_client::SweepsClient;
use proto::v1::{Configuration, ResultsRequest, ResultsResponse, Trial, TrialState, TrialsRequest};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::error::CliError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A reply that takes longer counts as unreachable; the longest call is a page of trials.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Finds a coordinator that vanished without a goodbye, also in a silent stream.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const MAX_REPLY_BYTES: usize = 64 * 1024 * 1024;
const TRIALS_PAGE: u32 = 1_000;
const CONFIGURATIONS_PAGE: u32 = 3_000;

pub(crate) type Client = SweepsClient<InterceptedService<Channel, Bearer>>;

/// A coordinator that answered, and how to speak of it.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) server: String,
    had_token: bool,
}

impl Connection {
    /// Connects, or says within about three seconds that nobody is there.
    pub(crate) async fn open(server: &str, ca: Option<&Path>, token: Option<&str>) -> Result<Self, CliError> {
        let address = Address::new(server)?;
        let bearer = Bearer::new(token)?;
        let had_token = bearer.has_token();
        if had_token && !address.is_loopback() && !address.is_encrypted() {
            eprintln!(
                "warning: SWEEP_TOKEN goes to {address} unencrypted; anyone on the way can read it. \
                 TLS (https://) or an SSH tunnel to a loopback address avoids this"
            );
        }
        let server = address.to_string();
        let channel = address
            .endpoint(ca)?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE / 2)
            .connect()
            .await
            .map_err(|error| CliError::Unreachable { server: server.clone(), reason: root_cause(&error) })?;
        let client =
            SweepsClient::with_interceptor(channel, bearer).max_decoding_message_size(MAX_REPLY_BYTES);
        Ok(Self { client, server, had_token })
    }

    /// What a status means to the person at the keyboard.
    pub(crate) fn explain(&self, status: &Status) -> CliError {
        let message = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted => {
                CliError::InvalidRequest { message }
            }
            Code::NotFound => CliError::NotFound { message },
            Code::FailedPrecondition | Code::AlreadyExists | Code::PermissionDenied | Code::Aborted => {
                CliError::Refused { message }
            }
            Code::Unauthenticated => {
                CliError::Unauthenticated { server: self.server.clone(), had_token: self.had_token }
            }
            // Whoever listens there does not speak as we do.
            Code::Internal if status.source().is_some() => {
                CliError::Unreachable { server: self.server.clone(), reason: root_cause(status) }
            }
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                CliError::Unreachable { server: self.server.clone(), reason: message }
            }
            code @ (Code::Ok | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss) => {
                CliError::Coordinator { code, message }
            }
        }
    }

    /// Trials of a sweep with ids above `after`, all pages.
    pub(crate) async fn trials(
        &mut self,
        sweep: &str,
        states: &[TrialState],
        mut after: i64,
    ) -> Result<Vec<Trial>, CliError> {
        let states: Vec<i32> = states.iter().map(|state| *state as i32).collect();
        let mut trials = Vec::new();
        loop {
            let request =
                TrialsRequest { sweep: sweep.to_owned(), states: states.clone(), after, limit: TRIALS_PAGE };
            let reply = self.client.trials(request).await;
            let page = reply.map_err(|status| self.explain(&status))?.into_inner();
            trials.extend(page.trials);
            if page.next_after <= after {
                return Ok(trials);
            }
            after = page.next_after;
        }
    }

    /// The results of a sweep, all pages as one reply.
    pub(crate) async fn results(
        &mut self,
        sweep: &str,
        metrics: &[String],
    ) -> Result<ResultsResponse, CliError> {
        let mut configurations: Vec<Configuration> = Vec::new();
        let mut after = 0;
        loop {
            let request = ResultsRequest {
                sweep: sweep.to_owned(),
                after,
                limit: CONFIGURATIONS_PAGE,
                metrics: metrics.to_vec(),
            };
            let reply = self.client.results(request).await;
            let mut page = reply.map_err(|status| self.explain(&status))?.into_inner();
            configurations.append(&mut page.configurations);
            if page.next_after <= after {
                return Ok(ResultsResponse { configurations, next_after: 0, ..page });
            }
            after = page.next_after;
        }
    }
}
