//! The law: what mark a packet gets. The only place that decides.
//!
//! It is compiled into the BPF programs, is the oracle of the tests, and is what the iptables rules are checked against.
//! First match wins; [`Row`] numbers the rows in their order.

use core::net::IpAddr;
use core::ops::RangeInclusive;

use crate::names::{
    CONN_SKIP, Mark, OUTBOUND, PROXY, PROXY_A, PROXY_B, PROXY_PORTS, PROXY_RETURN_A, PROXY_RETURN_B, SKIP,
};
use crate::packet::{Packet, TCP, UDP};

/// Which of the two places for a ztunnel is meant. While one follows another both are there, and what began with the one goes
/// on with it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Seat {
    /// The one that the first ztunnel takes.
    #[default]
    A,
    /// The one beside it.
    B,
}

impl Seat {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Source ports of what the ztunnel on it opens in its clients' names.
    #[must_use]
    pub const fn ports(self) -> RangeInclusive<u16> {
        let [a, b] = PROXY_PORTS;
        match self {
            Self::A => a,
            Self::B => b,
        }
    }

    /// The mark of a reply to whom has it.
    #[must_use]
    pub const fn way_back(self) -> Mark {
        match self {
            Self::A => PROXY_RETURN_A,
            Self::B => PROXY_RETURN_B,
        }
    }
}

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
    /// The host-side veth of the ztunnel on this seat.
    Proxy(Seat),
    /// Any other.
    Other,
}

/// What an earlier packet of a connection, in either direction, left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// The connection is not to be intercepted.
    ConnSkip,
    /// The ztunnel on this seat speaks with a client's source address.
    Proxy(Seat),
}

impl Memory {
    /// The mark that stands for it on a connection.
    #[must_use]
    pub const fn mark(self) -> Mark {
        match self {
            Self::ConnSkip => CONN_SKIP,
            Self::Proxy(Seat::A) => PROXY_A,
            Self::Proxy(Seat::B) => PROXY_B,
        }
    }
}

/// What the law asks about the node.
pub trait View {
    /// Whether `ip` belongs to a meshed pod of this node.
    fn is_meshed(&self, ip: IpAddr) -> bool;
    /// Whether `ip` is an address of the node.
    fn is_node(&self, ip: IpAddr) -> bool;
    /// Whether `ip` is the own one of the ztunnel on `seat`.
    fn is_proxy(&self, seat: Seat, ip: IpAddr) -> bool;
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
    /// What this row does, where the ztunnel that it speaks of has this seat. Rows 4 and 5 differ by it.
    #[must_use]
    pub const fn verdict(self, seat: Seat) -> Verdict {
        let (mark, remember) = match self {
            Self::FromTunnel | Self::KnownSkip => (Some(SKIP), None),
            Self::KnownProxy => (Some(seat.way_back()), None),
            Self::ProxyAsClient => (Some(PROXY), Some(Memory::Proxy(seat))),
            Self::ProxyOwn | Self::Udp | Self::NodeProbe => (Some(CONN_SKIP), Some(Memory::ConnSkip)),
            Self::Outbound => (Some(OUTBOUND), None),
            Self::TunnelItself | Self::Rest => (None, None),
        };
        let mark = match mark {
            Some(mark) => Some(last_word(mark)),
            None => None,
        };
        Verdict { row: self, mark, remember }
    }
}

/// What a row writes, instead of what was said of the packet where less was known. While a node changes its mode, a program marks a packet
/// first and a rule then, and what the one knows of connections from before, the other does not. Outbound is what is said of any that is not
/// known; with the mark of an answer beside it, the packet would take the one way and be kept to the other. Skip stays beside an answer: ipvs
/// sends on in the node's name what ztunnel sends to a virtual address, and row 4 then meets it a second time.
const fn last_word(mark: Mark) -> Mark {
    mark.in_place_of(if mark.value() == OUTBOUND.value() { PROXY_RETURN_B } else { OUTBOUND })
}

/// Decides about one packet.
#[inline(always)]
#[must_use]
pub fn decide(hook: Hook, packet: &Packet, view: &impl View) -> Verdict {
    let (row, seat) = row(hook, packet, view);
    row.verdict(seat)
}

/// The row, and the seat of the ztunnel that it speaks of: whose memory it is in row 4, whose veth in row 5. Elsewhere any.
#[inline(always)]
fn row(hook: Hook, packet: &Packet, view: &impl View) -> (Row, Seat) {
    if hook == Hook::Ingress(Ingress::Tunnel) {
        return (Row::FromTunnel, Seat::A);
    }
    if packet.protocol == UDP && packet.ports.is_some_and(|ports| ports.destination == view.tunnel_port()) {
        return (Row::TunnelItself, Seat::A);
    }
    let memory = view.memory(packet);
    if memory == Some(Memory::ConnSkip) {
        return (Row::KnownSkip, Seat::A);
    }
    if let Hook::Ingress(Ingress::Proxy(seat)) = hook {
        return (if view.is_proxy(seat, packet.source) { Row::ProxyOwn } else { Row::ProxyAsClient }, seat);
    }
    if let Some(Memory::Proxy(seat)) = memory {
        return (Row::KnownProxy, seat);
    }
    (unknown(hook, packet, view), Seat::A)
}

/// The rows for what is not from ztunnel, and of whose connection nothing is remembered.
#[inline(always)]
fn unknown(hook: Hook, packet: &Packet, view: &impl View) -> Row {
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
