//! The echo server in every pod. It first tells the client, in one JSON line, who it is and whom it sees, then returns
//! every byte until the client is done. For who asks by HTTP how it is, it answers at another address.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::daemons::READY_LINE;

/// Connections served at a time; more wait in the listener's queue.
const CONNECTIONS: usize = 256;

/// How long one who asks how it is may take.
const PATIENCE: Duration = Duration::from_secs(5);

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

/// What it says to who asks by HTTP.
const WELL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwell\n";
/// Bytes of a question that are read.
const QUESTION: u64 = 4096;

/// Serves at `listen` until the process is ended, and says at `health`, by HTTP, that it is well.
pub async fn serve(name: String, listen: SocketAddr, health: Option<SocketAddr>) -> Result<()> {
    let listener = bind(listen).await?;
    if let Some(health) = health {
        tokio::spawn(say_well(bind(health).await?));
    }
    ready()?;
    serve_on(name, listener).await
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// One after the other: only kubelet asks.
async fn say_well(listener: TcpListener) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let answered = async {
            let mut question = BufReader::new((&mut stream).take(QUESTION)).lines();
            while question.next_line().await?.is_some_and(|line| !line.is_empty()) {}
            stream.write_all(WELL).await?;
            stream.shutdown().await
        };
        // A client that goes away is the client's business.
        let _ = timeout(PATIENCE, answered).await;
    }
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
