//! The connection to the coordinator: address, token, and what a gRPC status means to a user.

use std::net::IpAddr;
use std::time::Duration;

use proto::v1::sweeps_client::SweepsClient;
use proto::v1::{Configuration, ResultsRequest, ResultsResponse, Trial, TrialState, TrialsRequest};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

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

/// Puts the token on every call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A coordinator that answered, and how to speak of it.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) server: String,
    had_token: bool,
}

impl Connection {
    /// Connects, or says within about three seconds that nobody is there.
    pub(crate) async fn open(server: &str, token: Option<&str>) -> Result<Self, CliError> {
        let uri = address(server)?;
        let bearer = bearer(token)?;
        let server = uri.to_string().trim_end_matches('/').to_owned();
        if bearer.is_some() && !is_loopback(&uri) {
            eprintln!(
                "warning: SWEEP_TOKEN goes to {server} unencrypted; anyone on the way can read it. \
                 An SSH tunnel to a loopback address avoids this"
            );
        }
        let had_token = bearer.is_some();
        let channel = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE / 2)
            .connect()
            .await
            .map_err(|error| CliError::Unreachable { server: server.clone(), reason: root_cause(&error) })?;
        let client = SweepsClient::with_interceptor(channel, Bearer(bearer))
            .max_decoding_message_size(MAX_REPLY_BYTES);
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

/// The coordinator's address; `HOST:PORT` alone is taken as http.
fn address(server: &str) -> Result<Uri, CliError> {
    let invalid = |reason| CliError::InvalidServer { server: server.to_owned(), reason };
    let text = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let uri: Uri = text.parse().map_err(|_| invalid("it cannot be read"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(invalid("this client speaks no TLS (use an SSH tunnel)")),
        _ => return Err(invalid("its scheme is not http")),
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(invalid("it names no host"));
    }
    if uri.port_u16().is_none() {
        return Err(invalid("it names no port"));
    }
    Ok(uri)
}

fn bearer(token: Option<&str>) -> Result<Option<MetadataValue<Ascii>>, CliError> {
    let Some(token) = token.map(str::trim).filter(|token| !token.is_empty()) else { return Ok(None) };
    let mut value: MetadataValue<Ascii> =
        format!("Bearer {token}").parse().map_err(|_| CliError::InvalidToken)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The innermost message: "connection refused" rather than "transport error".
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_coordinator_can_have_are_refused() {
        for bad in ["https://node:1", "ftp://node:1", "node", "http://node", "http://", "a b"] {
            let error = address(bad).expect_err(bad);
            assert_eq!(error.exit_code(), 2, "{bad}");
            assert!(error.to_string().contains(bad), "{error}");
        }
        assert_eq!(address("node:7741").expect("host and port").to_string(), "http://node:7741/");
    }

    #[test]
    fn loopback_is_known_by_name_and_by_number() {
        for (server, expected) in [
            ("http://localhost:1", true),
            ("http://127.8.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://10.0.0.1:1", false),
            ("http://node:1", false),
        ] {
            assert_eq!(is_loopback(&address(server).expect(server)), expected, "{server}");
        }
    }

    #[test]
    fn tokens_must_fit_into_a_header() {
        assert!(bearer(None).expect("no token").is_none());
        assert!(bearer(Some(" \n")).expect("an empty token is none").is_none());
        assert!(bearer(Some("s3cret\n")).expect("a newline at the end is trimmed").is_some());
        assert!(matches!(bearer(Some("a\nb")), Err(CliError::InvalidToken)));
    }
}
