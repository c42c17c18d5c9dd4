//! The bridge guard: with a bridge CNI, pods of one node reach each other by switching, which the law never sees. This
//! nftables table (family bridge) addresses TCP from and to meshed pods to the bridge itself, so that the node routes it.
//!
//! It also keeps another port from speaking with ztunnel's MAC address, because on a bridge that address is what tells
//! ztunnel's packets apart. It needs no bridge-nf sysctl and no per-port object: a new pod's port is covered at once.
//! In ebpf mode programs do all of this.
//!
//! In both modes it holds what the node sends to a ztunnel to that one's port. The node's IP layer sees the bridge only, and a bridge gives to all
//! its ports what is for a station that it does not know (`br_flood`, `net/bridge/br_forward.c`), as ztunnel is from the moment
//! when its veth has gone; and who gets its address next is asked for by that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use redirect_common::names::{BRIDGE_TABLE, OUTBOUND};

use super::destination::{Way, answering};
use crate::resources::blocked::Why;

/// A MAC address.
pub(crate) type Mac = [u8; 6];

/// What the guard needs to know.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Guard {
    /// Bridges with meshed pods.
    pub(crate) bridges: BTreeMap<String, GuardedBridge>,
    /// MAC addresses of all bridges of the node: what is sent to them is routed already.
    pub(crate) gateways: BTreeSet<Mac>,
    /// Every ztunnel that is behind a bridge.
    pub(crate) proxies: Vec<GuardedProxy>,
    /// Whether the guard looks at what arrives.
    pub(crate) sees_arrivals: bool,
}

/// A ztunnel behind a bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct GuardedProxy {
    /// The bridge's port that leads to it: its veth.
    pub(crate) port: String,
    pub(crate) mac: Mac,
    /// What the node sends to it, where it can.
    pub(crate) way: Option<Way>,
}

/// A bridge that has meshed pods.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct GuardedBridge {
    pub(crate) mac: Mac,
    pub(crate) pods: BTreeSet<Ipv4Addr>,
}

/// As nftables and iptables print it.
pub(crate) fn mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The table as `nft -nn list` prints it: 6 is TCP, packet type 0 is "to this host".
pub(super) fn render(guard: &Guard) -> String {
    let mut text = format!("table bridge {BRIDGE_TABLE} {{\n");
    if guard.sees_arrivals {
        text.push_str(&arrivals(guard));
    }
    let departures = departures(guard);
    if !departures.is_empty() {
        let _ = writeln!(text, "chain output {{\ntype filter hook output priority 0; policy accept;\n{departures}}}");
    }
    text.push_str("}\n");
    text
}

fn arrivals(guard: &Guard) -> String {
    let mut text = String::new();
    for (name, bridge) in &guard.bridges {
        let _ = writeln!(
            text,
            "{}",
            set(&format!("pods-{name}"), "ipv4_addr", bridge.pods.iter().map(ToString::to_string))
        );
    }
    let _ = writeln!(text, "{}", set("gateways", "ether_addr", guard.gateways.iter().map(|gateway| mac(*gateway))));
    text.push_str("chain prerouting {\ntype filter hook prerouting priority -300; policy accept;\n");
    for GuardedProxy { port, mac: address, .. } in &guard.proxies {
        let _ = writeln!(text, "iifname != \"{port}\" ether saddr {} {}", mac(*address), Why::Impostor.drop());
    }
    for (name, bridge) in &guard.bridges {
        for side in ["saddr", "daddr"] {
            let _ = writeln!(
                text,
                "ip protocol 6 ip {side} @pods-{name} ether daddr != @gateways ether daddr set {} meta pkttype set 0",
                mac(bridge.mac)
            );
        }
    }
    text.push_str("}\n");
    text
}

/// The tunnels' packets, which bear the mark of what they carry, and what is on its way back to a ztunnel.
fn departures(guard: &Guard) -> String {
    let mut text = String::new();
    let outbound = format!("meta mark & {0:#010x} == {0:#010x} ", OUTBOUND.value());
    for (port, way) in guard.proxies.iter().filter_map(|proxy| Some((&proxy.port, proxy.way.as_ref()?))) {
        let elsewhere = format!("oifname != \"{port}\"");
        for (mark, why) in [(outbound.as_str(), Why::Outbound), ("", Why::Inbound)] {
            let tunnel = format!("{mark}ip daddr {} udp dport {}", way.proxy, way.port);
            let _ = writeln!(text, "{tunnel} {elsewhere} {}", why.drop());
        }
        let _ = writeln!(text, "{} {elsewhere} {}", answering(way.answers), Why::Answer.drop());
    }
    text
}

fn set(name: &str, kind: &str, members: impl Iterator<Item = String>) -> String {
    let members: Vec<_> = members.collect();
    let elements =
        if members.is_empty() { String::new() } else { format!("elements = {{ {} }}\n", members.join(", ")) };
    format!("set {name} {{\ntype {kind}\n{elements}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::blocked::of_table;

    #[test]
    fn reads_as_nft_prints_it() {
        let bridge = GuardedBridge {
            mac: [2, 0, 0, 0, 0, 1],
            pods: ["10.244.1.6", "10.244.1.5"].iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        let guard = Guard {
            bridges: BTreeMap::from([("cni0".to_owned(), bridge)]),
            gateways: BTreeSet::from([[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]]),
            proxies: vec![proxy()],
            sees_arrivals: true,
        };
        let printed = "table bridge ztunnel { set pods-cni0 { type ipv4_addr elements = { 10.244.1.5, 10.244.1.6 } } \
            set gateways { type ether_addr elements = { 02:00:00:00:00:01, 02:00:00:00:00:09 } } \
            chain prerouting { type filter hook prerouting priority -300; policy accept; \
            iifname != \"vethz\" ether saddr 02:00:00:00:00:05 counter drop comment \"impostor\" \
            ip protocol 6 ip saddr @pods-cni0 ether daddr != @gateways ether daddr set 02:00:00:00:00:01 meta pkttype set 0 \
            ip protocol 6 ip daddr @pods-cni0 ether daddr != @gateways ether daddr set 02:00:00:00:00:01 meta pkttype set 0 } \
            chain output { type filter hook output priority 0; policy accept; \
            meta mark & 0x00000100 == 0x00000100 ip daddr 10.244.1.9 udp dport 6081 oifname != \"vethz\" counter drop comment \"outbound\" \
            ip daddr 10.244.1.9 udp dport 6081 oifname != \"vethz\" counter drop comment \"inbound\" \
            ip protocol 6 meta mark & 0x00000240 == 0x00000040 oifname != \"vethz\" counter drop comment \"answer\" } }";
        assert_eq!(of_table(&render(&guard)).0, printed);
    }

    fn proxy() -> GuardedProxy {
        let way = Way {
            proxy: Ipv4Addr::new(10, 244, 1, 9),
            port: 6081,
            device: "cni0".into(),
            gone: false,
            answers: redirect_common::names::PROXY_RETURN,
        };
        GuardedProxy { port: "vethz".into(), mac: [2, 0, 0, 0, 0, 5], way: Some(way) }
    }

    #[test]
    fn in_ebpf_mode_only_what_leaves_is_looked_at() {
        let text = render(&Guard { proxies: vec![proxy()], ..Guard::default() });
        assert!(text.contains("hook output") && !text.contains("hook prerouting"), "{text}");
        let nowhere = GuardedProxy { way: None, ..proxy() };
        let text = render(&Guard { proxies: vec![nowhere], sees_arrivals: true, ..Guard::default() });
        assert!(!text.contains("hook output") && text.contains("impostor"), "{text}");
    }
}
