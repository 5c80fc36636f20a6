//! A way to the coordinator that can be held: bytes are taken, and go on when it is let go.

#![allow(dead_code, reason = "each test binary uses its own part")]

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What does not come through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Nothing,
    Calls,
    /// Connections stay open, and neither side hears of the other.
    Everything,
}

pub(crate) struct Proxy {
    pub(crate) address: String,
    held: watch::Sender<Held>,
}

impl Proxy {
    pub(crate) async fn start(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, held) = watch::channel(Held::Nothing);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Nobody there: the caller is cut off, as without us.
                let Ok(server) = TcpStream::connect(&upstream).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(copy(from_client, to_server, held.clone(), |held| held == Held::Nothing));
                tokio::spawn(copy(from_server, to_client, held.clone(), |held| held != Held::Everything));
            }
        });
        Self { address, held: sender }
    }

    pub(crate) fn hold(&self, held: Held) {
        self.held.send_replace(held);
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut held: watch::Receiver<Held>,
    passes: fn(Held) -> bool,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if held.wait_for(|held| passes(*held)).await.is_err() || to.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
    }
}
