//! TCP that does not begin with a SYN, and flags that make no sense. The law reads no flags; conntrack does, and calls
//! some packets part of nothing, so that nothing is remembered of them.

use redirect_common::policy::Row;

use super::super::cast::{MESHED, NODE, OUTSIDE, PROXY, REMOTE};
use super::super::flow::Flow;
use super::super::flow::flags::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};
use super::super::script::{Script, Talk};
use super::super::step::Place;

/// Name, flags, data, and whether conntrack takes it for the first packet of a connection.
const FIRSTS: [(&str, u8, &[u8], bool); 15] = [
    ("SYN with ECN", SYN | ECE | CWR, &[], true),
    ("SYN with data", SYN, b"fast open", true),
    ("SYN with urgent data", SYN | URG, &[], true),
    ("ACK", ACK, &[], true),
    ("data", PSH | ACK, b"middle", true),
    ("urgent data", URG | ACK, b"middle", true),
    ("SYN,ACK", SYN | ACK, &[], false),
    ("RST", RST, &[], false),
    ("RST,ACK", RST | ACK, &[], false),
    ("FIN", FIN, &[], false),
    ("FIN,ACK", FIN | ACK, &[], false),
    ("no flag", 0, &[], false),
    ("every flag", 0xff, &[], false),
    ("SYN,FIN", SYN | FIN, &[], false),
    ("SYN,RST", SYN | RST, &[], false),
];

pub(super) fn add(script: &mut Script) {
    for first in FIRSTS {
        let name = first.0;
        script.talk(format!("first of a meshed pod: {name}"), |t| {
            let flow = t.tcp(MESHED, REMOTE, 80);
            send(t, &flow, first, Place::Pod, Row::Outbound);
        });
        script.talk(format!("first of a remote: {name}"), |t| {
            let flow = t.tcp(REMOTE, MESHED, 80);
            send(t, &flow, first, Place::Uplink, Row::Rest);
        });
        script.talk(format!("first of ztunnel: {name}"), |t| {
            let flow = t.tcp(PROXY, OUTSIDE, 80);
            send(t, &flow, first, Place::Proxy, Row::ProxyOwn);
            answer(t, &flow, first, Place::Uplink, Row::KnownSkip, Row::Rest);
        });
        script.talk(format!("first of ztunnel as a client: {name}"), |t| {
            let flow = t.tcp(REMOTE, MESHED, 80);
            send(t, &flow, first, Place::Proxy, Row::ProxyAsClient);
            answer(t, &flow, first, Place::Pod, Row::KnownProxy, Row::Outbound);
        });
        script.talk(format!("first of a probe: {name}"), |t| {
            let flow = t.tcp(NODE, MESHED, 80);
            send(t, &flow, first, Place::Output, Row::NodeProbe);
            answer(t, &flow, first, Place::Pod, Row::KnownSkip, Row::Outbound);
        });
    }
    script.talk("first from a tunnel: RST", |t| {
        let flow = t.tcp(MESHED, REMOTE, 80);
        t.packet("RST", Place::TunnelIn, flow.rst(), Row::FromTunnel).untracked();
    });
}

fn send(t: &mut Talk<'_>, flow: &Flow, first: (&str, u8, &[u8], bool), place: Place, row: Row) {
    let (name, flags, data, tracked) = first;
    let step = t.packet(name, place, flow.forth(flags, data), row);
    if !tracked {
        step.untracked();
    }
}

/// Its answer tells whether the first packet was remembered.
fn answer(t: &mut Talk<'_>, flow: &Flow, first: (&str, u8, &[u8], bool), place: Place, known: Row, unknown: Row) {
    let (_, flags, _, tracked) = first;
    let answer = if flags & (SYN | ACK) == SYN { flow.syn_ack() } else { flow.back(ACK, &[]) };
    t.packet(
        "answer",
        place,
        if tracked { answer } else { flow.back(ACK, &[]) },
        if tracked { known } else { unknown },
    );
}
