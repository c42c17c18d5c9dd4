//! What meshed pods send. The whole path of an outbound connection is two: the pod's, which ztunnel answers through the
//! tunnel, and ztunnel's with the pod's address.

use redirect_common::policy::Row;

use super::super::cast::{CLUSTER_IP, MESHED, MESHED_B, NODE, OUTSIDE, PROXY, REMOTE, REMOTE_POD, UNMESHED};
use super::super::script::{End, Script};
use super::super::step::Place;

pub(super) fn add(script: &mut Script) {
    through_ztunnel(script);
    straight(script);
    answered_straight(script);
}

/// As it is meant to be: the answers come out of `istioout`.
fn through_ztunnel(script: &mut Script) {
    let servers = [
        ("a remote server", REMOTE, 80),
        ("a remote pod", REMOTE_POD, 8080),
        ("a server outside", OUTSIDE, 443),
        ("a ClusterIP", CLUSTER_IP, 80),
        ("another meshed pod", MESHED_B, 8080),
        ("an unmeshed pod", UNMESHED, 8080),
        ("the node", NODE, 10250),
    ];
    for (who, server, port) in servers {
        script.talk(format!("meshed to {who}"), |t| {
            let flow = t.tcp(MESHED, server, port);
            t.exchange(
                &flow,
                End(Place::Pod, Row::Outbound, Row::Outbound),
                End(Place::TunnelOut, Row::FromTunnel, Row::FromTunnel),
            );
        });
    }
}

/// Connections that the mesh does not expect, but the law has a word for.
fn straight(script: &mut Script) {
    script.talk("meshed to itself by its own address", |t| {
        let flow = t.tcp(MESHED, MESHED, 8080);
        t.packet("SYN", Place::Pod, flow.syn(), Row::Outbound);
    });
    script.talk("meshed to ztunnel's address", |t| {
        let flow = t.tcp(MESHED, PROXY, 15008);
        t.packet("SYN", Place::Pod, flow.syn(), Row::Outbound);
        t.packet("SYN,ACK from ztunnel's veth", Place::Proxy, flow.syn_ack(), Row::ProxyOwn);
        t.packet("ACK", Place::Pod, flow.ack(), Row::KnownSkip);
    });
    for port in [15001, 15006, 15008, 22, 53] {
        script.talk(format!("meshed to port {port}"), |t| {
            let flow = t.tcp(MESHED_B, OUTSIDE, port);
            t.packet("SYN", Place::Pod, flow.syn(), Row::Outbound);
        });
    }
    script.talk("a meshed pod's address on the uplink", |t| {
        let flow = t.tcp(MESHED, OUTSIDE, 80);
        t.packet("SYN", Place::Uplink, flow.syn(), Row::Outbound);
    });
}

/// The server's answer takes the short way: it is no packet from a meshed pod, so nothing marks it.
fn answered_straight(script: &mut Script) {
    let servers = [
        ("a remote server", REMOTE, Place::Uplink, Row::Rest),
        ("an unmeshed pod", UNMESHED, Place::Pod, Row::Rest),
        ("another meshed pod", MESHED_B, Place::Pod, Row::Outbound),
    ];
    for (who, server, there, answer) in servers {
        script.talk(format!("meshed to {who}, answered without ztunnel"), |t| {
            let flow = t.tcp(MESHED, server, 80);
            t.exchange(&flow, End(Place::Pod, Row::Outbound, Row::Outbound), End(there, answer, answer));
        });
    }
}
