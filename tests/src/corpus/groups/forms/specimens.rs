//! The packets that take every form.

use std::net::Ipv4Addr;

use redirect_common::packet::{TCP, UDP};
use redirect_common::policy::Row;

use super::super::super::cast::{MESHED, MESHED_B, NODE, OUTSIDE, PROXY, REMOTE, UNMESHED};
use super::super::super::datagram::Datagram;
use super::super::super::flow::Flow;
use super::super::super::flow::flags::{ACK, SYN};
use super::super::super::script::Talk;
use super::super::super::step::Place;

/// A kind of packet: the row that it meets in a place.
#[derive(Clone, Copy)]
pub(super) struct Specimen {
    pub(super) place: Place,
    pub(super) row: Row,
    /// What it meets where its ports cannot be read, or its connection is not known.
    pub(super) portless: Row,
    protocol: u8,
    client: Ipv4Addr,
    server: Ipv4Addr,
    port: Port,
    /// Where the client's packet before it was, and its row, if the packet is an answer.
    first: Option<(Place, Row)>,
}

#[derive(Clone, Copy)]
enum Port {
    Tunnel,
    Number(u16),
}

/// Long enough to be cut in fragments.
const DATA: [u8; 40] = [0x55; 40];

use Place::{Output, Pod, Proxy, TunnelIn, TunnelOut, Uplink};

/// A packet that needs nothing before it: place, row, row without ports, protocol, from, to, port.
const LONE: [(Place, Row, Row, u8, Ipv4Addr, Ipv4Addr, Port); 22] = [
    (TunnelIn, Row::FromTunnel, Row::FromTunnel, TCP, REMOTE, MESHED, Port::Number(80)),
    (TunnelOut, Row::FromTunnel, Row::FromTunnel, TCP, OUTSIDE, MESHED, Port::Number(443)),
    (TunnelIn, Row::FromTunnel, Row::FromTunnel, UDP, REMOTE, MESHED, Port::Tunnel),
    (TunnelOut, Row::FromTunnel, Row::FromTunnel, UDP, OUTSIDE, MESHED, Port::Number(53)),
    (Proxy, Row::TunnelItself, Row::ProxyOwn, UDP, PROXY, NODE, Port::Tunnel),
    (Pod, Row::TunnelItself, Row::Udp, UDP, MESHED, NODE, Port::Tunnel),
    (Uplink, Row::TunnelItself, Row::Udp, UDP, REMOTE, NODE, Port::Tunnel),
    (Output, Row::TunnelItself, Row::Udp, UDP, NODE, PROXY, Port::Tunnel),
    (Proxy, Row::ProxyAsClient, Row::ProxyAsClient, TCP, MESHED, REMOTE, Port::Number(80)),
    (Proxy, Row::ProxyAsClient, Row::ProxyAsClient, UDP, MESHED, REMOTE, Port::Number(53)),
    (Proxy, Row::ProxyOwn, Row::ProxyOwn, TCP, PROXY, REMOTE, Port::Number(15008)),
    (Proxy, Row::ProxyOwn, Row::ProxyOwn, UDP, PROXY, OUTSIDE, Port::Number(53)),
    (Pod, Row::Udp, Row::Udp, UDP, MESHED, OUTSIDE, Port::Number(53)),
    (Uplink, Row::Udp, Row::Udp, UDP, REMOTE, MESHED, Port::Number(5000)),
    (Output, Row::Udp, Row::Udp, UDP, NODE, MESHED, Port::Number(5000)),
    (Output, Row::NodeProbe, Row::NodeProbe, TCP, NODE, MESHED, Port::Number(8080)),
    (Pod, Row::Outbound, Row::Outbound, TCP, MESHED, REMOTE, Port::Number(80)),
    (Uplink, Row::Outbound, Row::Outbound, TCP, MESHED_B, OUTSIDE, Port::Number(80)),
    (Output, Row::Outbound, Row::Outbound, TCP, MESHED, REMOTE, Port::Number(8080)),
    (Pod, Row::Rest, Row::Rest, TCP, UNMESHED, MESHED, Port::Number(80)),
    (Uplink, Row::Rest, Row::Rest, TCP, REMOTE, MESHED, Port::Number(80)),
    (Output, Row::Rest, Row::Rest, TCP, NODE, REMOTE, Port::Number(443)),
];

/// An answer of a remembered connection: as above, the packet that it answers from client to server, and that one's place
/// and row.
type Answer = (Place, Row, Row, u8, Ipv4Addr, Ipv4Addr, Place, Row);

const ANSWERS: [Answer; 7] = [
    (Pod, Row::KnownSkip, Row::Outbound, TCP, NODE, MESHED, Output, Row::NodeProbe),
    (Uplink, Row::KnownSkip, Row::Rest, TCP, PROXY, REMOTE, Proxy, Row::ProxyOwn),
    (Proxy, Row::KnownSkip, Row::ProxyOwn, UDP, MESHED, PROXY, Pod, Row::Udp),
    (Output, Row::KnownSkip, Row::Rest, TCP, PROXY, NODE, Proxy, Row::ProxyOwn),
    (Pod, Row::KnownProxy, Row::Outbound, TCP, REMOTE, MESHED, Proxy, Row::ProxyAsClient),
    (Uplink, Row::KnownProxy, Row::Rest, TCP, MESHED, REMOTE, Proxy, Row::ProxyAsClient),
    (Output, Row::KnownProxy, Row::NodeProbe, TCP, MESHED, NODE, Proxy, Row::ProxyAsClient),
];

/// All of them.
pub(super) fn all() -> Vec<Specimen> {
    let lone = LONE.into_iter().map(|(place, row, portless, protocol, client, server, port)| Specimen {
        place,
        row,
        portless,
        protocol,
        client,
        server,
        port,
        first: None,
    });
    let answers = ANSWERS.into_iter().map(|(place, row, portless, protocol, client, server, there, first)| Specimen {
        place,
        row,
        portless,
        protocol,
        client,
        server,
        port: Port::Number(8080),
        first: Some((there, first)),
    });
    lone.chain(answers).collect()
}

/// Those that arrive by an interface, and so in frames.
pub(super) fn arriving() -> Vec<Specimen> {
    all().into_iter().filter(|specimen| specimen.place != Output).collect()
}

impl Specimen {
    /// Unique among them.
    pub(super) fn name(&self) -> String {
        let protocol = if self.protocol == TCP { "TCP" } else { "UDP" };
        format!("{:?} by {protocol} on {:?}", self.row, self.place)
    }

    pub(super) fn is_udp(&self) -> bool {
        self.protocol == UDP
    }

    /// What the iptables rules make of it where they can read its ports, but know no connection: they cannot keep track of it.
    pub(super) fn untracked_row(&self) -> Row {
        if self.first.is_some() { self.portless } else { self.row }
    }

    /// Adds what has to come before it, and makes it.
    pub(super) fn make(&self, t: &mut Talk<'_>, tunnel_port: u16) -> Datagram {
        let port = match self.port {
            Port::Tunnel => tunnel_port,
            Port::Number(port) => port,
        };
        let flow =
            if self.is_udp() { t.udp(self.client, self.server, port) } else { t.tcp(self.client, self.server, port) };
        let Some((place, row)) = self.first else { return self.forth(&flow) };
        t.packet(&format!("before {}", self.name()), place, self.forth(&flow), row);
        if self.is_udp() { flow.reversed().udp(&DATA) } else { flow.back(SYN | ACK, &DATA) }
    }

    fn forth(&self, flow: &Flow) -> Datagram {
        if self.is_udp() { flow.udp(&DATA) } else { flow.forth(SYN, &DATA) }
    }
}
