//! IPv6: the law is the same; the iptables rules of today see none of it.

use redirect_common::packet::Unparsed;
use redirect_common::policy::Row;

use super::super::cast::{MESHED6, NODE6, PROXY6, REMOTE6, UNMESHED6};
use super::super::datagram::Datagram;
use super::super::script::{End, Script};
use super::super::step::Place;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const ICMPV6: u8 = 58;
/// Eight bytes of options that say nothing.
const EMPTY: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

pub(super) fn add(script: &mut Script) {
    connections(script);
    other_protocols(script);
    extension_headers(script);
    fragments(script);
}

fn connections(script: &mut Script) {
    let rest = |place| End(place, Row::Rest, Row::Rest);
    let known = |place| End(place, Row::KnownSkip, Row::KnownSkip);
    let outbound = |place| End(place, Row::Outbound, Row::Outbound);
    let tunnel = |place| End(place, Row::FromTunnel, Row::FromTunnel);
    let as_client = End(Place::Proxy, Row::ProxyAsClient, Row::ProxyAsClient);
    let to_client = |place| End(place, Row::KnownProxy, Row::KnownProxy);
    let ways = [
        ("meshed to remote", MESHED6, REMOTE6, outbound(Place::Pod), tunnel(Place::TunnelOut)),
        ("remote to meshed", REMOTE6, MESHED6, rest(Place::Uplink), tunnel(Place::TunnelIn)),
        ("unmeshed to remote", UNMESHED6, REMOTE6, rest(Place::Pod), rest(Place::Uplink)),
        ("ztunnel as a remote to meshed", REMOTE6, MESHED6, as_client, to_client(Place::Pod)),
        ("ztunnel as meshed to remote", MESHED6, REMOTE6, as_client, to_client(Place::Uplink)),
        ("ztunnel's own", PROXY6, REMOTE6, End(Place::Proxy, Row::ProxyOwn, Row::KnownSkip), known(Place::Uplink)),
        ("probe", NODE6, MESHED6, End(Place::Output, Row::NodeProbe, Row::KnownSkip), known(Place::Pod)),
    ];
    for (name, client, server, here, there) in ways {
        script.talk(format!("IPv6: {name}"), |t| {
            let flow = t.tcp(client, server, 8080);
            t.exchange(&flow, here, there);
            t.unseen_by_rules();
        });
    }
}

fn other_protocols(script: &mut Script) {
    let port = script.tunnel_port();
    script.talk("IPv6: not TCP", |t| {
        let (dns, tunnel) = (t.udp(MESHED6, REMOTE6, 53), t.udp(NODE6, PROXY6, port));
        t.packet("DNS", Place::Pod, dns.request(), Row::Udp);
        t.packet("its answer", Place::Uplink, dns.response(), Row::KnownSkip);
        t.packet("a tunnel", Place::Output, tunnel.request(), Row::TunnelItself);
        let echo = Datagram::new(MESHED6, REMOTE6, ICMPV6, vec![128, 0, 0, 0, 0, 1, 0, 1]);
        t.packet("echo", Place::Pod, echo.clone(), Row::Rest);
        t.packet("echo from a tunnel", Place::TunnelIn, echo, Row::FromTunnel);
        t.packet("no next header", Place::Pod, Datagram::new(MESHED6, REMOTE6, 59, Vec::new()), Row::Rest);
        t.unseen_by_rules();
    });
}

fn extension_headers(script: &mut Script) {
    let ways: [(&str, &[u8]); 5] = [
        ("hop by hop", &[HOP_BY_HOP]),
        ("routing", &[ROUTING]),
        ("destination", &[DESTINATION]),
        ("an atomic fragment", &[FRAGMENT]),
        ("four of them", &[HOP_BY_HOP, DESTINATION, ROUTING, DESTINATION]),
    ];
    for (name, kinds) in ways {
        script.talk(format!("IPv6 extension headers: {name}"), |t| {
            let (tcp, udp) = (t.tcp(MESHED6, REMOTE6, 80), t.udp(MESHED6, REMOTE6, 80));
            let with = |datagram: Datagram| kinds.iter().fold(datagram, |d, &kind| d.extension(kind, extension(kind)));
            t.packet("outbound", Place::Pod, with(tcp.syn()), Row::Outbound);
            t.packet("DNS", Place::Pod, with(udp.request()), Row::Udp);
            t.unseen_by_rules();
        });
    }
    script.talk("IPv6 extension headers: too many", |t| {
        let tcp = t.tcp(MESHED6, REMOTE6, 80);
        let many = (0..9).fold(tcp.syn(), |datagram, _| datagram.extension(DESTINATION, &EMPTY));
        t.unparsed("outbound", Place::Pod, many, Unparsed::TooManyHeaders);
    });
}

fn fragments(script: &mut Script) {
    script.talk("IPv6 in fragments", |t| {
        let (tcp, udp) = (t.tcp(MESHED6, REMOTE6, 80), t.udp(MESHED6, REMOTE6, 80));
        t.packet("outbound", Place::Pod, tcp.data(), Row::Outbound).cut(&[24], &[Row::Outbound, Row::Outbound]);
        t.packet("DNS", Place::Pod, udp.request(), Row::Udp).cut(&[16], &[Row::Udp, Row::Udp]);
        t.unseen_by_rules();
    });
    script.talk("IPv6 later fragment that hides its protocol", |t| {
        let tcp = t.tcp(MESHED6, REMOTE6, 80);
        let later = [0, 0, 0, 9, 0, 0, 0, 1];
        let hidden = tcp.syn().extension(FRAGMENT, &later).extension(DESTINATION, &EMPTY);
        t.unparsed("outbound", Place::Pod, hidden, Unparsed::HiddenProtocol);
    });
}

fn extension(kind: u8) -> &'static [u8] {
    if kind == FRAGMENT { &[0; 8] } else { &EMPTY }
}
