//! Protocols that are neither TCP, UDP nor ICMP: left alone unless ztunnel sends them, also where their bytes look like TCP.

use redirect_common::policy::Row;

use super::super::cast::{MESHED, MESHED_B, NODE, OUTSIDE, PROXY, REMOTE, REMOTE_POD};
use super::super::datagram::Datagram;
use super::super::script::Script;
use super::super::step::{Place, Step};

/// Conntrack keeps track of these by their addresses alone.
const PLAIN: [(&str, u8); 8] = [
    ("IP in IP", 4),
    ("IPv6 in IP", 41),
    ("ESP", 50),
    ("AH", 51),
    ("OSPF", 89),
    ("PIM", 103),
    ("VRRP", 112),
    ("experiment", 253),
];
/// These it may read into, if the kernel is built so.
const READ_INTO: [(&str, u8); 4] = [("DCCP", 33), ("GRE", 47), ("SCTP", 132), ("UDP-Lite", 136)];

pub(super) fn add(script: &mut Script) {
    for (name, protocol) in PLAIN {
        plain(script, name, protocol);
    }
    for (name, protocol) in READ_INTO {
        read_into(script, name, protocol);
    }
    ports_of_others(script);
}

fn plain(script: &mut Script, name: &str, protocol: u8) {
    let packet = |source, destination| Datagram::new(source, destination, protocol, payload(80));
    script.talk(format!("{name} of a meshed pod"), |t| {
        t.packet("there", Place::Pod, packet(MESHED, REMOTE), Row::Rest);
        t.packet("back", Place::Uplink, packet(REMOTE, MESHED), Row::Rest);
        t.packet("from the node", Place::Output, packet(NODE, MESHED), Row::Rest);
        t.packet("from a tunnel", Place::TunnelOut, packet(MESHED, OUTSIDE), Row::FromTunnel);
    });
    script.talk(format!("{name} of ztunnel"), |t| {
        t.packet("there", Place::Proxy, packet(PROXY, REMOTE), Row::ProxyOwn);
        t.packet("back", Place::Uplink, packet(REMOTE, PROXY), Row::KnownSkip);
        t.packet("as a client", Place::Proxy, packet(MESHED_B, REMOTE_POD), Row::ProxyAsClient);
        t.packet("back to the client", Place::Uplink, packet(REMOTE_POD, MESHED_B), Row::KnownProxy);
    });
}

fn read_into(script: &mut Script, name: &str, protocol: u8) {
    let packet = |source, destination| Datagram::new(source, destination, protocol, payload(80));
    script.talk(name, |t| {
        let steps: [(&str, Place, Datagram, Row); 5] = [
            ("of a meshed pod", Place::Pod, packet(MESHED, REMOTE), Row::Rest),
            ("of the node", Place::Output, packet(NODE, MESHED), Row::Rest),
            ("of ztunnel", Place::Proxy, packet(PROXY, REMOTE), Row::ProxyOwn),
            ("of ztunnel as a client", Place::Proxy, packet(MESHED_B, REMOTE), Row::ProxyAsClient),
            ("from a tunnel", Place::TunnelIn, packet(REMOTE_POD, MESHED), Row::FromTunnel),
        ];
        for (step, place, datagram, row) in steps {
            let _: &mut Step = t.packet(step, place, datagram, row).unspecified();
        }
    });
}

/// Where TCP and UDP have their ports, these have the same numbers.
fn ports_of_others(script: &mut Script) {
    let port = script.tunnel_port();
    for (name, protocol) in READ_INTO {
        script.talk(format!("{name} to the tunnel port"), |t| {
            let datagram = Datagram::new(MESHED, OUTSIDE, protocol, payload(port));
            t.packet("of a meshed pod", Place::Pod, datagram, Row::Rest).unspecified();
        });
    }
    script.talk("TCP inside of IP in IP", |t| {
        let inner = t.tcp(MESHED, OUTSIDE, 80).syn().bytes(1);
        t.packet("of a meshed pod", Place::Pod, Datagram::new(MESHED, REMOTE_POD, 4, inner), Row::Rest);
    });
}

fn payload(port: u16) -> Vec<u8> {
    let mut bytes = vec![0x9c, 0x40];
    bytes.extend(port.to_be_bytes());
    bytes.extend([0; 20]);
    bytes
}
