//! The transparent proxy that runs in the lab's ztunnel pod: takes what TPROXY gives it, writes down what it saw, and
//! connects onward with the client's source address. It has no mTLS and no policy: the port meant for HBONE takes the
//! bytes as they are.

mod forward;
mod record;
mod sockets;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub use record::{Direction, Log, Record, read};

use crate::layout::POD_PORT;
use crate::serve::ready;

/// Connections carried at a time; more wait in the listeners' queues.
const CONNECTIONS: usize = 1024;

/// Where redirected connections arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listener {
    /// Its port.
    pub port: u16,
    /// Which way its connections go.
    pub direction: Direction,
    /// Port to connect onward to, if not the one that the client chose.
    pub onward_port: Option<u16>,
}

/// The listeners of ztunnel. A client that speaks HBONE addresses the HBONE port, and names the real one inside; here
/// there is no inside, so it is always the lab's.
pub const LISTENERS: [Listener; 3] = [
    Listener { port: 15001, direction: Direction::Outbound, onward_port: None },
    Listener { port: 15006, direction: Direction::Inbound, onward_port: None },
    Listener { port: 15008, direction: Direction::Inbound, onward_port: Some(POD_PORT) },
];

/// Serves all listeners until the process is ended.
pub async fn run(log: &Path) -> Result<()> {
    let log = Arc::new(Log::append_to(log)?);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = tokio::task::JoinSet::new();
    for listener in LISTENERS {
        let socket = sockets::listen(listener.port).with_context(|| format!("cannot listen on {}", listener.port))?;
        tasks.spawn(accept(listener, socket, log.clone(), slots.clone()));
    }
    ready()?;
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

async fn accept(listener: Listener, socket: TcpListener, log: Arc<Log>, slots: Arc<Semaphore>) -> Result<()> {
    loop {
        let slot = slots.clone().acquire_owned().await?;
        let Ok((stream, client)) = socket.accept().await else { continue };
        let log = log.clone();
        tokio::spawn(async move {
            if let Err(error) = handle(listener, stream, client, &log).await {
                eprintln!("{client} on {}: {error:#}", listener.port);
            }
            drop(slot);
        });
    }
}

async fn handle(listener: Listener, stream: TcpStream, client: SocketAddr, log: &Log) -> Result<()> {
    let original_dst = stream.local_addr()?;
    let mut record = Record {
        direction: listener.direction,
        listener: listener.port,
        client,
        original_dst,
        onward_source: None,
        error: None,
    };
    if original_dst.port() == listener.port && is_own(original_dst.ip())? {
        record.direction = Direction::Direct;
        log.write(&record)?;
        return sockets::reset(stream);
    }
    let target = SocketAddr::new(original_dst.ip(), listener.onward_port.unwrap_or(original_dst.port()));
    match forward::connect(client.ip(), target).await {
        Ok(onward) => {
            record.onward_source = Some(onward.local_addr()?);
            // Before any byte is copied: whoever has an answer through the proxy finds the record.
            log.write(&record)?;
            forward::copy(stream, onward).await
        }
        Err(error) => {
            record.error = Some(format!("{error:#}"));
            log.write(&record)?;
            sockets::reset(stream)
        }
    }
}

/// Whether `address` is on one of this netns's links; to such a one nothing was redirected.
fn is_own(address: IpAddr) -> Result<bool> {
    let mut links = nix::ifaddrs::getifaddrs().context("cannot list my addresses")?;
    Ok(links.any(|link| {
        let own = link.address.and_then(|own| own.as_sockaddr_in().map(|own| IpAddr::V4(own.ip())));
        own == Some(address)
    }))
}
