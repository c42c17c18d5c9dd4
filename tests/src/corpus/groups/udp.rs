//! UDP is never redirected: row 7, then remembered both ways.

use std::net::Ipv4Addr;

use redirect_common::policy::Row;

use super::super::cast::{DNS, MESHED, MESHED_B, NODE, OUTSIDE, PROXY, REMOTE, UNMESHED};
use super::super::script::{End, Script};
use super::super::step::Place;

pub(super) fn add(script: &mut Script) {
    conversations(script);
    single(script);
}

fn conversations(script: &mut Script) {
    let ways = [
        ("DNS of a meshed pod", MESHED, DNS, 53, Place::Pod, Place::Uplink),
        ("DNS of an unmeshed pod", UNMESHED, DNS, 53, Place::Pod, Place::Uplink),
        ("DNS of the node", NODE, DNS, 53, Place::Output, Place::Uplink),
        ("QUIC of a meshed pod", MESHED, OUTSIDE, 443, Place::Pod, Place::Uplink),
        ("UDP between meshed pods", MESHED, MESHED_B, 5000, Place::Pod, Place::Pod),
        ("remote UDP to meshed", REMOTE, MESHED, 5000, Place::Uplink, Place::Pod),
        ("UDP of the node to meshed", NODE, MESHED, 5000, Place::Output, Place::Pod),
        ("UDP of a meshed pod to the node", MESHED, NODE, 123, Place::Pod, Place::Output),
        ("UDP of a meshed pod to the HBONE port", MESHED, REMOTE, 15008, Place::Pod, Place::Uplink),
        ("VXLAN of the node", NODE, REMOTE, 4789, Place::Output, Place::Uplink),
    ];
    for (name, client, server, port, here, there) in ways {
        script.talk(name, |t| {
            let flow = t.udp(client, server, port);
            t.ask(&flow, End(here, Row::Udp, Row::KnownSkip), End(there, Row::KnownSkip, Row::KnownSkip));
        });
    }
    script.talk("a meshed pod's UDP to ztunnel", |t| {
        let flow = t.udp(MESHED, PROXY, 15053);
        t.ask(&flow, End(Place::Pod, Row::Udp, Row::KnownSkip), End(Place::Proxy, Row::KnownSkip, Row::KnownSkip));
    });
}

fn single(script: &mut Script) {
    script.talk("an empty datagram", |t| {
        let flow = t.udp(MESHED, REMOTE, 9);
        t.packet("request", Place::Pod, flow.udp(&[]), Row::Udp);
    });
    script.talk("a datagram as long as the link takes", |t| {
        let flow = t.udp(MESHED, REMOTE, 9);
        t.packet("request", Place::Pod, flow.udp(&[7; 1472]), Row::Udp);
    });
    script.talk("mDNS of a meshed pod", |t| {
        let flow = t.udp(MESHED, Ipv4Addr::new(224, 0, 0, 251), 5353).client_port(5353);
        t.packet("query", Place::Pod, flow.request(), Row::Udp);
    });
    script.talk("DHCP from no address", |t| {
        let flow = t.udp(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 67).client_port(68);
        t.packet("discover", Place::Pod, flow.request(), Row::Udp);
    });
    script.talk("UDP out of the tunnels", |t| {
        let flow = t.udp(MESHED, REMOTE, 5001);
        t.packet("from istioout", Place::TunnelOut, flow.request(), Row::FromTunnel);
        t.packet("the same from a pod", Place::Pod, flow.request(), Row::Udp);
        t.packet("its answer from istioin", Place::TunnelIn, flow.response(), Row::FromTunnel);
    });
}
