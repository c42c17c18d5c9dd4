//! What ztunnel sends by its veth: in its own name, and in its clients'.

use redirect_common::policy::Row;

use super::super::cast::{CLUSTER_IP, DNS, MESHED, MESHED_B, NODE, OUTSIDE, PROXY, REMOTE, REMOTE_POD, UNMESHED};
use super::super::script::{End, Script};
use super::super::step::Place;

pub(super) fn add(script: &mut Script) {
    own_connections(script);
    connections_to_it(script);
    as_client(script);
    other_than_tcp(script);
}

fn own_connections(script: &mut Script) {
    let servers = [
        ("the control plane", CLUSTER_IP, 15012, Place::Uplink),
        ("another ztunnel, HBONE", REMOTE_POD, 15008, Place::Uplink),
        ("a server outside", OUTSIDE, 443, Place::Uplink),
        ("the node", NODE, 10250, Place::Output),
        ("an unmeshed pod", UNMESHED, 8080, Place::Pod),
        ("a meshed pod", MESHED, 8080, Place::Pod),
    ];
    for (who, server, port, there) in servers {
        script.talk(format!("ztunnel's own to {who}"), |t| {
            let flow = t.tcp(PROXY, server, port);
            t.exchange(
                &flow,
                End(Place::Proxy, Row::ProxyOwn, Row::KnownSkip),
                End(there, Row::KnownSkip, Row::KnownSkip),
            );
        });
    }
}

/// The first packet does not come from ztunnel; its answer does, and is remembered.
fn connections_to_it(script: &mut Script) {
    let clients = [
        ("the node's probe", NODE, 15021, Place::Output),
        ("another ztunnel", REMOTE_POD, 15008, Place::Uplink),
        ("an unmeshed scraper", UNMESHED, 15020, Place::Pod),
    ];
    for (who, client, port, here) in clients {
        script.talk(format!("{who} to ztunnel"), |t| {
            let flow = t.tcp(client, PROXY, port);
            t.exchange(&flow, End(here, Row::Rest, Row::KnownSkip), End(Place::Proxy, Row::ProxyOwn, Row::KnownSkip));
        });
    }
}

/// Onward from ztunnel with the meshed pod's address.
fn as_client(script: &mut Script) {
    let servers = [
        ("a remote server", REMOTE, 80, Place::Uplink),
        ("a remote pod, HBONE", REMOTE_POD, 15008, Place::Uplink),
        ("a server outside", OUTSIDE, 443, Place::Uplink),
        ("another meshed pod", MESHED_B, 8080, Place::Pod),
        ("an unmeshed pod", UNMESHED, 8080, Place::Pod),
        ("the node", NODE, 10250, Place::Output),
    ];
    for (who, server, port, there) in servers {
        script.talk(format!("ztunnel as a meshed pod to {who}"), |t| {
            let flow = t.tcp(MESHED, server, port);
            t.exchange(
                &flow,
                End(Place::Proxy, Row::ProxyAsClient, Row::ProxyAsClient),
                End(there, Row::KnownProxy, Row::KnownProxy),
            );
        });
    }
}

fn other_than_tcp(script: &mut Script) {
    script.talk("ztunnel's own DNS", |t| {
        let flow = t.udp(PROXY, DNS, 53);
        t.ask(
            &flow,
            End(Place::Proxy, Row::ProxyOwn, Row::KnownSkip),
            End(Place::Uplink, Row::KnownSkip, Row::KnownSkip),
        );
    });
    for (who, server, there) in [("the service", DNS, Place::Uplink), ("the node", NODE, Place::Output)] {
        script.talk(format!("ztunnel's DNS as a meshed pod to {who}"), |t| {
            let flow = t.udp(MESHED, server, 53);
            t.ask(
                &flow,
                End(Place::Proxy, Row::ProxyAsClient, Row::ProxyAsClient),
                End(there, Row::KnownProxy, Row::KnownProxy),
            );
        });
    }
    script.talk("ztunnel's own echo", |t| {
        let flow = t.echo(PROXY, REMOTE);
        t.ask(
            &flow,
            End(Place::Proxy, Row::ProxyOwn, Row::KnownSkip),
            End(Place::Uplink, Row::KnownSkip, Row::KnownSkip),
        );
    });
    script.talk("ztunnel's echo as a meshed pod", |t| {
        let flow = t.echo(MESHED, REMOTE);
        t.ask(
            &flow,
            End(Place::Proxy, Row::ProxyAsClient, Row::ProxyAsClient),
            End(Place::Uplink, Row::KnownProxy, Row::KnownProxy),
        );
    });
}
