//! Pods and nodes that have nothing to do with the mesh.

use redirect_common::policy::Row;

use super::super::cast::{CLUSTER_IP, NODE, OUTSIDE, REMOTE, REMOTE_POD, UNMESHED};
use super::super::script::{End, Script};
use super::super::step::Place;

pub(super) fn add(script: &mut Script) {
    let ways = [
        ("unmeshed to a remote server", UNMESHED, REMOTE, 80, Place::Pod, Place::Uplink),
        ("unmeshed to a server outside", UNMESHED, OUTSIDE, 443, Place::Pod, Place::Uplink),
        ("unmeshed to a ClusterIP", UNMESHED, CLUSTER_IP, 80, Place::Pod, Place::Uplink),
        ("unmeshed to the node", UNMESHED, NODE, 10250, Place::Pod, Place::Output),
        ("remote to unmeshed", REMOTE_POD, UNMESHED, 8080, Place::Uplink, Place::Pod),
        ("remote to unmeshed, HBONE port", REMOTE_POD, UNMESHED, 15008, Place::Uplink, Place::Pod),
        ("remote to the node", REMOTE, NODE, 22, Place::Uplink, Place::Output),
    ];
    for (name, client, server, port, here, there) in ways {
        script.talk(name, |t| {
            let flow = t.tcp(client, server, port);
            t.exchange(&flow, End(here, Row::Rest, Row::Rest), End(there, Row::Rest, Row::Rest));
        });
    }
}
