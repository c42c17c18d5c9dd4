//! The destination guard: outbound packets reach ztunnel with the destination that the pod chose, whatever kube-proxy's mode,
//! and whatever it writes later. One nftables table; nothing in it depends on pods, and on ztunnel only which device leads there.
//!
//! - *Translation*, by any nat chain of iptables or nftables: the first nat chain that binds a connection is the last that
//!   is asked (`nf_nat_inet_fn` looks at `nf_nat_initialized` after each), so the connection is bound to what it is, one step
//!   ahead of everybody.
//! - *Local delivery*: a virtual address of ipvs, or an address of the node, is matched by rule 0 ahead of ours; *filters*:
//!   kube-proxy's nftables mode rejects what is forwarded to a `ClusterIP` without having been translated. Both look at the
//!   destination, so between routing and the way out it is another one: the tunnel's. The connection knows the true one.
//!
//! New connections need that to whatever destination, later packets to local ones only; these carry proxy-return, mostly.
//!
//! It also holds where routes do not: what was marked for ztunnel, and the tunnels' own packets, leave by the device that leads to
//! ztunnel or not at all. When ztunnel ends, the kernel takes the routes of its veth away at once, and the main table, which is asked
//! next, has one for everything.
//!
//! And it keeps that way to the node. What a pod answers ztunnel leaves by the device that it came in by where both are behind one bridge, of
//! which the kernel tells the sender (`ip_rt_send_redirect`, `net/ipv4/route.c`): the pod would give ztunnel itself all that it has for that
//! client, for minutes, be it TCP or not, and when there is no ztunnel, nobody.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use redirect_common::names::{BRIDGE_TABLE, ISTIOIN, ISTIOOUT, Mark, OUTBOUND, PROXY_RETURN, SKIP};

use crate::resources::blocked::Why;

/// The way to ztunnel, or where it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Way {
    /// Its address, to which the tunnels go.
    pub(crate) proxy: Ipv4Addr,
    /// Their UDP port.
    pub(crate) port: u16,
    /// The node's device that leads there.
    pub(crate) device: String,
    /// Whether that is a bridge whose port to ztunnel is gone, so that it leads nowhere. It would ask for ztunnel's MAC address, in vain, as soon
    /// as the kernel has forgotten it, and what waits for the answer is dropped without being counted (`arp_error_report`, `net/ipv4/arp.c`).
    pub(crate) gone: bool,
    /// The mark of what is on its way back to it.
    pub(crate) answers: Mark,
}

impl Way {
    /// What matches whatever does not go that way.
    fn astray(&self) -> String {
        if self.gone { String::new() } else { format!("oifname != \"{}\" ", self.device) }
    }
}

/// The table as `nft -nn list` prints it: protocol 6 is TCP, direction 0 the original one, address type 2 local; state 0x8 is
/// new, 0x1 invalid, 0x40 untracked; ICMP type 5 is a redirect.
pub(super) fn render(ways: &[Way]) -> String {
    // A meshed pod is routed into its tunnel.
    let devices: BTreeSet<_> = ways.iter().map(|way| way.device.as_str()).chain([ISTIOIN.node_link]).collect();
    let (mut contain, mut answers) = (String::new(), String::new());
    for device in devices {
        let _ = writeln!(contain, "oifname \"{device}\" icmp type 5 drop");
    }
    let [no_way, lost, stray] = [Why::Outbound, Why::Answer, Why::Stray].map(Why::drop);
    for way @ Way { proxy, port, answers: mark, .. } in ways {
        let astray = way.astray();
        // Counted as what the tunnel could not send.
        let _ = writeln!(contain, "ip daddr {proxy} udp dport {port} {astray}drop");
        let _ = writeln!(answers, "{} {astray}{lost}", answering(*mark));
    }
    if ways.is_empty() {
        let _ = writeln!(answers, "{} {lost}", answering(PROXY_RETURN));
    }
    let (table, hidden) = (BRIDGE_TABLE, ISTIOOUT.proxy_addr);
    let (into, out) = (ISTIOIN.node_link, ISTIOOUT.node_link);
    let [outbound, back] = [OUTBOUND, PROXY_RETURN].map(|mark| format!("& {0:#010x} == {0:#010x}", mark.value()));
    let (bit, both) = (OUTBOUND.value(), OUTBOUND.mask() | PROXY_RETURN.mask());
    format!(
        "table ip {table} {{
chain hide {{
ct mark set ct mark | {bit:#010x} ip daddr set {hidden} accept
}}
chain destination {{
type nat hook prerouting priority -101; policy accept;
meta mark {outbound} dnat to ip daddr
}}
chain source {{
type nat hook postrouting priority 99; policy accept;
meta mark {outbound} snat to ip saddr
oifname \"{into}\" snat to ip saddr
}}
chain conceal {{
type filter hook prerouting priority 300; policy accept;
meta mark {outbound} ct state 0x8 goto hide
meta mark {outbound} ct direction 0 fib daddr type 2 goto hide
meta mark {back} ct mark {outbound} ct direction 0 fib daddr type 2 goto hide
meta mark & {both:#010x} != 0x00000000 ct state 0x1,0x40 fib daddr type 2 {stray}
}}
chain reveal {{
type filter hook postrouting priority -300; policy accept;
ip protocol 6 meta mark {outbound} oifname != \"{out}\" {no_way}
{answers}ct mark {outbound} ct direction 0 ip daddr {hidden} ip daddr set ct reply ip saddr
}}
chain contain {{
type filter hook output priority 0; policy accept;
{contain}}}
}}
"
    )
}

/// TCP with this mark of an answer. What ztunnel sends to a virtual address of ipvs is sent on as if by the node, in its own name: row 4 gives
/// it the second mark there, and the first one, which its rule asks ahead of the other's, stays.
pub(super) fn answering(mark: Mark) -> String {
    let mark = mark.without(SKIP);
    format!("ip protocol 6 meta mark & {:#010x} == {:#010x}", mark.mask(), mark.value())
}

#[cfg(test)]
mod tests {
    use redirect_common::names::{PROXY_RETURN_A, PROXY_RETURN_B};

    use super::*;
    use crate::resources::blocked::of_table;

    fn folded(ways: &[Way]) -> String {
        of_table(&render(ways)).0
    }

    #[test]
    fn reads_as_nft_prints_it() {
        let way = Way {
            proxy: Ipv4Addr::new(10, 244, 1, 6),
            port: 6081,
            device: "veth1".to_owned(),
            gone: false,
            answers: PROXY_RETURN,
        };
        let printed = "table ip ztunnel { \
            chain hide { ct mark set ct mark | 0x00000100 ip daddr set 192.168.127.2 accept } \
            chain destination { type nat hook prerouting priority -101; policy accept; \
            meta mark & 0x00000100 == 0x00000100 dnat to ip daddr } \
            chain source { type nat hook postrouting priority 99; policy accept; \
            meta mark & 0x00000100 == 0x00000100 snat to ip saddr oifname \"istioin\" snat to ip saddr } \
            chain conceal { type filter hook prerouting priority 300; policy accept; \
            meta mark & 0x00000100 == 0x00000100 ct state 0x8 goto hide \
            meta mark & 0x00000100 == 0x00000100 ct direction 0 fib daddr type 2 goto hide \
            meta mark & 0x00000040 == 0x00000040 ct mark & 0x00000100 == 0x00000100 ct direction 0 fib daddr type 2 goto hide \
            meta mark & 0x00000140 != 0x00000000 ct state 0x1,0x40 fib daddr type 2 counter drop comment \"stray\" } \
            chain reveal { type filter hook postrouting priority -300; policy accept; \
            ip protocol 6 meta mark & 0x00000100 == 0x00000100 oifname != \"istioout\" counter drop comment \"outbound\" \
            ip protocol 6 meta mark & 0x00000240 == 0x00000040 oifname != \"veth1\" counter drop comment \"answer\" \
            ct mark & 0x00000100 == 0x00000100 ct direction 0 ip daddr 192.168.127.2 ip daddr set ct reply ip saddr } \
            chain contain { type filter hook output priority 0; policy accept; \
            oifname \"istioin\" icmp type 5 drop oifname \"veth1\" icmp type 5 drop \
            ip daddr 10.244.1.6 udp dport 6081 oifname != \"veth1\" drop } }";
        assert_eq!(folded(std::slice::from_ref(&way)), printed);
        let [a, b] = [(1, "veth1", PROXY_RETURN_A), (2, "veth2", PROXY_RETURN_B)].map(|(last, device, answers)| Way {
            proxy: Ipv4Addr::new(10, 244, 1, last),
            device: device.to_owned(),
            answers,
            ..way.clone()
        });
        let both = folded(&[a, b]);
        for rule in [
            "oifname \"veth1\" icmp type 5 drop oifname \"veth2\" icmp type 5 drop ip daddr",
            "ip protocol 6 meta mark & 0x00000250 == 0x00000040 oifname != \"veth1\" counter drop comment \"answer\" \
             ip protocol 6 meta mark & 0x00000250 == 0x00000050 oifname != \"veth2\" counter drop comment \"answer\" ct mark",
            "ip daddr 10.244.1.1 udp dport 6081 oifname != \"veth1\" drop \
             ip daddr 10.244.1.2 udp dport 6081 oifname != \"veth2\" drop } }",
        ] {
            assert!(both.contains(rule), "{both}");
        }
        let gone = folded(&[Way { gone: true, ..way }]);
        for rule in [
            "oifname \"veth1\" icmp type 5 drop ip daddr 10.244.1.6 udp dport 6081 drop } }",
            "ip protocol 6 meta mark & 0x00000240 == 0x00000040 counter drop comment \"answer\" ct mark",
        ] {
            assert!(gone.contains(rule), "{gone}");
        }
        // Without a ztunnel nothing may be on its way to it.
        let none = folded(&[]);
        assert!(
            none.contains("ip protocol 6 meta mark & 0x00000240 == 0x00000040 counter drop")
                && !none.contains("udp dport")
        );
    }
}
