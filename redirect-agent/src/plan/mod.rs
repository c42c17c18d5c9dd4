//! The node's desired state as a value. Pure: from who is meshed and what the node is to what must stand, in the node's
//! namespace and in ztunnel's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use redirect_common::names::{
    self, ISTIOIN, ISTIOOUT, Mark, ORIGINAL_SOURCE, OUTBOUND, PROXY_RETURN, PROXY_RETURN_A, PROXY_RETURN_B,
    RULE_INBOUND, RULE_MAIN, RULE_ORIGINAL_SOURCE, RULE_OUTBOUND, RULE_PROXY_RETURN, RULE_SEAT_A, RULE_SEAT_B,
    RULE_SKIP, RULE_TPROXY, RulePriority, SKIP, TABLE_INBOUND, TABLE_OUTBOUND, TABLE_PROXY, TABLE_SEAT_A, TABLE_SEAT_B,
    TPROXY, TUNNEL_PREFIX, TUNNELS, TableId,
};

use redirect_common::policy::Seat;

use crate::config::Mode;
use crate::datapaths::ebpf::{self, Hooks};
use crate::datapaths::iptables::{self, NodeRules};
use crate::proxy::{Proxy, Seated};
use crate::resources::address::Address;
use crate::resources::chain::Chain;
use crate::resources::guard::{Destination, Guard, GuardedBridge, GuardedProxy, Guards, Way};
use crate::resources::link::Geneve;
use crate::resources::map::Maps;
use crate::resources::neighbour::Neighbour;
use crate::resources::route::{Route, RouteKind};
use crate::resources::rule::{Action, Rule};
use crate::resources::sysctl::Setting;

mod inputs;
mod settings;

pub(crate) use inputs::{AllRpFilter, Beside, Inputs};

/// Everything that must stand in one network namespace. The empty plan is what `cleanup` applies.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    pub(crate) links: Vec<Geneve>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) neighbours: Vec<Neighbour>,
    pub(crate) sysctls: BTreeMap<Setting, String>,
    pub(crate) routes: BTreeSet<Route>,
    pub(crate) rules: Vec<Rule>,
    /// Addresses of [`Inputs::members`] in iptables mode.
    pub(crate) set: Option<BTreeSet<Ipv4Addr>>,
    pub(crate) chains: Vec<Chain>,
    pub(crate) guards: Guards,
    /// What the BPF maps hold in ebpf mode.
    pub(crate) maps: Option<Maps>,
    /// Which program stands where.
    pub(crate) hooks: Hooks,
}

/// The rules of the node that always stand, all of them.
pub(crate) const NODE_RULES: [Rule; 4] = [
    goto(RULE_SKIP, SKIP, RULE_MAIN),
    lookup(RULE_OUTBOUND, Some(OUTBOUND), TABLE_OUTBOUND),
    lookup(RULE_PROXY_RETURN, Some(PROXY_RETURN), TABLE_PROXY),
    lookup(RULE_INBOUND, None, TABLE_INBOUND),
];

/// The way back to a ztunnel of two, by its seat. What is to be skipped takes the main table's way, whatever else it bears: these rules are
/// asked ahead of the one that says so.
const SEAT_RULES: [Rule; 2] = [
    lookup(RULE_SEAT_A, Some(PROXY_RETURN_A.without(SKIP)), TABLE_SEAT_A),
    lookup(RULE_SEAT_B, Some(PROXY_RETURN_B.without(SKIP)), TABLE_SEAT_B),
];

/// The same of earlier agents, which did not ask for skip.
const EARLIER_SEAT_RULES: [Rule; 2] =
    [lookup(RULE_SEAT_A, Some(PROXY_RETURN_A), TABLE_SEAT_A), lookup(RULE_SEAT_B, Some(PROXY_RETURN_B), TABLE_SEAT_B)];

/// Every rule that may be ours on the node.
pub(crate) fn node_rules() -> Vec<Rule> {
    [&SEAT_RULES[..], &EARLIER_SEAT_RULES, &NODE_RULES].concat()
}

/// The rule and the table of a seat.
const fn way_back(seat: Seat) -> (Rule, TableId) {
    let [a, b] = SEAT_RULES;
    match seat {
        Seat::A => (a, TABLE_SEAT_A),
        Seat::B => (b, TABLE_SEAT_B),
    }
}

/// The rules of ztunnel's namespace.
pub(crate) const PROXY_RULES: [Rule; 2] = [
    lookup(RULE_TPROXY, Some(TPROXY), TABLE_INBOUND),
    lookup(RULE_ORIGINAL_SOURCE, Some(ORIGINAL_SOURCE), TABLE_INBOUND),
];

const fn lookup(priority: RulePriority, mark: Option<Mark>, table: TableId) -> Rule {
    Rule { priority, mark, action: Action::Lookup(table) }
}

const fn goto(priority: RulePriority, mark: Mark, target: RulePriority) -> Rule {
    Rule { priority, mark: Some(mark), action: Action::Goto(target) }
}

/// The IPv4 address of ztunnel and of the node, where both are known: without either there is no tunnel.
struct Ends<'a> {
    seated: Seated<'a>,
    proxy: &'a Proxy,
    proxy_ip: Ipv4Addr,
    node_ip: Ipv4Addr,
}

fn ends<'a>(inputs: &Inputs<'a>) -> Option<Ends<'a>> {
    let seated = inputs.proxy?;
    let IpAddr::V4(proxy_ip) = seated.proxy.ip else { return None };
    Some(Ends { seated, proxy: seated.proxy, proxy_ip, node_ip: inputs.node_ip? })
}

/// What must stand in the node's namespace.
pub(crate) fn node(inputs: &Inputs<'_>) -> Plan {
    let rules = NodeRules { tunnel_port: inputs.tunnel_port, proxies: inputs.proxies().collect() };
    let seat_rules = inputs.with_own_way_back().map(|seated| way_back(seated.seat).0);
    let mut plan = Plan {
        rules: seat_rules.chain(NODE_RULES).collect(),
        sysctls: settings::node(inputs),
        guards: Guards { bridge: guard(inputs), destination: Some(Destination { ways: ways(inputs) }) },
        ..Plan::default()
    };
    if inputs.modes.contains(&Mode::Iptables) {
        plan.set = Some(inputs.members().collect());
        plan.chains = iptables::node_chains(&rules);
    }
    if inputs.modes.contains(&Mode::Ebpf) {
        plan.maps = Some(ebpf::maps(inputs));
        plan.hooks = ebpf::hooks(inputs.facts, &inputs.proxies().collect::<Vec<_>>());
    }
    if let Some(ends) = ends(inputs) {
        for tunnel in TUNNELS {
            let remote = IpAddr::V4(ends.proxy_ip);
            let (name, mac) = (tunnel.node_link.to_owned(), tunnel.node_mac);
            plan.links.push(Geneve { name, vni: tunnel.vni.get(), remote, port: inputs.tunnel_port, mac });
            plan.addresses.push(address(tunnel.node_link, tunnel.node_addr));
            plan.neighbours.push(neighbour(tunnel.node_link, tunnel.proxy_addr, tunnel.proxy_mac));
        }
        plan.routes = node_routes(inputs, &ends);
    }
    plan
}

/// Where what is marked for a ztunnel may leave. A device that is gone names no other: as long as it is, nothing leaves.
fn ways(inputs: &Inputs<'_>) -> Vec<Way> {
    inputs.proxies().filter_map(|seated| way(inputs, seated)).collect()
}

/// Without a node's address there are no tunnels, and nothing goes to any of them.
fn way(inputs: &Inputs<'_>, Seated { seat, proxy }: Seated<'_>) -> Option<Way> {
    inputs.node_ip?;
    let IpAddr::V4(proxy_ip) = proxy.ip else { return None };
    let answers = if inputs.beside.is_some() { seat.way_back() } else { PROXY_RETURN };
    let host = &proxy.host;
    let gone = host.bridge.is_some() && !inputs.facts.has_link(&host.veth);
    Some(Way { proxy: proxy_ip, port: inputs.tunnel_port, device: host.device().to_owned(), gone, answers })
}

/// What must stand in ztunnel's namespace; nothing without tunnels.
pub(crate) fn proxy(inputs: &Inputs<'_>) -> Plan {
    let Some(ends) = ends(inputs) else { return Plan::default() };
    let link = |tunnel: &names::Tunnel| Geneve {
        name: tunnel.proxy_link.to_owned(),
        vni: tunnel.vni.get(),
        remote: IpAddr::V4(ends.node_ip),
        port: inputs.tunnel_port,
        mac: tunnel.proxy_mac,
    };
    let peer = |tunnel: &names::Tunnel| neighbour(tunnel.proxy_link, tunnel.node_addr, tunnel.node_mac);
    Plan {
        links: TUNNELS.iter().map(link).collect(),
        addresses: TUNNELS.iter().map(|tunnel| address(tunnel.proxy_link, tunnel.proxy_addr)).collect(),
        neighbours: TUNNELS.iter().map(peer).collect(),
        sysctls: settings::proxy(inputs, ends.seated),
        routes: proxy_routes(&ends),
        rules: PROXY_RULES.to_vec(),
        chains: iptables::proxy_chains(ends.proxy),
        ..Plan::default()
    }
}

fn address(link: &str, ip: Ipv4Addr) -> Address {
    Address { link: link.to_owned(), ip: IpAddr::V4(ip), prefix: TUNNEL_PREFIX }
}

fn neighbour(link: &str, ip: Ipv4Addr, mac: [u8; 6]) -> Neighbour {
    Neighbour { link: link.to_owned(), ip, mac }
}

fn node_routes(inputs: &Inputs<'_>, ends: &Ends<'_>) -> BTreeSet<Route> {
    let mut routes = BTreeSet::from([default_via(TABLE_OUTBOUND, ISTIOOUT.proxy_addr, ISTIOOUT.node_link)]);
    routes.extend(inputs.proxies().flat_map(|seated| tunnel_routes(inputs, ends, seated.proxy)));
    routes.extend(back_to(inputs, ends.proxy, TABLE_PROXY));
    let own = inputs.with_own_way_back();
    routes.extend(own.flat_map(|seated| back_to(inputs, seated.proxy, way_back(seated.seat).1)));
    routes.extend(inputs.members().map(|pod| Route {
        gateway: Some(IpAddr::V4(ISTIOIN.proxy_addr)),
        // Without it the node would speak to its pods from the tunnel's address.
        source: Some(IpAddr::V4(ends.node_ip)),
        kind: RouteKind::Via,
        ..host(TABLE_INBOUND, pod, ISTIOIN.node_link)
    }));
    routes
}

/// A ztunnel's address and the node's device that leads to it. The veth may be gone with its proxy; the kernel has then taken its
/// routes with it.
fn leads_to<'a>(inputs: &Inputs<'_>, proxy: &'a Proxy) -> Option<(Ipv4Addr, &'a str)> {
    let device = proxy.host.device();
    match proxy.ip {
        IpAddr::V4(ip) if inputs.facts.has_link(device) => Some((ip, device)),
        _ => None,
    }
}

/// The tunnels' own packets are routed here, with the mark of what they carry. ztunnel's end takes only what comes from the node's
/// address (`geneve_lookup`), and a CNI may have given the device another one.
fn tunnel_routes(inputs: &Inputs<'_>, ends: &Ends<'_>, proxy: &Proxy) -> Vec<Route> {
    let Some((ip, device)) = leads_to(inputs, proxy) else { return Vec::new() };
    let source = Some(IpAddr::V4(ends.node_ip));
    [TABLE_INBOUND, TABLE_OUTBOUND].map(|table| Route { source, ..host(table, ip, device) }).to_vec()
}

/// All that is for a ztunnel, by its veth.
fn back_to(inputs: &Inputs<'_>, proxy: &Proxy, table: TableId) -> Vec<Route> {
    let Some((ip, device)) = leads_to(inputs, proxy) else { return Vec::new() };
    vec![host(table, ip, device), Route { kind: RouteKind::Onlink, ..default_via(table, ip, device) }]
}

fn proxy_routes(ends: &Ends<'_>) -> BTreeSet<Route> {
    let everything = Route { prefix: 0, kind: RouteKind::Local, ..host(TABLE_INBOUND, Ipv4Addr::UNSPECIFIED, "lo") };
    let node = |table| host(table, ends.node_ip, &ends.proxy.interface);
    BTreeSet::from([
        everything,
        default_via(TABLE_OUTBOUND, ISTIOOUT.node_addr, ISTIOOUT.proxy_link),
        default_via(TABLE_PROXY, ISTIOIN.node_addr, ISTIOIN.proxy_link),
        node(TABLE_OUTBOUND),
        node(TABLE_PROXY),
    ])
}

fn host(table: TableId, destination: Ipv4Addr, device: &str) -> Route {
    Route {
        table: table.0,
        destination: IpAddr::V4(destination),
        prefix: 32,
        device: device.to_owned(),
        gateway: None,
        source: None,
        kind: RouteKind::Direct,
    }
}

fn default_via(table: TableId, gateway: Ipv4Addr, device: &str) -> Route {
    Route {
        prefix: 0,
        gateway: Some(IpAddr::V4(gateway)),
        kind: RouteKind::Via,
        ..host(table, Ipv4Addr::UNSPECIFIED, device)
    }
}

fn behind_bridge(inputs: &Inputs<'_>, seated: Seated<'_>) -> Option<GuardedProxy> {
    let host = &seated.proxy.host;
    let mac = host.bridge.as_ref()?.1;
    Some(GuardedProxy { port: host.veth.clone(), mac, way: way(inputs, seated) })
}

/// The guard of the bridges that ztunnels and, in iptables mode, meshed pods are behind; `None` where there is none of them.
fn guard(inputs: &Inputs<'_>) -> Option<Guard> {
    let proxies: Vec<_> = inputs.proxies().filter_map(|seated| behind_bridge(inputs, seated)).collect();
    if !inputs.modes.contains(&Mode::Iptables) {
        let is_there = proxies.iter().any(|proxy| proxy.way.is_some());
        return is_there.then(|| Guard { proxies, ..Guard::default() });
    }
    let bridges = || inputs.facts.links.iter().filter(|link| link.kind.as_deref() == Some("bridge"));
    let gateways = bridges().filter_map(|link| link.mac).collect();
    let mut guard = Guard { gateways, proxies, sees_arrivals: true, ..Guard::default() };
    for pod in inputs.members() {
        let device = inputs.facts.device_of(IpAddr::V4(pod));
        let Some(bridge) = device.filter(|link| link.kind.as_deref() == Some("bridge")) else { continue };
        let Some(mac) = bridge.mac else { continue };
        let guarded =
            guard.bridges.entry(bridge.name.clone()).or_insert_with(|| GuardedBridge { mac, pods: BTreeSet::new() });
        guarded.pods.insert(pod);
    }
    (!guard.bridges.is_empty() || !guard.proxies.is_empty()).then_some(guard)
}

#[cfg(test)]
mod tests;
