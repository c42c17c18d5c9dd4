//! Two ztunnels side by side: what each began goes on with it, and what the one says does not pass for the other's.

use redirect_common::policy::Row;

use super::super::cast::{DNS, MESHED, MESHED_B, NODE, OUTSIDE, PROXY, PROXY_B, REMOTE, UNMESHED};
use super::super::script::{End, Script};
use super::super::step::Place;

pub(super) fn add(script: &mut Script) {
    as_client(script);
    own(script);
    side_by_side(script);
    one_after_the_other(script);
}

fn as_client(script: &mut Script) {
    let ways = [
        ("a meshed pod to a server outside", MESHED, OUTSIDE, 443, Place::Uplink),
        ("a meshed pod to another", MESHED, MESHED_B, 8080, Place::Pod),
        ("a meshed pod to the node", MESHED, NODE, 10250, Place::Output),
        ("a remote client to a meshed pod", REMOTE, MESHED, 8080, Place::Pod),
        ("the node to a meshed pod", NODE, MESHED, 8080, Place::Pod),
    ];
    for (who, client, server, port, there) in ways {
        script.talk(format!("the second ztunnel as {who}"), |t| {
            let flow = t.tcp(client, server, port);
            let here = End(Place::ProxyB, Row::ProxyAsClient, Row::ProxyAsClient);
            t.exchange(&flow, here, End(there, Row::KnownProxy, Row::KnownProxy));
        });
    }
    script.talk("the second ztunnel's DNS as a meshed pod", |t| {
        let flow = t.udp(MESHED, DNS, 53);
        let here = End(Place::ProxyB, Row::ProxyAsClient, Row::ProxyAsClient);
        t.ask(&flow, here, End(Place::Uplink, Row::KnownProxy, Row::KnownProxy));
    });
}

fn own(script: &mut Script) {
    let ways = [("a server outside", OUTSIDE, 443, Place::Uplink), ("an unmeshed pod", UNMESHED, 8080, Place::Pod)];
    for (who, server, port, there) in ways {
        script.talk(format!("the second ztunnel's own to {who}"), |t| {
            let flow = t.tcp(PROXY_B, server, port);
            let here = End(Place::ProxyB, Row::ProxyOwn, Row::KnownSkip);
            t.exchange(&flow, here, End(there, Row::KnownSkip, Row::KnownSkip));
        });
    }
    let port = script.tunnel_port();
    script.talk("the second ztunnel's own tunnel", |t| {
        let flow = t.udp(PROXY_B, NODE, port);
        t.packet("back", Place::ProxyB, flow.request(), Row::TunnelItself);
    });
    for (who, place, source) in [("first", Place::Proxy, PROXY_B), ("second", Place::ProxyB, PROXY)] {
        script.talk(format!("the {who} ztunnel with the other's address"), |t| {
            let flow = t.tcp(source, OUTSIDE, 443);
            let here = End(place, Row::ProxyAsClient, Row::ProxyAsClient);
            t.exchange(&flow, here, End(Place::Uplink, Row::KnownProxy, Row::KnownProxy));
        });
    }
}

/// The ends differ in a port only.
fn side_by_side(script: &mut Script) {
    script.talk("both ztunnels as one client to one server", |t| {
        let first = t.tcp(MESHED, REMOTE, 80);
        let second = t.tcp(MESHED, REMOTE, 80);
        t.packet("SYN of the first", Place::Proxy, first.syn(), Row::ProxyAsClient);
        t.packet("SYN of the second", Place::ProxyB, second.syn(), Row::ProxyAsClient);
        for place in [Place::Uplink, Place::Pod, Place::Output] {
            t.packet(&format!("answer to the second on {place:?}"), place, second.syn_ack(), Row::KnownProxy);
            t.packet(&format!("answer to the first on {place:?}"), place, first.syn_ack(), Row::KnownProxy);
        }
        t.packet("data of the first", Place::Proxy, first.data(), Row::ProxyAsClient);
        t.packet("data of the second", Place::ProxyB, second.data(), Row::ProxyAsClient);
        t.packet("data to the first", Place::Uplink, first.reply(), Row::KnownProxy);
        t.packet("data to the second", Place::Uplink, second.reply(), Row::KnownProxy);
    });
}

/// The last word counts: the ends may be used again, by whichever ztunnel.
fn one_after_the_other(script: &mut Script) {
    for (who, one, other) in [("second", Place::Proxy, Place::ProxyB), ("first", Place::ProxyB, Place::Proxy)] {
        script.talk(format!("the {who} ztunnel goes on with the other's ends"), |t| {
            let flow = t.tcp(MESHED, REMOTE, 80);
            t.packet("SYN of the one", one, flow.syn(), Row::ProxyAsClient);
            t.packet("its answer", Place::Uplink, flow.syn_ack(), Row::KnownProxy);
            t.packet("data of the other", other, flow.data(), Row::ProxyAsClient);
            t.packet("its answer, which is the other's now", Place::Uplink, flow.reply(), Row::KnownProxy);
        });
    }
    script.talk("the second ztunnel answers itself as a client", |t| {
        let flow = t.tcp(REMOTE, PROXY_B, 8080);
        t.packet("SYN as the client", Place::ProxyB, flow.syn(), Row::ProxyAsClient);
        t.packet("SYN,ACK in its own name", Place::ProxyB, flow.syn_ack(), Row::ProxyOwn);
        t.packet("ACK as the client", Place::ProxyB, flow.ack(), Row::KnownSkip);
        t.packet("ACK on the uplink", Place::Uplink, flow.ack(), Row::KnownSkip);
    });
}
