//! Who speaks with whom, what the proxy must see of it, and one connection of it.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::client::Session;
use crate::judge::{Attempt, Cookie, Registry};
use crate::lab::Lab;
use crate::layout::REMOTE;
use crate::netns::Netns;
use crate::ports;
use crate::proxy::Record;

/// Connections of one kind.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) name: &'static str,
    from: &'static str,
    netns: Netns,
    source: Ipv4Addr,
    pub(super) to: SocketAddrV4,
    server: &'static str,
    /// Whether it is the server's own address that it is for, and the server is a pod.
    is_for_pod: bool,
    /// The listener of the proxy; it must not see the connection if there is none.
    listener: Option<u16>,
}

const OUTBOUND: Option<u16> = Some(15001);
const INBOUND: Option<u16> = Some(15006);

/// Name, client, target, server and listener.
pub(super) type Kind = (&'static str, &'static str, &'static str, &'static str, Option<u16>);

/// From and to the meshed pod `app-a`, and another node.
pub(super) const FEW: [Kind; 2] = [
    ("meshed to remote", "app-a", "remote", "remote", OUTBOUND),
    ("remote to meshed", "remote", "app-a", "app-a", INBOUND),
];
/// Every way between meshed pods, others, and another node. What need not pass the proxy is there to show that it is left alone.
pub(super) const ALL: [Kind; 7] = [
    FEW[0],
    FEW[1],
    ("meshed to meshed", "app-b", "app-a", "app-a", OUTBOUND),
    ("meshed to a service", "app-b", "svc-remote", "remote", OUTBOUND),
    ("unmeshed to meshed", "plain", "app-b", "app-b", INBOUND),
    (DIRECT[0], "plain", "remote", "remote", None),
    (DIRECT[1], "node", "app-b", "app-b", None),
];
/// Those that need no proxy: between others, and the node's probes.
pub const DIRECT: [&str; 2] = ["unmeshed to remote", "a probe of meshed"];

impl Stream {
    pub(super) fn of(lab: &Lab, (name, from, to, server, listener): Kind) -> Result<Self> {
        let is_for_pod = to == server && to != REMOTE;
        let (netns, source, to) = (lab.place(from)?, lab.address(from)?, lab.target(to)?);
        Ok(Self { name, from, netns, source, to, server, is_for_pod, listener })
    }

    /// An address from which nothing has been sent, and the cookie for what will be, if somebody judges it.
    pub(super) fn ticket(&self, registry: Option<&Registry>) -> Result<(SocketAddrV4, Option<Cookie>)> {
        let client = ports::fresh(self.source)?;
        let server = self.is_for_pod.then(|| (self.server.to_owned(), self.to));
        let attempt = || Attempt {
            stream: self.name,
            from: self.from.to_owned(),
            client,
            proxied: self.listener.is_some(),
            server,
        };
        Ok((client, registry.map(|registry| registry.register(attempt()))))
    }

    /// Connects, checks who answers, and that bytes come back; each of it may take so long.
    pub(super) fn connect(&self, client: SocketAddrV4, cookie: Option<Cookie>, patience: Duration) -> Result<Session> {
        let mut session = Session::open_from(&self.netns, self.to, client, patience)?;
        if let Some(cookie) = cookie {
            session.bear(cookie);
        }
        session.echo()?;
        let greeting = session.greeting();
        ensure!(greeting.server == self.server, "reached {}", greeting.server);
        ensure!(greeting.peer.ip() == self.source, "the server saw {}", greeting.peer);
        Ok(session)
    }

    /// Why a connection, which came about, is not as it must be, by what proxies saw.
    pub(super) fn astray(&self, record: Option<&Record>) -> Option<String> {
        match (self.listener, record) {
            (None, None) => None,
            (None, Some(record)) => Some(format!("it has nothing to do with the proxy, which saw {record:?}")),
            (Some(_), None) => Some("unseen by the proxy".to_owned()),
            (Some(listener), Some(record)) => {
                let right = record.listener == listener && record.original_dst == SocketAddr::V4(self.to);
                (!right).then(|| format!("the proxy saw {record:?}"))
            }
        }
    }
}
