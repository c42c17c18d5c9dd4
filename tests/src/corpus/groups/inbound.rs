//! What others send to meshed pods: carried into `istioin` by rule 103, without any mark; and back by row 1.

use redirect_common::policy::Row;

use super::super::cast::{MESHED, MESHED_B, OUTSIDE, REMOTE, REMOTE_POD, UNMESHED};
use super::super::script::{End, Script};
use super::super::step::Place;

pub(super) fn add(script: &mut Script) {
    to_ztunnel(script);
    from_ztunnel(script);
    without_ztunnel(script);
}

/// The client's connection: ztunnel answers it in the pod's name.
fn to_ztunnel(script: &mut Script) {
    let ways = [
        ("a remote node, plaintext", REMOTE, MESHED, 8080, Place::Uplink),
        ("a remote node, HBONE", REMOTE, MESHED, 15008, Place::Uplink),
        ("a remote pod, plaintext", REMOTE_POD, MESHED_B, 8080, Place::Uplink),
        ("a remote pod, HBONE", REMOTE_POD, MESHED_B, 15008, Place::Uplink),
        ("outside", OUTSIDE, MESHED, 443, Place::Uplink),
        ("an unmeshed pod", UNMESHED, MESHED, 8080, Place::Pod),
        ("an unmeshed pod, HBONE port", UNMESHED, MESHED, 15008, Place::Pod),
    ];
    for (who, client, pod, port, here) in ways {
        script.talk(format!("{who} to meshed"), |t| {
            let flow = t.tcp(client, pod, port);
            t.exchange(&flow, End(here, Row::Rest, Row::Rest), End(Place::TunnelIn, Row::FromTunnel, Row::FromTunnel));
        });
    }
}

/// ztunnel's connection to the pod, with the client's address.
fn from_ztunnel(script: &mut Script) {
    let clients = [("a remote node", REMOTE), ("a remote pod", REMOTE_POD), ("outside", OUTSIDE)];
    let clients = clients.into_iter().chain([("an unmeshed pod", UNMESHED), ("another meshed pod", MESHED_B)]);
    for (who, client) in clients {
        script.talk(format!("ztunnel to meshed as {who}"), |t| {
            let flow = t.tcp(client, MESHED, 8080);
            t.exchange(
                &flow,
                End(Place::Proxy, Row::ProxyAsClient, Row::ProxyAsClient),
                End(Place::Pod, Row::KnownProxy, Row::KnownProxy),
            );
        });
    }
}

/// The pod answers a client that no ztunnel stands for: it is TCP of a meshed pod like any other.
fn without_ztunnel(script: &mut Script) {
    script.talk("remote to meshed, answered without ztunnel", |t| {
        let flow = t.tcp(REMOTE, MESHED, 8080);
        t.exchange(&flow, End(Place::Uplink, Row::Rest, Row::Rest), End(Place::Pod, Row::Outbound, Row::Outbound));
    });
    script.talk("the client's port taken by ztunnel as well", |t| {
        let flow = t.tcp(REMOTE, MESHED, 8080);
        t.packet("SYN of the client", Place::Uplink, flow.syn(), Row::Rest);
        t.packet("SYN of ztunnel", Place::Proxy, flow.syn(), Row::ProxyAsClient);
        t.packet("the pod's answer", Place::Pod, flow.syn_ack(), Row::KnownProxy);
        // One connection for the node: nothing in the packet tells the client from ztunnel.
        t.packet("ACK of the client", Place::Uplink, flow.ack(), Row::KnownProxy);
        t.packet("ACK of ztunnel", Place::Proxy, flow.ack(), Row::ProxyAsClient);
    });
}
