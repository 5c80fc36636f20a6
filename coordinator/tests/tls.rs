//! TLS of the listener: the program with a certificate, and who may speak with it.

#[path = "support/program.rs"]
mod program;

use std::path::{Path, PathBuf};

use program::{Coordinator, TOKEN, coordinator};
use proto::dial::{Address, Bearer};
use proto::v1::ListRequest;
use proto::v1::sweeps_client::SweepsClient;
use tonic::{Code, Status};

/// The files of a certificate for this machine and of its key.
fn certificate(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (cert, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (cert, key)
}

async fn list(address: &str, ca: &Path, token: Option<&str>) -> Result<(), Status> {
    let channel = Address::new(address).unwrap().endpoint(Some(ca)).unwrap().connect_lazy();
    let mut client = SweepsClient::with_interceptor(channel, Bearer::new(token).unwrap());
    client.list(ListRequest::default()).await.map(drop)
}

#[tokio::test]
async fn who_does_not_trust_the_certificate_or_speaks_plainly_learns_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(folder.path(), "ours");
    let (other, _) = certificate(folder.path(), "other");
    let arguments = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let server = Coordinator::start_with(folder.path(), &arguments).await;
    let encrypted = format!("https://{}", server.address);
    list(&encrypted, &cert, Some(TOKEN)).await.unwrap();
    let nameless = list(&encrypted, &cert, None).await.unwrap_err();
    assert_eq!(nameless.code(), Code::Unauthenticated);
    let distrustful = list(&encrypted, &other, Some(TOKEN)).await.unwrap_err();
    assert_eq!(distrustful.code(), Code::Unavailable, "{distrustful:?}");
    let plain = list(&format!("http://{}", server.address), &cert, Some(TOKEN)).await.unwrap_err();
    assert_ne!(plain.code(), Code::Unauthenticated, "{plain:?}");
    // Who connects and stays silent stands in nobody's way.
    let _silent = tokio::net::TcpStream::connect(&server.address).await.unwrap();
    list(&encrypted, &cert, Some(TOKEN)).await.unwrap();
    assert_eq!(server.stop().await, 0);
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, _) = certificate(folder.path(), "ours");
    let (_, other) = certificate(folder.path(), "other");
    let missing = folder.path().join("missing.key");
    for (key, named) in [
        (Some(&missing), "missing.key"),
        (Some(&cert), "the key"),
        (Some(&other), "the key"),
        (None, "--tls-key"),
    ] {
        let mut command = coordinator();
        command.arg("--database-url").arg(program::database(folder.path())).args(["--listen", "127.0.0.1:0"]);
        command.arg("--tls-cert").arg(&cert);
        if let Some(key) = key {
            command.arg("--tls-key").arg(key);
        }
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(named), "{stderr}");
    }
}
