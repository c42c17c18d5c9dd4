//! The law: what mark a packet gets. The only place that decides.
//!
//! It is compiled into the BPF programs, is the oracle of the tests, and is what the iptables rules are checked against.
//! First match wins; [`Row`] numbers the rows in their order.

use core::net::IpAddr;

use crate::names::{CONN_SKIP, Mark, OUTBOUND, PROXY, PROXY_RETURN, SKIP};
use crate::packet::{Packet, TCP, UDP};

/// Where on the node a packet is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// It arrived from an interface.
    Ingress(Ingress),
    /// A local socket of the node sends it.
    Output,
}

/// What kind of interface a packet arrived on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ingress {
    /// `istioin` or `istioout`.
    Tunnel,
    /// ztunnel's host-side veth.
    Proxy,
    /// Any other.
    Other,
}

/// What an earlier packet of a connection, in either direction, left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// The connection is not to be intercepted.
    ConnSkip,
    /// ztunnel speaks with a client's source address.
    Proxy,
}

impl Memory {
    /// The mark that stands for it on a connection.
    #[must_use]
    pub const fn mark(self) -> Mark {
        match self {
            Self::ConnSkip => CONN_SKIP,
            Self::Proxy => PROXY,
        }
    }
}

/// What the law asks about the node.
pub trait View {
    /// Whether `ip` belongs to a meshed pod of this node.
    fn is_meshed(&self, ip: IpAddr) -> bool;
    /// Whether `ip` is an address of the node.
    fn is_node(&self, ip: IpAddr) -> bool;
    /// Whether `ip` is ztunnel's own.
    fn is_proxy(&self, ip: IpAddr) -> bool;
    /// The tunnels' UDP port, host byte order.
    fn tunnel_port(&self) -> u16;
    /// What is remembered of the packet's connection. Asked only when rows 1 and 2 did not match.
    fn memory(&self, packet: &Packet) -> Option<Memory>;
}

/// A row of the law.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Row {
    /// Arrived on `istioin` or `istioout`: skip.
    FromTunnel = 1,
    /// UDP to the tunnel port: leave as it is.
    TunnelItself = 2,
    /// Connection remembered as conn-skip: skip.
    KnownSkip = 3,
    /// Not from ztunnel's veth, connection remembered as proxy: proxy-return.
    KnownProxy = 4,
    /// From ztunnel's veth, source is not ztunnel's IP: proxy, remember.
    ProxyAsClient = 5,
    /// From ztunnel's veth: conn-skip, remember.
    ProxyOwn = 6,
    /// UDP: conn-skip, remember.
    Udp = 7,
    /// TCP from a local socket with the node's address to a meshed pod (kubelet probes): conn-skip, remember.
    NodeProbe = 8,
    /// TCP whose source is a meshed pod: outbound.
    Outbound = 9,
    /// Anything else: no mark.
    Rest = 10,
}

/// What the law says about one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The row that matched.
    pub row: Row,
    /// The mark to write; `None` leaves the packet's mark as it is.
    pub mark: Option<Mark>,
    /// What to remember for the connection; `None` leaves its memory as it is.
    pub remember: Option<Memory>,
}

impl Row {
    /// What this row does.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        let (mark, remember) = match self {
            Self::FromTunnel | Self::KnownSkip => (Some(SKIP), None),
            Self::KnownProxy => (Some(PROXY_RETURN), None),
            Self::ProxyAsClient => (Some(PROXY), Some(Memory::Proxy)),
            Self::ProxyOwn | Self::Udp | Self::NodeProbe => (Some(CONN_SKIP), Some(Memory::ConnSkip)),
            Self::Outbound => (Some(OUTBOUND), None),
            Self::TunnelItself | Self::Rest => (None, None),
        };
        Verdict { row: self, mark, remember }
    }
}

/// Decides about one packet.
#[inline(always)]
#[must_use]
pub fn decide(hook: Hook, packet: &Packet, view: &impl View) -> Verdict {
    row(hook, packet, view).verdict()
}

#[inline(always)]
fn row(hook: Hook, packet: &Packet, view: &impl View) -> Row {
    let from_proxy = hook == Hook::Ingress(Ingress::Proxy);
    if hook == Hook::Ingress(Ingress::Tunnel) {
        return Row::FromTunnel;
    }
    if packet.protocol == UDP && packet.ports.is_some_and(|ports| ports.destination == view.tunnel_port()) {
        return Row::TunnelItself;
    }
    match view.memory(packet) {
        Some(Memory::ConnSkip) => return Row::KnownSkip,
        Some(Memory::Proxy) if !from_proxy => return Row::KnownProxy,
        _ => {}
    }
    if from_proxy {
        return if view.is_proxy(packet.source) { Row::ProxyOwn } else { Row::ProxyAsClient };
    }
    if packet.protocol == UDP {
        return Row::Udp;
    }
    if packet.protocol != TCP {
        return Row::Rest;
    }
    if hook == Hook::Output && view.is_node(packet.source) && view.is_meshed(packet.destination) {
        return Row::NodeProbe;
    }
    if view.is_meshed(packet.source) { Row::Outbound } else { Row::Rest }
}

#[cfg(test)]
mod tests;
