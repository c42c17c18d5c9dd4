//! ICMP is never redirected. Errors belong to the connection that they are about, as conntrack has it.

use std::net::Ipv4Addr;

use redirect_common::policy::Row;

use super::super::cast::{MESHED, MESHED_B, NODE, OUTSIDE, PROXY, REMOTE, UNMESHED};
use super::super::datagram::Datagram;
use super::super::flow::icmp_error;
use super::super::script::{End, Script};
use super::super::step::Place;

const UNREACHABLE: u8 = 3;
const BAD_PORT: u8 = 3;
const TOO_LONG: u8 = 4;
const TIME_EXCEEDED: u8 = 11;
const IGMP: u8 = 2;
/// Somewhere between the node and the server outside.
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

pub(super) fn add(script: &mut Script) {
    echoes(script);
    errors_of_the_known(script);
    errors_of_the_unknown(script);
}

fn echoes(script: &mut Script) {
    let ways = [
        ("a meshed pod to a remote node", MESHED, REMOTE, Place::Pod, Place::Uplink),
        ("a meshed pod to another", MESHED, MESHED_B, Place::Pod, Place::Pod),
        ("a remote node to a meshed pod", REMOTE, MESHED, Place::Uplink, Place::Pod),
        ("the node to a meshed pod", NODE, MESHED, Place::Output, Place::Pod),
        ("an unmeshed pod to the node", UNMESHED, NODE, Place::Pod, Place::Output),
    ];
    for (who, client, server, here, there) in ways {
        script.talk(format!("echo of {who}"), |t| {
            let flow = t.echo(client, server);
            t.ask(&flow, End(here, Row::Rest, Row::Rest), End(there, Row::Rest, Row::Rest));
        });
    }
    script.talk("echo of the node to ztunnel", |t| {
        let flow = t.echo(NODE, PROXY);
        t.ask(&flow, End(Place::Output, Row::Rest, Row::KnownSkip), End(Place::Proxy, Row::ProxyOwn, Row::KnownSkip));
    });
    script.talk("echo out of a tunnel", |t| {
        let flow = t.echo(MESHED, REMOTE);
        t.packet("request", Place::TunnelOut, flow.request(), Row::FromTunnel);
        t.packet("response", Place::TunnelIn, flow.response(), Row::FromTunnel);
    });
    script.talk("a multicast report of a meshed pod", |t| {
        let report = Datagram::new(MESHED, Ipv4Addr::new(224, 0, 0, 22), IGMP, vec![0x22, 0, 0xdd, 0xff, 0, 0, 0, 0]);
        t.packet("report", Place::Pod, report, Row::Rest);
    });
}

fn errors_of_the_known(script: &mut Script) {
    script.talk("a probe's port is unreachable", |t| {
        let flow = t.tcp(NODE, MESHED, 83);
        t.packet("SYN", Place::Output, flow.syn(), Row::NodeProbe);
        let error = icmp_error(MESHED, UNREACHABLE, BAD_PORT, &flow.syn());
        t.packet("error of the pod", Place::Pod, error, Row::KnownSkip).part_of(flow.key());
    });
    script.talk("DNS port is unreachable", |t| {
        let flow = t.udp(MESHED, REMOTE, 53);
        t.packet("request", Place::Pod, flow.request(), Row::Udp);
        let error = icmp_error(REMOTE, UNREACHABLE, BAD_PORT, &flow.request());
        t.packet("error of the server", Place::Uplink, error, Row::KnownSkip).part_of(flow.key());
    });
    script.talk("ztunnel as a client sends too long packets", |t| {
        let flow = t.tcp(MESHED, OUTSIDE, 443);
        t.packet("SYN", Place::Proxy, flow.syn(), Row::ProxyAsClient);
        t.packet("SYN,ACK", Place::Uplink, flow.syn_ack(), Row::KnownProxy);
        t.packet("data", Place::Proxy, flow.data(), Row::ProxyAsClient);
        let error = icmp_error(ROUTER, UNREACHABLE, TOO_LONG, &flow.data());
        t.packet("error of a router", Place::Uplink, error, Row::KnownProxy).part_of(flow.key());
    });
    script.talk("ztunnel as a client finds no port in the pod", |t| {
        let flow = t.tcp(REMOTE, MESHED, 8081);
        t.packet("SYN", Place::Proxy, flow.syn(), Row::ProxyAsClient);
        let error = icmp_error(MESHED, UNREACHABLE, BAD_PORT, &flow.syn());
        t.packet("error of the pod", Place::Pod, error, Row::KnownProxy).part_of(flow.key());
    });
    script.talk("ztunnel's own packets expire", |t| {
        let flow = t.tcp(PROXY, OUTSIDE, 443);
        t.packet("SYN", Place::Proxy, flow.syn(), Row::ProxyOwn);
        let error = icmp_error(ROUTER, TIME_EXCEEDED, 0, &flow.syn());
        t.packet("error of a router", Place::Uplink, error, Row::KnownSkip).part_of(flow.key());
    });
    script.talk("ztunnel complains about the pod in its own name", |t| {
        let flow = t.tcp(REMOTE, MESHED, 8082);
        t.packet("SYN", Place::Proxy, flow.syn(), Row::ProxyAsClient);
        t.packet("SYN,ACK", Place::Pod, flow.syn_ack(), Row::KnownProxy);
        let error = icmp_error(PROXY, UNREACHABLE, TOO_LONG, &flow.reply());
        t.packet("error of ztunnel", Place::Proxy, error, Row::ProxyOwn).part_of(flow.key());
        // The error was remembered for the connection that it is about.
        t.packet("data of the pod", Place::Pod, flow.reply(), Row::KnownSkip);
    });
}

fn errors_of_the_unknown(script: &mut Script) {
    let ways = [
        ("the uplink", OUTSIDE, MESHED, Place::Uplink, Row::Rest),
        ("a meshed pod", MESHED, OUTSIDE, Place::Pod, Row::Rest),
        ("ztunnel's veth", PROXY, OUTSIDE, Place::Proxy, Row::ProxyOwn),
        ("ztunnel's veth as a client", MESHED, OUTSIDE, Place::Proxy, Row::ProxyAsClient),
        ("a tunnel", MESHED, OUTSIDE, Place::TunnelIn, Row::FromTunnel),
        ("the node", NODE, MESHED, Place::Output, Row::Rest),
    ];
    for (who, from, to, place, row) in ways {
        script.talk(format!("an error about nothing from {who}"), |t| {
            let flow = t.tcp(to, from, 80);
            let error = icmp_error(from, UNREACHABLE, BAD_PORT, &flow.syn());
            t.packet("error", place, error, row).untracked();
        });
    }
    script.talk("an outbound connection's port is unreachable", |t| {
        let flow = t.tcp(MESHED, REMOTE, 84);
        t.packet("SYN", Place::Pod, flow.syn(), Row::Outbound);
        let error = icmp_error(REMOTE, UNREACHABLE, BAD_PORT, &flow.syn());
        t.packet("error of the server", Place::Uplink, error, Row::Rest).unspecified();
    });
}
