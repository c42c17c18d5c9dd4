//! The tunnels' own packets, and what looks like them.

use redirect_common::names::{OUTBOUND, SKIP};
use redirect_common::policy::Row;

use super::super::cast::{MESHED, NODE, OUTSIDE, PROXY, REMOTE, UNMESHED};
use super::super::flow::Flow;
use super::super::script::Script;
use super::super::step::Place;

pub(super) fn add(script: &mut Script) {
    itself(script);
    from_others(script);
    other_ports(script);
    not_udp(script);
}

fn itself(script: &mut Script) {
    let port = script.tunnel_port();
    script.talk("a tunnel between node and ztunnel", |t| {
        // A tunnel's source port is a hash of what it carries; each direction is a connection by itself.
        let (there, back) = (t.udp(NODE, PROXY, port), t.udp(PROXY, NODE, port));
        t.packet("unmarked", Place::Output, there.request(), Row::TunnelItself);
        t.packet("with the inner mark outbound", Place::Output, there.request(), Row::TunnelItself)
            .marked(OUTBOUND.value());
        t.packet("with the inner mark skip", Place::Output, there.request(), Row::TunnelItself).marked(SKIP.value());
        t.packet("from ztunnel", Place::Proxy, back.request(), Row::TunnelItself);
        t.packet("again to ztunnel", Place::Output, there.request(), Row::TunnelItself);
        t.packet("again from ztunnel", Place::Proxy, back.request(), Row::TunnelItself);
    });
    script.talk("a tunnel whose source port is the tunnel port", |t| {
        let flow = t.udp(NODE, PROXY, port).client_port(port);
        t.packet("to ztunnel", Place::Output, flow.request(), Row::TunnelItself);
        t.packet("from ztunnel", Place::Proxy, flow.response(), Row::TunnelItself);
    });
}

/// Row 2 asks for no address: who may send to the port is not the law's matter.
fn from_others(script: &mut Script) {
    let port = script.tunnel_port();
    let ways = [
        ("a remote node's tunnel", REMOTE, NODE, Place::Uplink),
        ("a meshed pod to the tunnel port", MESHED, NODE, Place::Pod),
        ("an unmeshed pod to the tunnel port", UNMESHED, PROXY, Place::Pod),
        ("ztunnel as a client to the tunnel port", MESHED, OUTSIDE, Place::Proxy),
        ("the node to a meshed pod's tunnel port", NODE, MESHED, Place::Output),
    ];
    for (name, source, destination, place) in ways {
        script.talk(name, |t| {
            let flow = t.udp(source, destination, port);
            t.packet("datagram", place, flow.request(), Row::TunnelItself);
        });
    }
    script.talk("a tunnel in a tunnel", |t| {
        let flow = t.udp(MESHED, OUTSIDE, port);
        t.packet("from istioin", Place::TunnelIn, flow.request(), Row::FromTunnel);
        t.packet("from istioout", Place::TunnelOut, flow.request(), Row::FromTunnel);
    });
}

fn other_ports(script: &mut Script) {
    let port = script.tunnel_port();
    for near in [port - 1, port + 1] {
        script.talk(format!("UDP to port {near}"), |t| {
            let flow = t.udp(MESHED, REMOTE, near);
            t.packet("datagram", Place::Pod, flow.request(), Row::Udp);
            t.packet("answer", Place::Uplink, flow.response(), Row::KnownSkip);
        });
    }
    // In the bytes of the other order: a rule that swaps them would take it.
    script.talk("UDP to the tunnel port's swapped bytes", |t| {
        let flow = t.udp(MESHED, REMOTE, port.swap_bytes());
        t.packet("datagram", Place::Pod, flow.request(), Row::Udp);
    });
    from_the_port(script, port);
}

fn from_the_port(script: &mut Script, port: u16) {
    let ways = [
        ("a pod", MESHED, REMOTE, Place::Pod, Row::Udp, Place::Uplink),
        ("the node", NODE, REMOTE, Place::Output, Row::Udp, Place::Uplink),
        ("ztunnel", PROXY, OUTSIDE, Place::Proxy, Row::ProxyOwn, Place::Uplink),
        ("a remote, to the node", REMOTE, NODE, Place::Uplink, Row::Udp, Place::Output),
    ];
    for (who, source, destination, here, row, there) in ways {
        script.talk(format!("UDP from the tunnel port of {who}"), |t| {
            let server = t.fresh_port();
            let flow = t.udp(source, destination, server).client_port(port);
            t.packet("datagram", here, flow.request(), row);
            // Remembered, but row 2 comes before row 3.
            t.packet("answer to the tunnel port", there, flow.response(), Row::TunnelItself);
            t.packet("datagram again", here, flow.request(), Row::KnownSkip);
        });
    }
}

fn not_udp(script: &mut Script) {
    let port = script.tunnel_port();
    let ways = [
        ("a meshed pod", MESHED, REMOTE, Place::Pod, Row::Outbound),
        ("an unmeshed pod", UNMESHED, REMOTE, Place::Pod, Row::Rest),
        ("ztunnel", PROXY, NODE, Place::Proxy, Row::ProxyOwn),
        ("ztunnel as a client", MESHED, REMOTE, Place::Proxy, Row::ProxyAsClient),
        ("the node, to a meshed pod", NODE, MESHED, Place::Output, Row::NodeProbe),
    ];
    for (who, source, destination, place, row) in ways {
        script.talk(format!("TCP to the tunnel port by {who}"), |t| {
            let flow: Flow = t.tcp(source, destination, port);
            t.packet("SYN", place, flow.syn(), row);
        });
    }
}
