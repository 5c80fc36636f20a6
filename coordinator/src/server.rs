//! The listener: which services it offers, to whom, and how it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::dial::root_cause;
use proto::v1::sweeps_server::SweepsServer;
use proto::v1::workers_server::WorkersServer;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::{Router, ServerTlsConfig, TcpIncoming};
use tonic::transport::{Identity, Server};

use crate::faults::Faults;
use crate::reaper;
use crate::service::{Auth, Service, Token};
use crate::store::Store;

/// The largest request: a sweep file, or a long batch of reports.
pub(crate) const MAX_REQUEST: usize = 8 << 20;
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Who has not agreed on a key by then is cut off.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Calls in progress have this long to end after the signal.
const PATIENCE: Duration = Duration::from_secs(20);

/// What may be set.
#[derive(Debug, Clone)]
pub struct Options {
    pub token: Option<Token>,
    pub tls: Option<Identity>,
    /// Trouble on purpose, for tests of those who call.
    pub faults: Option<Faults>,
    pub lease_ttl: Duration,
    pub lease_grace: Duration,
    /// How long workers may hold metrics back.
    pub report_every: Duration,
}

/// Why the listener could not be made or broke off.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(
        "{0} is not on this machine alone, and no token is set: set SWEEP_TOKEN or --token-file, or listen on 127.0.0.1"
    )]
    NoToken(SocketAddr),
    #[error("cannot listen on {address}; stop what uses it, or give another --listen")]
    Bind {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the certificate or its key cannot be used ({0}): give both in PEM form, and the key that belongs to it"
    )]
    Tls(String),
    #[error("the reflection service cannot be built")]
    Reflection(#[source] tonic_reflection::server::Error),
    #[error("the listener broke off")]
    Serve(#[source] tonic::transport::Error),
}

/// Binds the address. One that other machines can reach needs a token.
///
/// # Errors
/// [`ServerError::NoToken`], or [`ServerError::Bind`] when the port is taken.
pub async fn bind(address: SocketAddr, options: &Options) -> Result<TcpListener, ServerError> {
    if !address.ip().is_loopback() && options.token.is_none() {
        return Err(ServerError::NoToken(address));
    }
    TcpListener::bind(address).await.map_err(|source| ServerError::Bind { address, source })
}

/// Serves until `shutdown`, then lets calls in progress end and closes the store.
///
/// # Errors
/// [`ServerError::Serve`].
pub async fn serve(
    listener: TcpListener,
    store: Store,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), ServerError> {
    let router = router(&store, &options, &shutdown).await?;
    let reaper =
        tokio::spawn(reaper::run(store.clone(), options.lease_ttl, options.lease_grace, shutdown.clone()));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = router.serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    let out_of_patience = async {
        shutdown.cancelled().await;
        tokio::time::sleep(PATIENCE).await;
    };
    let outcome = tokio::select! {
        outcome = serving => outcome.map_err(ServerError::Serve),
        () = out_of_patience => {
            tracing::warn!("calls in progress cut off");
            Ok(())
        }
    };
    shutdown.cancel();
    if reaper.await.is_err() {
        tracing::error!("reaper broke off");
    }
    store.close().await;
    outcome
}

async fn router(
    store: &Store,
    options: &Options,
    shutdown: &CancellationToken,
) -> Result<Router, ServerError> {
    let service = Service {
        store: store.clone(),
        lease_ttl: options.lease_ttl,
        report_every: options.report_every,
        expansions: Arc::new(Semaphore::new(1)),
        gate: Arc::default(),
        shutdown: shutdown.clone(),
    };
    let auth = Auth { token: options.token.clone() };
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<SweepsServer<Service>>().await;
    health.set_serving::<WorkersServer<Service>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .build_v1()
        .map_err(ServerError::Reflection)?;
    let sweeps = SweepsServer::new(service.clone()).max_decoding_message_size(MAX_REQUEST);
    let workers = WorkersServer::new(service).max_decoding_message_size(MAX_REQUEST);
    let router = builder(options)?
        .add_service(health_service)
        .add_service(InterceptedService::new(reflection, auth.clone()));
    Ok(match &options.faults {
        None => router
            .add_service(InterceptedService::new(sweeps, auth.clone()))
            .add_service(InterceptedService::new(workers, auth)),
        Some(faults) => router
            .add_service(InterceptedService::new(faults.around(sweeps), auth.clone()))
            .add_service(InterceptedService::new(faults.around(workers), auth)),
    })
}

fn builder(options: &Options) -> Result<Server, ServerError> {
    let server = match &options.tls {
        Some(identity) => {
            let tls = ServerTlsConfig::new().identity(identity.clone()).timeout(HANDSHAKE);
            Server::builder().tls_config(tls).map_err(|error| ServerError::Tls(root_cause(&error)))?
        }
        None => Server::builder(),
    };
    Ok(server
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(Some(1024)))
}
