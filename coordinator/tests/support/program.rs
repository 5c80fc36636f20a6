//! The program itself, on loopback, with a token.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use proto::v1::sweeps_client::SweepsClient;
use proto::v1::workers_client::WorkersClient;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tower::{Service, ServiceExt};

pub(crate) const TOKEN: &str = "a token for tests";

pub(crate) type Bearer = fn(Request<()>) -> Result<Request<()>, Status>;
pub(crate) type Authorized = InterceptedService<Persistent, Bearer>;

/// Calls until there is an answer, as workers do: the tests also run with `SWEEP_FAULTS`.
#[derive(Clone)]
pub(crate) struct Persistent(pub(crate) Channel);

impl Service<http::Request<Body>> for Persistent {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let channel = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("a body in memory").to_bytes();
            loop {
                let body = Body::new(Full::new(body.clone()));
                let answer = channel.clone().oneshot(http::Request::from_parts(parts.clone(), body)).await?;
                let code = Status::from_header_map(answer.headers()).map(|status| status.code());
                if !matches!(code, Some(Code::Unavailable | Code::DeadlineExceeded)) {
                    return Ok(answer);
                }
            }
        })
    }
}

pub(crate) fn bearer(mut request: Request<()>) -> Result<Request<()>, Status> {
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    Ok(request)
}

pub(crate) fn coordinator() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
    command
        .arg("serve")
        .env_remove("SWEEP_TOKEN")
        .env_remove("SWEEP_LISTEN")
        .env_remove("SWEEP_DATABASE_URL");
    command.stdin(Stdio::null());
    command
}

/// A running coordinator; killed when dropped.
pub(crate) struct Coordinator {
    process: Child,
    pub(crate) address: String,
}

impl Coordinator {
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[]).await
    }

    pub(crate) async fn start_with(folder: &Path, arguments: &[&str]) -> Self {
        let address_file = folder.join("address");
        let _ = std::fs::remove_file(&address_file);
        let process = coordinator()
            .args(["--listen", "127.0.0.1:0", "--database-url"])
            .arg(database(folder))
            .arg("--address-file")
            .arg(&address_file)
            .args(arguments)
            .env("SWEEP_TOKEN", TOKEN)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut this = Self { process, address: String::new() };
        let started = Instant::now();
        while this.address.is_empty() {
            assert!(started.elapsed() < Duration::from_secs(60), "coordinator did not start");
            assert!(this.process.try_wait().unwrap().is_none(), "coordinator ended at once");
            this.address = std::fs::read_to_string(&address_file).unwrap_or_default();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        this
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn sweeps(&self) -> SweepsClient<Authorized> {
        SweepsClient::with_interceptor(Persistent(self.channel().await), bearer as Bearer)
    }

    pub(crate) async fn workers(&self) -> WorkersClient<Authorized> {
        WorkersClient::with_interceptor(Persistent(self.channel().await), bearer as Bearer)
    }

    /// SIGTERM, and the exit code.
    pub(crate) async fn stop(mut self) -> i32 {
        let pid = nix::unistd::Pid::from_raw(self.process.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(started.elapsed() < Duration::from_secs(15), "coordinator did not stop");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn database(folder: &Path) -> String {
    format!("sqlite:{}", folder.join("test.db").display())
}
