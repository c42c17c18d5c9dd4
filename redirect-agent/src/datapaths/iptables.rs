//! The law as iptables rules, and a drop for what would pass the proxy by. That kube-proxy does not touch outbound packets is
//! no matter of iptables: see `resources::guard`.
//!
//! Rules read exactly as `iptables-save` prints them, because that is what they are compared with. A row of the law is one
//! rule that goes to the chain of its verdict; `-g` comes back behind the jump that led here, so the verdict is final.

use redirect_common::names::{
    CHAIN_PREFIX, ISTIOIN, ISTIOOUT, Mark, ORIGINAL_SOURCE, OUTBOUND, PORT_INBOUND_HBONE, PORT_INBOUND_PLAINTEXT,
    PORT_OUTBOUND, PROXY_RETURN, PROXY_RETURN_A, SET_PODS, SKIP, TPROXY, TUNNELS,
};
use redirect_common::policy::{Memory, Row, Seat, Verdict};

use crate::proxy::{HostSide, Proxy, Seated};
use crate::resources::chain::Chain;
use crate::resources::guard::mac;

/// What the node's chains depend on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NodeRules<'a> {
    /// UDP port of the tunnels, host byte order.
    pub(crate) tunnel_port: u16,
    /// Every ztunnel that there is; the rows that speak of the veth of one that is not there are left out, and the others hold.
    pub(crate) proxies: Vec<Seated<'a>>,
}

/// Where chains of ours are, and the chains of the kernel's that lead into them.
pub(crate) const TABLES: [&str; 2] = ["mangle", "filter"];
pub(crate) const HOOKS: [&str; 3] = ["PREROUTING", "OUTPUT", "FORWARD"];

/// Every chain that may be ours on the node, for finding what is not wanted any more. Earlier agents had chains in nat.
pub(crate) fn owned_on_node() -> Vec<Chain> {
    let earlier = ["PREROUTING", "POSTROUTING"].map(|hook| chain("nat", Some(hook), hook, Vec::new()));
    node_chains(&NodeRules { tunnel_port: 0, proxies: Vec::new() }).into_iter().chain(earlier).collect()
}

/// Every chain that may be ours in ztunnel's netns.
pub(crate) fn owned_at_proxy() -> Vec<Chain> {
    vec![chain("mangle", Some("PREROUTING"), "PREROUTING", Vec::new())]
}

/// The node's chains.
pub(crate) fn node_chains(rules: &NodeRules<'_>) -> Vec<Chain> {
    let mut chains: Vec<_> = verdict_chains().collect();
    chains.push(chain("mangle", Some("PREROUTING"), "PREROUTING", prerouting(rules)));
    chains.push(chain("mangle", Some("OUTPUT"), "OUTPUT", output(rules.tunnel_port)));
    chains.push(chain("filter", Some("FORWARD"), "FORWARD", fail_closed()));
    chains
}

/// The chains in ztunnel's netns.
pub(crate) fn proxy_chains(proxy: &Proxy) -> Vec<Chain> {
    let (inbound, outbound) = (ISTIOIN.proxy_link, ISTIOOUT.proxy_link);
    let strange = format!("! -d {}/32 -i {} -p tcp", proxy.ip, proxy.interface);
    let rules = vec![
        format!(
            "-i {inbound} -p tcp -m tcp --dport {PORT_INBOUND_HBONE} {}",
            divert(PORT_INBOUND_HBONE, "127.0.0.1", TPROXY)
        ),
        format!("-i {outbound} -p tcp {}", divert(PORT_OUTBOUND, "0.0.0.0", TPROXY)),
        format!("-i {inbound} -p tcp {}", divert(PORT_INBOUND_PLAINTEXT, "0.0.0.0", TPROXY)),
        format!("{strange} {}", set_mark(ORIGINAL_SOURCE)),
        // What no socket of its own has, as after a former ztunnel, comes to a listener, which resets it: for an address that is not
        // the namespace's, the kernel resets by a transparent socket only (`tcp_v4_send_reset`, `ip_route_output_key_hash_rcu`).
        format!(
            "{strange} -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN {}",
            divert(PORT_OUTBOUND, "0.0.0.0", ORIGINAL_SOURCE)
        ),
    ];
    vec![chain("mangle", Some("PREROUTING"), "PREROUTING", rules)]
}

/// To the socket of the packet's connection, else to the one that listens on `port`.
fn divert(port: u16, on: &str, mark: Mark) -> String {
    format!("-j TPROXY --on-port {port} --on-ip {on} --tproxy-mark {mark}")
}

fn chain(table: &'static str, hook: Option<&'static str>, name: &str, rules: Vec<String>) -> Chain {
    Chain { table, name: format!("{CHAIN_PREFIX}{name}"), hook, rules }
}

fn set_mark(mark: Mark) -> String {
    format!("-j MARK --set-xmark {mark}")
}

/// Name of the chain that carries a verdict out; `None` where nothing is to be written.
fn verdict_chain(verdict: Verdict) -> Option<&'static str> {
    let mark = verdict.mark?.value();
    Some(match verdict.remember {
        Some(Memory::ConnSkip) => "CONN-SKIP",
        Some(Memory::Proxy(Seat::A)) => "PROXY",
        Some(Memory::Proxy(Seat::B)) => "PROXY-B",
        None if SKIP.matches(mark) => "SKIP",
        None if OUTBOUND.matches(mark) => "OUTBOUND",
        None if PROXY_RETURN_A.matches(mark) => "PROXY-RETURN",
        None => "PROXY-RETURN-B",
    })
}

/// One chain for every verdict that a row of the law has.
fn verdict_chains() -> impl Iterator<Item = Chain> {
    let of = |row: Row| Seat::ALL.map(|seat| row.verdict(seat));
    let mut verdicts: Vec<_> = [Row::KnownSkip, Row::KnownProxy, Row::ProxyAsClient, Row::ProxyOwn, Row::Outbound]
        .into_iter()
        .flat_map(of)
        .collect();
    // Most rows do the same for both seats.
    verdicts.dedup();
    verdicts.into_iter().filter_map(|verdict| {
        let remember = verdict.remember.map(|memory| format!("-j CONNMARK --set-xmark {}", memory.mark()));
        let rules = remember.into_iter().chain(verdict.mark.map(set_mark)).collect();
        Some(chain("mangle", None, verdict_chain(verdict)?, rules))
    })
}

/// A rule for `row`, which speaks of no ztunnel or of any: what matches `selector` gets the row's verdict.
fn rule(row: Row, selector: &str) -> String {
    rule_of(row, Seat::A, selector)
}

/// A rule for `row` where the ztunnel that it speaks of has this seat.
fn rule_of(row: Row, seat: Seat, selector: &str) -> String {
    let target = verdict_chain(row.verdict(seat));
    let target = target.map_or_else(|| "-j RETURN".to_owned(), |name| format!("-g {CHAIN_PREFIX}{name}"));
    format!("{selector} {target}")
}

/// The law for packets that arrive.
fn prerouting(rules: &NodeRules<'_>) -> Vec<String> {
    let from_tunnels = TUNNELS.iter().map(|tunnel| rule(Row::FromTunnel, &format!("-i {}", tunnel.node_link)));
    let mut all: Vec<_> = from_tunnels.collect();
    all.push(tunnel_itself(rules.tunnel_port));
    all.push(known_skip());
    for Seated { seat, proxy } in &rules.proxies {
        // Ahead of row 4, which then needs no "not from ztunnel": a negated MAC match never matches on a device without
        // Ethernet headers (net/netfilter/xt_mac.c), and a packet cannot match both.
        let from = from_proxy(&proxy.host);
        all.push(rule_of(Row::ProxyAsClient, *seat, &format!("! -s {}/32 {from}", proxy.ip)));
        all.push(rule_of(Row::ProxyOwn, *seat, &from));
    }
    all.extend(known_proxy());
    all.push(rule(Row::Udp, "-p udp"));
    all.push(outbound());
    all
}

/// The law for what local sockets send.
fn output(tunnel_port: u16) -> Vec<String> {
    let probe = format!("-p tcp -m set --match-set {SET_PODS} dst -m addrtype --src-type LOCAL");
    let mut all = vec![tunnel_itself(tunnel_port), known_skip()];
    all.extend(known_proxy());
    all.extend([rule(Row::Udp, "-p udp"), rule(Row::NodeProbe, &probe), outbound()]);
    all
}

fn tunnel_itself(port: u16) -> String {
    rule(Row::TunnelItself, &format!("-p udp -m udp --dport {port}"))
}

fn known_skip() -> String {
    rule(Row::KnownSkip, &remembered(Memory::ConnSkip))
}

/// Of both seats, whoever has them now: what one that has gone began must not leave unproxied.
fn known_proxy() -> [String; 2] {
    Seat::ALL.map(|seat| rule_of(Row::KnownProxy, seat, &remembered(Memory::Proxy(seat))))
}

fn remembered(memory: Memory) -> String {
    format!("-m connmark --mark {}", memory.mark())
}

fn outbound() -> String {
    rule(Row::Outbound, &format!("-p tcp -m set --match-set {SET_PODS} src"))
}

fn from_proxy(host: &HostSide) -> String {
    match &host.bridge {
        None => format!("-i {}", host.veth),
        Some((bridge, address)) => format!("-i {bridge} -m mac --mac-source {}", mac(*address)),
    }
}

/// Without its tunnel a packet to a meshed pod would go on by the main table: it is dropped instead. (For outbound packets,
/// the destination guard does it.)
fn fail_closed() -> Vec<String> {
    let decided = OUTBOUND.mask() | SKIP.mask() | PROXY_RETURN.mask();
    vec![format!(
        "! -o {} -p tcp -m mark --mark 0x0/{decided:#x} -m set --match-set {SET_PODS} dst -j DROP",
        ISTIOIN.node_link
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_that_writes_has_a_chain() {
        let names: Vec<_> = verdict_chains().map(|chain| chain.name).collect();
        assert_eq!(
            names,
            [
                "ztunnel-SKIP",
                "ztunnel-PROXY-RETURN",
                "ztunnel-PROXY-RETURN-B",
                "ztunnel-PROXY",
                "ztunnel-PROXY-B",
                "ztunnel-CONN-SKIP",
                "ztunnel-OUTBOUND"
            ]
        );
        for rule in prerouting(&NodeRules { tunnel_port: 6081, proxies: Vec::new() }).iter().chain(&output(6081)) {
            let target = rule.split("-g ").nth(1);
            assert!(target.is_none_or(|target| names.iter().any(|name| name == target)), "{rule}");
        }
    }

    #[test]
    fn every_chain_is_where_events_are_heeded() {
        let node = node_chains(&NodeRules { tunnel_port: 6081, proxies: Vec::new() });
        for chain in node.iter().chain(&owned_at_proxy()) {
            assert!(TABLES.contains(&chain.table) && chain.name.starts_with(CHAIN_PREFIX), "{chain:?}");
            assert!(chain.hook.is_none_or(|hook| HOOKS.contains(&hook)), "{chain:?}");
        }
    }

    #[test]
    fn the_memory_is_written_before_the_mark() {
        for (name, memory) in [("ztunnel-PROXY", "0x210/0x250"), ("ztunnel-PROXY-B", "0x250/0x250")] {
            let chain = verdict_chains().find(|chain| chain.name == name);
            let remember = format!("-j CONNMARK --set-xmark {memory}");
            assert_eq!(chain.unwrap().rules, [remember.as_str(), "-j MARK --set-xmark 0x210/0x310"]);
        }
    }

    #[test]
    fn a_missing_tunnel_drops() {
        assert_eq!(
            fail_closed(),
            ["! -o istioin -p tcp -m mark --mark 0x0/0x340 -m set --match-set ztunnel-pods-ips dst -j DROP"]
        );
    }
}
