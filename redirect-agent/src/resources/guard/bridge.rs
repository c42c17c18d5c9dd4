//! The bridge guard: with a bridge CNI, pods of one node reach each other by switching, which the law never sees. This
//! nftables table (family bridge) addresses TCP from and to meshed pods to the bridge itself, so that the node routes it.
//!
//! It also keeps another port from speaking with ztunnel's MAC address, because on a bridge that address is what tells
//! ztunnel's packets apart. It needs no bridge-nf sysctl and no per-port object: a new pod's port is covered at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use redirect_common::names::BRIDGE_TABLE;

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
    /// Port and MAC address of every ztunnel that is behind a bridge.
    pub(crate) proxies: Vec<(String, Mac)>,
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
    for (name, bridge) in &guard.bridges {
        let _ = writeln!(
            text,
            "{}",
            set(&format!("pods-{name}"), "ipv4_addr", bridge.pods.iter().map(ToString::to_string))
        );
    }
    let _ = writeln!(text, "{}", set("gateways", "ether_addr", guard.gateways.iter().map(|gateway| mac(*gateway))));
    text.push_str("chain prerouting {\ntype filter hook prerouting priority -300; policy accept;\n");
    for (port, address) in &guard.proxies {
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
    text.push_str("}\n}\n");
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
            proxies: vec![("vethz".into(), [2, 0, 0, 0, 0, 5])],
        };
        let printed = "table bridge ztunnel { set pods-cni0 { type ipv4_addr elements = { 10.244.1.5, 10.244.1.6 } } \
            set gateways { type ether_addr elements = { 02:00:00:00:00:01, 02:00:00:00:00:09 } } \
            chain prerouting { type filter hook prerouting priority -300; policy accept; \
            iifname != \"vethz\" ether saddr 02:00:00:00:00:05 counter drop comment \"impostor\" \
            ip protocol 6 ip saddr @pods-cni0 ether daddr != @gateways ether daddr set 02:00:00:00:00:01 meta pkttype set 0 \
            ip protocol 6 ip daddr @pods-cni0 ether daddr != @gateways ether daddr set 02:00:00:00:00:01 meta pkttype set 0 } }";
        assert_eq!(of_table(&render(&guard)).0, printed);
    }
}
