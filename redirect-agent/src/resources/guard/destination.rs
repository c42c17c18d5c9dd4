//! The destination guard: outbound packets reach ztunnel with the destination that the pod chose, whatever kube-proxy's mode,
//! and whatever it writes later. One static nftables table; nothing in it depends on pods, nor on ztunnel.
//!
//! - *Translation*, by any nat chain of iptables or nftables: the first nat chain that binds a connection is the last that
//!   is asked (`nf_nat_inet_fn` looks at `nf_nat_initialized` after each), so the connection is bound to what it is, one step
//!   ahead of everybody.
//! - *Local delivery*: a virtual address of ipvs, or an address of the node, is matched by rule 0 ahead of ours; *filters*:
//!   kube-proxy's nftables mode rejects what is forwarded to a `ClusterIP` without having been translated. Both look at the
//!   destination, so between routing and the way out it is another one: the tunnel's. The connection knows the true one.
//!
//! New connections need that to whatever destination, later packets to local ones only; these carry proxy-return, mostly.

use redirect_common::names::{BRIDGE_TABLE, ISTIOIN, ISTIOOUT, OUTBOUND, PROXY_RETURN};

/// The table as `nft -nn list` prints it: protocol 6 is TCP, direction 0 the original one, address type 2 local; state 0x8 is
/// new, 0x1 invalid, 0x40 untracked.
pub(super) fn render() -> String {
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
meta mark & {both:#010x} != 0x00000000 ct state 0x1,0x40 fib daddr type 2 drop
}}
chain reveal {{
type filter hook postrouting priority -300; policy accept;
ip protocol 6 meta mark {outbound} oifname != \"{out}\" drop
ct mark {outbound} ct direction 0 ip daddr {hidden} ip daddr set ct reply ip saddr
}}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::super::squeeze;
    use super::render;

    #[test]
    fn reads_as_nft_prints_it() {
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
            meta mark & 0x00000140 != 0x00000000 ct state 0x1,0x40 fib daddr type 2 drop } \
            chain reveal { type filter hook postrouting priority -300; policy accept; \
            ip protocol 6 meta mark & 0x00000100 == 0x00000100 oifname != \"istioout\" drop \
            ct mark & 0x00000100 == 0x00000100 ct direction 0 ip daddr 192.168.127.2 ip daddr set ct reply ip saddr } }";
        assert_eq!(squeeze(&render()), printed);
    }
}
