//! What the node itself sends: probes, and everything that is none.

use redirect_common::policy::Row;

use super::super::cast::{AFTER_NODE, CLUSTER_IP, MESHED, MESHED_B, NODE, NODE_B, OUTSIDE, REMOTE, UNMESHED};
use super::super::script::{End, Script};
use super::super::step::Place;

pub(super) fn add(script: &mut Script) {
    probes(script);
    others(script);
    not_quite_probes(script);
    mid_stream(script);
}

fn probes(script: &mut Script) {
    let ways = [
        ("an HTTP probe", NODE, MESHED, 8080),
        ("a probe of another pod", NODE, MESHED_B, 9090),
        ("a probe from the node's other address", NODE_B, MESHED, 8080),
        ("a probe of the HBONE port", NODE, MESHED, 15008),
    ];
    for (name, node, pod, port) in ways {
        script.talk(name, |t| {
            let flow = t.tcp(node, pod, port);
            t.exchange(
                &flow,
                End(Place::Output, Row::NodeProbe, Row::KnownSkip),
                End(Place::Pod, Row::KnownSkip, Row::KnownSkip),
            );
        });
    }
    script.talk("a probe that is refused", |t| {
        let flow = t.tcp(NODE, MESHED, 81);
        t.packet("SYN", Place::Output, flow.syn(), Row::NodeProbe);
        t.packet("RST", Place::Pod, flow.rst_back(), Row::KnownSkip);
    });
    script.talk("a probe that is sent again", |t| {
        let flow = t.tcp(NODE, MESHED, 82);
        t.packet("SYN", Place::Output, flow.syn(), Row::NodeProbe);
        t.packet("SYN again", Place::Output, flow.syn(), Row::KnownSkip);
        t.packet("SYN,ACK", Place::Pod, flow.syn_ack(), Row::KnownSkip);
    });
}

fn others(script: &mut Script) {
    let servers = [
        ("a remote node", REMOTE, 6443, Place::Uplink),
        ("a server outside", OUTSIDE, 443, Place::Uplink),
        ("an unmeshed pod", UNMESHED, 8080, Place::Pod),
        ("a ClusterIP", CLUSTER_IP, 80, Place::Uplink),
    ];
    for (who, server, port, there) in servers {
        script.talk(format!("the node to {who}"), |t| {
            let flow = t.tcp(NODE, server, port);
            t.exchange(&flow, End(Place::Output, Row::Rest, Row::Rest), End(there, Row::Rest, Row::Rest));
        });
    }
}

/// A probe's addresses from elsewhere, or a probe's place with other addresses.
fn not_quite_probes(script: &mut Script) {
    let ways = [
        ("the node's address on the uplink", NODE, MESHED, Place::Uplink, Row::Rest),
        ("the node's address from a pod", NODE, MESHED, Place::Pod, Row::Rest),
        ("the node's address from ztunnel", NODE, MESHED, Place::Proxy, Row::ProxyAsClient),
        ("the node's address from a tunnel", NODE, MESHED, Place::TunnelIn, Row::FromTunnel),
        ("a local socket with an address of nobody", AFTER_NODE, MESHED, Place::Output, Row::Rest),
        ("a local socket with a remote address", REMOTE, MESHED, Place::Output, Row::Rest),
        ("a local socket with an unmeshed pod's address", UNMESHED, MESHED, Place::Output, Row::Rest),
        ("a local socket with a meshed pod's address", MESHED, REMOTE, Place::Output, Row::Outbound),
        ("a local socket with a meshed pod's address to a meshed pod", MESHED, MESHED_B, Place::Output, Row::Outbound),
        ("a meshed pod to the node as if it probed", MESHED, NODE, Place::Output, Row::Outbound),
    ];
    for (name, source, destination, place, row) in ways {
        script.talk(name, |t| {
            let flow = t.tcp(source, destination, 8080);
            t.packet("SYN", place, flow.syn(), row);
        });
    }
}

/// Row 8 asks for no SYN.
fn mid_stream(script: &mut Script) {
    script.talk("a probe from before the rules", |t| {
        let flow = t.tcp(NODE, MESHED, 8080);
        t.packet("data", Place::Output, flow.data(), Row::NodeProbe);
        t.packet("data of the pod", Place::Pod, flow.reply(), Row::KnownSkip);
    });
    script.talk("the node's answer to a meshed client", |t| {
        let flow = t.tcp(MESHED, NODE, 10255);
        t.packet("SYN", Place::Pod, flow.syn(), Row::Outbound);
        // Addresses and place are a probe's. It takes a client whose SYN was not proxied to come here.
        t.packet("SYN,ACK", Place::Output, flow.syn_ack(), Row::NodeProbe);
        t.packet("ACK", Place::Pod, flow.ack(), Row::KnownSkip);
    });
}
