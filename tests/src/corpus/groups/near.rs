//! Addresses that are almost the ones that a row asks for, and right ones in the wrong place.

use std::net::Ipv4Addr;

use redirect_common::names::{ISTIOIN, ISTIOOUT};
use redirect_common::policy::Row;

use super::super::cast::{
    AFTER_MESHED, AFTER_PROXY, BEFORE_MESHED, BEFORE_PROXY, MESHED, MESHED_B, NODE, OUTSIDE, PROXY, REMOTE, UNMESHED,
};
use super::super::script::Script;
use super::super::step::Place;

pub(super) fn add(script: &mut Script) {
    sources(script);
    ztunnel_addresses(script);
    places(script);
}

fn sources(script: &mut Script) {
    let [a, b, c, d] = MESHED.octets();
    let ways = [
        ("one below a meshed pod", BEFORE_MESHED),
        ("one above a meshed pod", AFTER_MESHED),
        ("a meshed pod's bytes in the other order", Ipv4Addr::new(d, c, b, a)),
        ("a meshed pod's number in the next subnet", Ipv4Addr::new(a, b, c + 1, d)),
        ("no address", Ipv4Addr::UNSPECIFIED),
        ("loopback", Ipv4Addr::LOCALHOST),
        ("the node's end of istioout", ISTIOOUT.node_addr),
    ];
    for (name, source) in ways {
        script.talk(format!("source: {name}"), |t| {
            let (flow, to_meshed) = (t.tcp(source, REMOTE, 80), t.tcp(source, MESHED_B, 80));
            t.packet("SYN to remote", Place::Pod, flow.syn(), Row::Rest);
            t.packet("SYN to a meshed pod", Place::Pod, to_meshed.syn(), Row::Rest);
        });
    }
    script.talk("meshed is the destination, not the source", |t| {
        let flow = t.tcp(UNMESHED, MESHED, 80);
        t.packet("SYN from a pod", Place::Pod, flow.syn(), Row::Rest);
        t.packet("SYN from the uplink", Place::Uplink, flow.syn(), Row::Rest);
    });
}

fn ztunnel_addresses(script: &mut Script) {
    let ways = [
        ("one below ztunnel", BEFORE_PROXY),
        ("one above ztunnel", AFTER_PROXY),
        ("a meshed pod", MESHED),
        ("an unmeshed pod", UNMESHED),
        ("the node", NODE),
        ("ztunnel's end of istioin", ISTIOIN.proxy_addr),
        ("ztunnel's end of istioout", ISTIOOUT.proxy_addr),
    ];
    for (name, source) in ways {
        script.talk(format!("from ztunnel's veth: {name}"), |t| {
            let (tcp, udp) = (t.tcp(source, OUTSIDE, 80), t.udp(source, OUTSIDE, 80));
            t.packet("SYN", Place::Proxy, tcp.syn(), Row::ProxyAsClient);
            t.packet("datagram", Place::Proxy, udp.request(), Row::ProxyAsClient);
        });
    }
    let places = [
        (Place::TunnelIn, Row::FromTunnel, Row::FromTunnel),
        (Place::TunnelOut, Row::FromTunnel, Row::FromTunnel),
        (Place::Pod, Row::Rest, Row::Udp),
        (Place::Uplink, Row::Rest, Row::Udp),
        (Place::Output, Row::Rest, Row::Udp),
    ];
    for (place, tcp_row, udp_row) in places {
        script.talk(format!("ztunnel's address on {place:?}"), |t| {
            let (tcp, udp) = (t.tcp(PROXY, OUTSIDE, 80), t.udp(PROXY, OUTSIDE, 80));
            t.packet("SYN", place, tcp.syn(), tcp_row);
            t.packet("datagram", place, udp.request(), udp_row);
        });
    }
}

/// The same packet in every place.
fn places(script: &mut Script) {
    let rows = |tunnel, proxy, other, output| {
        Place::ALL.map(|place| match place {
            Place::TunnelIn | Place::TunnelOut => tunnel,
            Place::Proxy => proxy,
            // Whatever is the first one's address is a client's here.
            Place::ProxyB => Row::ProxyAsClient,
            Place::Pod | Place::Uplink => other,
            Place::Output => output,
        })
    };
    let ways = [
        ("meshed to remote", MESHED, REMOTE, rows(Row::FromTunnel, Row::ProxyAsClient, Row::Outbound, Row::Outbound)),
        ("remote to meshed", REMOTE, MESHED, rows(Row::FromTunnel, Row::ProxyAsClient, Row::Rest, Row::Rest)),
        ("node to meshed", NODE, MESHED, rows(Row::FromTunnel, Row::ProxyAsClient, Row::Rest, Row::NodeProbe)),
        ("ztunnel to meshed", PROXY, MESHED, rows(Row::FromTunnel, Row::ProxyOwn, Row::Rest, Row::Rest)),
        ("node to unmeshed", NODE, UNMESHED, rows(Row::FromTunnel, Row::ProxyAsClient, Row::Rest, Row::Rest)),
    ];
    for (name, source, destination, rows) in ways {
        for (place, row) in Place::ALL.into_iter().zip(rows) {
            script.talk(format!("place: {name} on {place:?}"), |t| {
                let flow = t.tcp(source, destination, 8080);
                t.packet("SYN", place, flow.syn(), row);
            });
        }
    }
}
