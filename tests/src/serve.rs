//! The echo server in every pod. It first tells the client, in one JSON line, who it is and whom it sees, then returns
//! every byte until the client is done.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::daemons::READY_LINE;

/// Connections served at a time; more wait in the listener's queue.
const CONNECTIONS: usize = 256;

/// What a server says first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Greeting {
    /// The server's name: its pod, or `remote`.
    pub server: String,
    /// The address at which it was reached.
    pub local: SocketAddr,
    /// The client's address as the server sees it.
    pub peer: SocketAddr,
}

/// Serves at `listen` until the process is ended.
pub async fn serve(name: String, listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    ready()?;
    serve_on(name, listener).await
}

/// Serves on this socket until the process is ended.
pub(crate) async fn serve_on(name: String, listener: TcpListener) -> Result<()> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await?;
        let Ok((stream, _)) = listener.accept().await else { continue };
        let name = name.clone();
        tokio::spawn(async move {
            // A client that goes away is the client's business.
            let _ = echo(name, stream).await;
            drop(slot);
        });
    }
}

/// Tells the starter that this program listens; without a starter it does not go on.
pub(crate) fn ready() -> Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(READY_LINE.as_bytes()).and_then(|()| stdout.flush()).context("nobody waits for this program")
}

async fn echo(server: String, mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let greeting = Greeting { server, local: stream.local_addr()?, peer: stream.peer_addr()? };
    let mut line = serde_json::to_vec(&greeting)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let (mut reader, mut writer) = stream.split();
    copy(&mut reader, &mut writer).await?;
    writer.shutdown().await?;
    Ok(())
}
