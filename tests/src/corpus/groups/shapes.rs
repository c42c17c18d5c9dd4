//! The same packets in other shapes: IP options, fragments, VLAN tags, padding, odd header fields.

use redirect_common::packet::Unparsed;
use redirect_common::policy::Row;

use super::super::cast::{MESHED, NODE, OUTSIDE, PROXY, REMOTE};
use super::super::checksum;
use super::super::datagram::Datagram;
use super::super::script::Script;
use super::super::step::{Place, Rules};

pub(super) fn add(script: &mut Script) {
    options(script);
    whole_in_fragments(script);
    fragments_of_the_known(script);
    lone_fragments(script);
    tags(script);
    header_fields(script);
}

fn options(script: &mut Script) {
    let all: [(&str, &[u8]); 6] = [
        ("no operation", &[1, 1, 1, 0]),
        ("record route", &[7, 7, 4, 0, 0, 0, 0, 0]),
        ("timestamp", &[68, 8, 5, 0, 0, 0, 0, 0]),
        ("router alert", &[148, 4, 0, 0]),
        ("loose source route", &[131, 7, 4, 172, 18, 0, 9, 0]),
        ("forty bytes", &[1; 40]),
    ];
    let port = script.tunnel_port();
    for (name, options) in all {
        script.talk(format!("with option: {name}"), |t| {
            let outbound = t.tcp(MESHED, REMOTE, 80);
            let as_client = t.tcp(REMOTE, MESHED, 80);
            let probe = t.tcp(NODE, MESHED, 80);
            let (dns, tunnel) = (t.udp(MESHED, OUTSIDE, 53), t.udp(REMOTE, NODE, port));
            t.packet("outbound", Place::Pod, outbound.syn().options(options), Row::Outbound);
            t.packet("inbound", Place::Uplink, as_client.syn().options(options), Row::Rest);
            t.packet("as a client", Place::Proxy, as_client.syn().options(options), Row::ProxyAsClient);
            t.packet("probe", Place::Output, probe.syn().options(options), Row::NodeProbe);
            t.packet("DNS", Place::Pod, dns.request().options(options), Row::Udp);
            t.packet("to the tunnel port", Place::Uplink, tunnel.request().options(options), Row::TunnelItself);
            t.packet("out of a tunnel", Place::TunnelOut, outbound.syn().options(options), Row::FromTunnel);
        });
    }
}

/// The kernel puts them together before the rules look; the law may be asked about each by itself.
fn whole_in_fragments(script: &mut Script) {
    let port = script.tunnel_port();
    let ways: [(&str, &[usize]); 3] = [("two", &[24]), ("three", &[24, 32]), ("a tiny first and a second", &[8])];
    for (name, cuts) in ways {
        let rows = |first, later| {
            let mut rows = vec![later; cuts.len() + 1];
            rows[0] = first;
            rows
        };
        script.talk(format!("in fragments: {name}"), |t| {
            let outbound = t.tcp(MESHED, REMOTE, 80);
            let own = t.tcp(PROXY, REMOTE, 80);
            let probe = t.tcp(NODE, MESHED, 80);
            let as_client = t.tcp(MESHED, OUTSIDE, 80);
            let (udp, tunnel) = (t.udp(MESHED, OUTSIDE, 53), t.udp(REMOTE, NODE, port));
            let inner = t.tcp(MESHED, OUTSIDE, 80);
            let data = [0x55; 40];
            let tcp = |flow: super::super::flow::Flow| flow.forth(super::super::flow::flags::ACK, &data);
            t.packet("outbound", Place::Pod, tcp(outbound), Row::Outbound)
                .cut(cuts, &rows(Row::Outbound, Row::Outbound));
            t.packet("ztunnel's own", Place::Proxy, tcp(own), Row::ProxyOwn)
                .cut(cuts, &rows(Row::ProxyOwn, Row::ProxyOwn));
            t.packet("as a client", Place::Proxy, tcp(as_client), Row::ProxyAsClient)
                .cut(cuts, &rows(Row::ProxyAsClient, Row::ProxyAsClient));
            t.packet("probe", Place::Output, tcp(probe), Row::NodeProbe)
                .cut(cuts, &rows(Row::NodeProbe, Row::NodeProbe));
            t.packet("DNS", Place::Pod, udp.udp(&data), Row::Udp).cut(cuts, &rows(Row::Udp, Row::Udp));
            // Only the first names the port.
            t.packet("to the tunnel port", Place::Uplink, tunnel.udp(&data), Row::TunnelItself)
                .cut(cuts, &rows(Row::TunnelItself, Row::Udp));
            t.packet("out of a tunnel", Place::TunnelIn, tcp(inner), Row::FromTunnel)
                .cut(cuts, &rows(Row::FromTunnel, Row::FromTunnel));
        });
    }
}

/// A later fragment cannot be told to be of a connection.
fn fragments_of_the_known(script: &mut Script) {
    script.talk("the pod answers ztunnel in fragments", |t| {
        let flow = t.tcp(REMOTE, MESHED, 8080);
        t.packet("SYN", Place::Proxy, flow.syn(), Row::ProxyAsClient);
        t.packet("SYN,ACK", Place::Pod, flow.syn_ack(), Row::KnownProxy);
        t.packet("data of the pod", Place::Pod, flow.reply(), Row::KnownProxy)
            .cut(&[24], &[Row::KnownProxy, Row::Outbound]);
    });
    script.talk("the pod answers a probe in fragments", |t| {
        let flow = t.tcp(NODE, MESHED, 8080);
        t.packet("SYN", Place::Output, flow.syn(), Row::NodeProbe);
        t.packet("SYN,ACK", Place::Pod, flow.syn_ack(), Row::KnownSkip);
        t.packet("data of the pod", Place::Pod, flow.reply(), Row::KnownSkip)
            .cut(&[24], &[Row::KnownSkip, Row::Outbound]);
    });
}

fn lone_fragments(script: &mut Script) {
    script.talk("a first fragment alone", |t| {
        let (tcp, udp) = (t.tcp(MESHED, REMOTE, 80), t.udp(MESHED, REMOTE, 80));
        let first = |datagram: Datagram| datagram.edit(|bytes| fragment(bytes, 0x2000));
        t.packet("TCP", Place::Pod, first(tcp.data()), Row::Outbound).rules(Rules::Unseen);
        t.packet("UDP", Place::Pod, first(udp.request()), Row::Udp).rules(Rules::Unseen);
    });
    let port = script.tunnel_port();
    script.talk("a last fragment alone", |t| {
        let (tcp, udp) = (t.tcp(MESHED, REMOTE, 80), t.udp(MESHED, REMOTE, port));
        let last = |datagram: Datagram| datagram.edit(|bytes| fragment(bytes, 0x00b9));
        t.packet("TCP", Place::Pod, last(tcp.data()), Row::Outbound).rules(Rules::Unseen);
        t.packet("UDP, ports as if the tunnel's", Place::Pod, last(udp.request()), Row::Udp).rules(Rules::Unseen);
    });
}

/// On an interface without VLANs the kernel takes tag 0 (a mere priority) for no tag, and drops the others.
fn tags(script: &mut Script) {
    let ways: [(&str, &[u16], Rules); 5] = [
        ("a priority tag", &[0x6000], Rules::AsLaw),
        ("two priority tags", &[0x6000, 0x2000], Rules::AsLaw),
        ("a VLAN", &[5], Rules::Unseen),
        ("a VLAN in a VLAN", &[6, 5], Rules::Unseen),
        ("a VLAN in a priority tag", &[0, 5], Rules::Unseen),
    ];
    for (name, tags, rules) in ways {
        script.talk(format!("tagged: {name}"), |t| {
            let (tcp, own) = (t.tcp(MESHED, REMOTE, 80), t.tcp(PROXY, REMOTE, 80));
            let udp = t.udp(MESHED, REMOTE, 53);
            t.packet("outbound", Place::Pod, tcp.syn(), Row::Outbound).tagged(tags).rules(rules);
            t.packet("DNS", Place::Pod, udp.request(), Row::Udp).tagged(tags).rules(rules);
            t.packet("ztunnel's own", Place::Proxy, own.syn(), Row::ProxyOwn).tagged(tags).rules(rules);
        });
    }
    script.talk("tagged: three priority tags", |t| {
        let flow = t.tcp(MESHED, REMOTE, 80);
        // The kernel takes off any number of them.
        t.unparsed("outbound", Place::Pod, flow.syn(), Unparsed::TooManyTags)
            .tagged(&[0, 0, 0])
            .rules(Rules::Row(Row::Outbound));
    });
}

fn header_fields(script: &mut Script) {
    script.talk("odd header fields", |t| {
        let flow = t.tcp(MESHED, REMOTE, 80);
        let mut whole = flow.syn();
        whole.dont_fragment = true;
        t.packet("don't fragment", Place::Pod, whole, Row::Outbound);
        let mut dying = flow.syn();
        dying.ttl = 1;
        t.packet("time to live 1", Place::Pod, dying, Row::Outbound);
        let urgent = flow.syn().edit(|bytes| set(bytes, 1, 0xff));
        t.packet("type of service", Place::Pod, urgent, Row::Outbound);
        let evil = flow.syn().edit(|bytes| set(bytes, 6, 0x80));
        t.packet("the reserved flag", Place::Pod, evil, Row::Outbound);
        let padded = flow.syn().edit(|bytes| bytes.resize(46, 0));
        t.packet("padded to Ethernet's minimum", Place::Pod, padded, Row::Outbound);
        let long = flow.forth(super::super::flow::flags::ACK, &[7; 1460]);
        t.packet("as long as the link takes", Place::Pod, long, Row::Outbound).unspecified();
    });
}

fn fragment(bytes: &mut [u8], field: u16) {
    bytes[6..8].copy_from_slice(&field.to_be_bytes());
    checksum::write_ipv4(&mut bytes[..20]);
}

fn set(bytes: &mut [u8], at: usize, value: u8) {
    bytes[at] = value;
    checksum::write_ipv4(&mut bytes[..20]);
}
