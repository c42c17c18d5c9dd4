//! What is remembered of a connection, where else it is seen, and what is not remembered.

use redirect_common::packet::UDP;
use redirect_common::policy::Row;

use super::super::cast::{MESHED, MESHED_B, NODE, OUTSIDE, PROXY, REMOTE};
use super::super::script::Script;
use super::super::step::Place;

pub(super) fn add(script: &mut Script) {
    conn_skip_anywhere(script);
    proxy_anywhere(script);
    other_connections(script);
    not_remembered(script);
    changed(script);
    begun_anew(script);
}

fn conn_skip_anywhere(script: &mut Script) {
    script.talk("a probe seen anywhere", |t| {
        let flow = t.tcp(NODE, MESHED, 8080);
        t.packet("SYN", Place::Output, flow.syn(), Row::NodeProbe);
        t.packet("SYN,ACK", Place::Pod, flow.syn_ack(), Row::KnownSkip);
        for place in Place::ALL {
            let row = match place {
                Place::TunnelIn | Place::TunnelOut => Row::FromTunnel,
                _ => Row::KnownSkip,
            };
            t.packet(&format!("data on {place:?}"), place, flow.data(), row);
            t.packet(&format!("data of the pod on {place:?}"), place, flow.reply(), row);
        }
    });
}

fn proxy_anywhere(script: &mut Script) {
    let ways = [("the pod", REMOTE, MESHED), ("the remote", MESHED, REMOTE)];
    for (who, client, server) in ways {
        script.talk(format!("ztunnel as a client to {who} seen anywhere"), |t| {
            let flow = t.tcp(client, server, 8080);
            t.packet("SYN", Place::Proxy, flow.syn(), Row::ProxyAsClient);
            t.packet("SYN,ACK", Place::Pod, flow.syn_ack(), Row::KnownProxy);
            for place in Place::ALL {
                let row = match place {
                    Place::TunnelIn | Place::TunnelOut => Row::FromTunnel,
                    Place::Proxy | Place::ProxyB => Row::ProxyAsClient,
                    _ => Row::KnownProxy,
                };
                t.packet(&format!("data on {place:?}"), place, flow.data(), row);
                t.packet(&format!("data of the server on {place:?}"), place, flow.reply(), row);
            }
        });
    }
}

fn other_connections(script: &mut Script) {
    script.talk("beside a connection of ztunnel as a client", |t| {
        let flow = t.tcp(REMOTE, MESHED, 8080);
        let (port, server_port) = (t.fresh_port(), t.fresh_port());
        t.packet("SYN", Place::Proxy, flow.syn(), Row::ProxyAsClient);
        t.packet("SYN,ACK", Place::Pod, flow.syn_ack(), Row::KnownProxy);
        t.packet("to another port of the client", Place::Pod, flow.client_port(port).reply(), Row::Outbound);
        t.packet("from another port of the pod", Place::Pod, flow.server_port(server_port).reply(), Row::Outbound);
        t.packet("from the client's other port", Place::Uplink, flow.client_port(port).data(), Row::Rest);
        t.packet("UDP of the same ports", Place::Pod, flow.reversed().over(UDP).request(), Row::Udp);
        t.packet("data", Place::Pod, flow.reply(), Row::KnownProxy);
    });
    script.talk("beside a probe", |t| {
        let flow = t.tcp(NODE, MESHED, 8080);
        let (port, server_port) = (t.fresh_port(), t.fresh_port());
        t.packet("SYN", Place::Output, flow.syn(), Row::NodeProbe);
        t.packet("SYN,ACK", Place::Pod, flow.syn_ack(), Row::KnownSkip);
        t.packet("to another port of the node", Place::Pod, flow.client_port(port).reply(), Row::Outbound);
        t.packet("from another port of the pod", Place::Pod, flow.server_port(server_port).reply(), Row::Outbound);
        t.packet("UDP of the same ports", Place::Output, flow.over(UDP).request(), Row::Udp);
        t.packet("data", Place::Pod, flow.reply(), Row::KnownSkip);
    });
    script.talk("beside a meshed pod's UDP", |t| {
        let flow = t.udp(MESHED, REMOTE, 5000);
        t.packet("request", Place::Pod, flow.request(), Row::Udp);
        t.packet("TCP of the same ports", Place::Pod, flow.over(6).syn(), Row::Outbound);
        t.packet("response", Place::Uplink, flow.response(), Row::KnownSkip);
    });
}

fn not_remembered(script: &mut Script) {
    script.talk("a tunnel is not remembered", |t| {
        let flow = t.tcp(MESHED, REMOTE, 80);
        t.packet("SYN out of istioout", Place::TunnelOut, flow.syn(), Row::FromTunnel);
        t.packet("SYN out of istioin", Place::TunnelIn, flow.syn(), Row::FromTunnel);
        t.packet("SYN of the pod", Place::Pod, flow.syn(), Row::Outbound);
    });
    script.talk("outbound is not remembered", |t| {
        let flow = t.tcp(MESHED, REMOTE, 80);
        t.packet("SYN", Place::Pod, flow.syn(), Row::Outbound);
        t.packet("SYN again", Place::Pod, flow.syn(), Row::Outbound);
        t.packet("SYN,ACK", Place::Uplink, flow.syn_ack(), Row::Rest);
        t.packet("SYN,ACK out of the tunnel", Place::TunnelOut, flow.syn_ack(), Row::FromTunnel);
        t.packet("ACK", Place::Pod, flow.ack(), Row::Outbound);
    });
    script.talk("the pod's port taken by ztunnel as well", |t| {
        let flow = t.tcp(MESHED, REMOTE, 80);
        t.packet("SYN of the pod", Place::Pod, flow.syn(), Row::Outbound);
        t.packet("SYN of ztunnel", Place::Proxy, flow.syn(), Row::ProxyAsClient);
        t.packet("SYN of the pod again", Place::Pod, flow.syn(), Row::KnownProxy);
    });
}

fn changed(script: &mut Script) {
    script.talk("ztunnel answers itself as a client", |t| {
        let flow = t.tcp(REMOTE, PROXY, 8080);
        t.packet("SYN as the client", Place::Proxy, flow.syn(), Row::ProxyAsClient);
        t.packet("seen on the uplink", Place::Uplink, flow.syn(), Row::KnownProxy);
        t.packet("SYN,ACK in its own name", Place::Proxy, flow.syn_ack(), Row::ProxyOwn);
        // Remembered as both: row 3 comes first.
        t.packet("ACK as the client", Place::Proxy, flow.ack(), Row::KnownSkip);
        t.packet("ACK on the uplink", Place::Uplink, flow.ack(), Row::KnownSkip);
        t.packet("ACK of a local socket", Place::Output, flow.ack(), Row::KnownSkip);
    });
    script.talk("conn-skip stays when ztunnel speaks as the client", |t| {
        let flow = t.udp(MESHED_B, OUTSIDE, 5000);
        t.packet("request of the pod", Place::Pod, flow.request(), Row::Udp);
        t.packet("request of ztunnel", Place::Proxy, flow.request(), Row::KnownSkip);
        t.packet("response", Place::Uplink, flow.response(), Row::KnownSkip);
    });
}

/// The ends of a connection that is over may be used again.
fn begun_anew(script: &mut Script) {
    script.talk("the client takes the port of ztunnel's aborted connection", |t| {
        let flow = t.tcp(REMOTE, MESHED, 8080);
        t.packet("SYN of ztunnel", Place::Proxy, flow.syn(), Row::ProxyAsClient);
        t.packet("SYN,ACK", Place::Pod, flow.syn_ack(), Row::KnownProxy);
        t.packet("RST of ztunnel", Place::Proxy, flow.rst(), Row::ProxyAsClient);
        t.packet("SYN of the client", Place::Uplink, flow.syn(), Row::Rest).anew();
    });
    script.talk("a pod takes the ends of an aborted probe", |t| {
        let flow = t.tcp(NODE, MESHED, 8080);
        t.packet("SYN of the probe", Place::Output, flow.syn(), Row::NodeProbe);
        t.packet("SYN,ACK", Place::Pod, flow.syn_ack(), Row::KnownSkip);
        t.packet("RST of the probe", Place::Output, flow.rst(), Row::KnownSkip);
        t.packet("SYN from elsewhere", Place::Uplink, flow.syn(), Row::Rest).anew();
    });
}
