//! The onward half of a proxied connection.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::sockets;

/// Less than a client of the lab waits, so that the record holds the reason.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(2500);

/// Connects to `target` as `source`.
pub(super) async fn connect(source: IpAddr, target: SocketAddr) -> Result<TcpStream> {
    let socket = sockets::from_source(source).with_context(|| format!("cannot speak as {source}"))?;
    let connected = timeout(CONNECT_TIMEOUT, socket.connect(target)).await;
    let stream = connected.with_context(|| format!("connect to {target} timed out"))?;
    stream.with_context(|| format!("cannot connect to {target}"))
}

/// Copies both ways until both sides are done; the end of one direction leaves the other open.
pub(super) async fn copy(mut client: TcpStream, mut onward: TcpStream) -> Result<()> {
    client.set_nodelay(true)?;
    onward.set_nodelay(true)?;
    if let Err(error) = copy_bidirectional(&mut client, &mut onward).await {
        sockets::reset(client)?;
        sockets::reset(onward)?;
        return Err(error).context("broken off");
    }
    Ok(())
}
