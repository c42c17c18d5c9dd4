//! Packets that contradict themselves, and frames that are no IP at all. The kernel drops most of them before any rule.

use redirect_common::packet::Unparsed;
use redirect_common::policy::Row;

use super::super::cast::{MESHED, PROXY, REMOTE};
use super::super::checksum;
use super::super::datagram::Datagram;
use super::super::script::Script;
use super::super::step::{Place, Rules};

/// How a packet's bytes are broken.
type Edit = fn(&mut Vec<u8>);

pub(super) fn add(script: &mut Script) {
    ip_headers(script);
    checksums(script);
    upper_headers(script);
    not_ip(script);
}

fn ip_headers(script: &mut Script) {
    let ways: [(&str, Edit, Unparsed); 8] = [
        ("version 5", |bytes| set(bytes, 0, 0x55), Unparsed::BadHeader),
        ("version 6 with IPv4's type", |bytes| set(bytes, 0, 0x65), Unparsed::BadHeader),
        ("a header of four words", |bytes| set(bytes, 0, 0x44), Unparsed::BadHeader),
        ("a header of no words", |bytes| set(bytes, 0, 0x40), Unparsed::BadHeader),
        ("a header longer than the packet", |bytes| set(bytes, 0, 0x4f), Unparsed::BadHeader),
        ("a total length shorter than the header", |bytes| set(bytes, 3, 19), Unparsed::BadHeader),
        ("a total length longer than the frame", |bytes| set(bytes, 3, 99), Unparsed::Truncated),
        ("half a header", |bytes| bytes.truncate(10), Unparsed::Truncated),
    ];
    for (name, edit, why) in ways {
        script.talk(format!("malformed: {name}"), |t| {
            let flow = t.tcp(MESHED, REMOTE, 80);
            t.unparsed("SYN of a meshed pod", Place::Pod, flow.syn().edit(edit), why);
            t.unparsed("SYN as if from a tunnel", Place::TunnelIn, flow.syn().edit(edit), why);
        });
    }
}

fn checksums(script: &mut Script) {
    script.talk("wrong checksums", |t| {
        let (tcp, udp) = (t.tcp(MESHED, REMOTE, 80), t.udp(MESHED, REMOTE, 80));
        t.packet("of the IP header", Place::Pod, tcp.syn().edit(|bytes| bytes[10] ^= 1), Row::Outbound)
            .rules(Rules::Unseen);
        // Whether conntrack looks depends on what the driver says of received checksums.
        t.packet("of TCP", Place::Pod, tcp.syn().edit(|bytes| bytes[36] ^= 1), Row::Outbound).unspecified();
        t.packet("of UDP", Place::Pod, udp.request().edit(|bytes| bytes[26] ^= 1), Row::Udp).unspecified();
    });
}

fn upper_headers(script: &mut Script) {
    let port = script.tunnel_port();
    script.talk("TCP cut short", |t| {
        let flow = t.tcp(MESHED, REMOTE, 80);
        for len in [0, 3, 4, 13, 19] {
            let cut = short(flow.syn(), len);
            t.packet(&format!("{len} bytes"), Place::Pod, cut, Row::Outbound).untracked();
        }
        let offset = flow.syn().edit(|bytes| bytes[32] = 0x40);
        t.packet("a data offset of four words", Place::Pod, offset, Row::Outbound).untracked();
        let offset = flow.syn().edit(|bytes| bytes[32] = 0xf0);
        t.packet("a data offset behind the end", Place::Pod, offset, Row::Outbound).untracked();
    });
    script.talk("UDP cut short", |t| {
        let flow = t.udp(MESHED, REMOTE, port);
        for (len, row) in [(0, Row::Udp), (3, Row::Udp), (4, Row::TunnelItself), (7, Row::TunnelItself)] {
            let cut = short(flow.request(), len);
            t.packet(&format!("{len} bytes"), Place::Pod, cut, row).untracked().rules(Rules::AsLawOrDropped);
        }
        let own = t.udp(PROXY, REMOTE, 53);
        t.packet("of ztunnel", Place::Proxy, short(own.request(), 3), Row::ProxyOwn)
            .untracked()
            .rules(Rules::AsLawOrDropped);
        t.packet("out of a tunnel", Place::TunnelIn, short(flow.request(), 3), Row::FromTunnel)
            .untracked()
            .rules(Rules::AsLawOrDropped);
        let other = t.udp(MESHED, REMOTE, 80);
        let long = other.request().edit(|bytes| bytes[24] = 9);
        t.packet("a length behind the end", Place::Pod, long, Row::Udp).untracked();
    });
}

fn not_ip(script: &mut Script) {
    let types =
        [("ARP", 0x0806), ("LLC", 0x0026), ("MPLS", 0x8847), ("PPPoE", 0x8864), ("a stacked tag of old", 0x9100)];
    for (name, ethertype) in types {
        script.talk(format!("not IP: {name}"), |t| {
            let flow = t.tcp(MESHED, REMOTE, 80);
            t.unparsed("from a pod", Place::Pod, flow.syn(), Unparsed::NotIp).ethertype(ethertype);
            t.unparsed("tagged", Place::Pod, flow.syn(), Unparsed::NotIp).ethertype(ethertype).tagged(&[0]);
        });
    }
    script.talk("IPv4 with IPv6's type", |t| {
        let flow = t.tcp(MESHED, REMOTE, 80);
        t.unparsed("SYN", Place::Pod, flow.syn(), Unparsed::BadHeader).ethertype(0x86dd);
    });
}

/// The datagram with only `len` bytes behind its IP header.
fn short(mut datagram: Datagram, len: usize) -> Datagram {
    datagram.payload.truncate(len);
    datagram
}

fn set(bytes: &mut [u8], at: usize, value: u8) {
    bytes[at] = value;
    checksum::write_ipv4(&mut bytes[..20]);
}
