use std::collections::BTreeSet;
use std::fs::File;

use redirect_common::policy::Seat;

use super::*;
use crate::facts::Facts;
use crate::kernel::links::Begins;
use crate::kernel::netns::NetnsId;
use crate::proxy::HostSide;
use crate::resources::program::{Direction, Hook};

fn facts() -> Facts {
    Facts::for_tests(&["eth0", "vethz", "istioin", "istioout"])
}

fn ztunnel() -> Proxy {
    Proxy {
        uid: "u".into(),
        namespace: "istio-system".into(),
        name: "ztunnel".into(),
        ip: "10.244.2.3".parse().unwrap(),
        netns: NetnsId::of(&File::open("/proc/self/ns/net").unwrap()).unwrap(),
        interface: "eth0".into(),
        host: HostSide { veth: "vethz".into(), bridge: None },
    }
}

static NOBODY: BTreeSet<Ipv4Addr> = BTreeSet::new();

fn inputs<'a>(facts: &'a Facts, meshed: &'a BTreeSet<Ipv4Addr>, proxy: Option<&'a Proxy>) -> Inputs<'a> {
    let node_ip = Some("172.18.0.2".parse().unwrap());
    Inputs {
        facts,
        meshed,
        may_bypass: &NOBODY,
        proxy_is_away: false,
        traced: &NOBODY,
        proxy: proxy.map(|proxy| Seated { seat: Seat::A, proxy }),
        beside: None,
        node_ip,
        tunnel_port: 6081,
        modes: &[Mode::Iptables],
        all_rp_filter: AllRpFilter::default(),
    }
}

fn texts(plan: &Plan) -> Vec<String> {
    plan.routes.iter().map(ToString::to_string).collect()
}

fn neighbours(plan: &Plan) -> Vec<String> {
    plan.neighbours.iter().map(ToString::to_string).collect()
}

#[test]
fn the_node_reads_as_designed() {
    let (facts, meshed, proxy) = (facts(), BTreeSet::from(["10.244.1.5".parse().unwrap()]), ztunnel());
    let plan = node(&inputs(&facts, &meshed, Some(&proxy)));
    assert_eq!(
        texts(&plan),
        [
            "10.244.1.5 via 192.168.126.2 dev istioin src 172.18.0.2 table 100",
            "10.244.2.3 dev vethz src 172.18.0.2 table 100",
            "default via 192.168.127.2 dev istioout table 101",
            "10.244.2.3 dev vethz src 172.18.0.2 table 101",
            "default via 10.244.2.3 dev vethz onlink table 102",
            "10.244.2.3 dev vethz table 102",
        ]
    );
    let rules: Vec<_> = plan.rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        rules,
        [
            "100: from all fwmark 0x200/0x200 goto 32766",
            "101: from all fwmark 0x100/0x100 lookup 101",
            "102: from all fwmark 0x40/0x40 lookup 102",
            "103: from all lookup 100",
        ]
    );
    assert_eq!(plan.links.len(), 2);
    assert_eq!(
        neighbours(&plan),
        ["192.168.126.2 dev istioin lladdr 02:72:64:72:01:02", "192.168.127.2 dev istioout lladdr 02:72:64:72:02:02"]
    );
    assert_eq!(plan.set, Some(meshed));
    let ways = plan.guards.destination.map(|destination| destination.ways).unwrap_or_default();
    let (proxy, device) = ("10.244.2.3".parse().unwrap(), "vethz".into());
    let way = Way { proxy, port: 6081, device, gone: false, answers: PROXY_RETURN };
    assert_eq!(ways, [way]);
    assert_eq!(plan.guards.bridge, None);
}

#[test]
fn a_bridge_without_ztunnels_port_leads_nowhere() {
    let (facts, meshed, mut behind) = (facts(), BTreeSet::new(), ztunnel());
    behind.host.bridge = Some(("cni0".into(), [2, 0, 0, 0, 0, 5]));
    let mut unplugged = facts.clone();
    unplugged.links.retain(|link| link.name != behind.host.veth);
    let gone = |facts: &Facts, proxy: &Proxy| {
        let guards = node(&inputs(facts, &meshed, Some(proxy))).guards;
        guards.destination.map(|destination| destination.ways[0].gone)
    };
    assert_eq!(gone(&facts, &behind), Some(false));
    assert_eq!(gone(&unplugged, &behind), Some(true));
    assert_eq!(gone(&unplugged, &ztunnel()), Some(false), "its name says as much");
}

#[test]
fn ztunnels_namespace_reads_as_designed() {
    let (facts, meshed, ztunnel) = (facts(), BTreeSet::new(), ztunnel());
    let plan = proxy(&inputs(&facts, &meshed, Some(&ztunnel)));
    assert_eq!(
        texts(&plan),
        [
            "local default dev lo table 100",
            "default via 192.168.127.1 dev pistioout table 101",
            "172.18.0.2 dev eth0 table 101",
            "default via 192.168.126.1 dev pistioin table 102",
            "172.18.0.2 dev eth0 table 102",
        ]
    );
    assert_eq!(plan.rules[1].to_string(), "20003: from all fwmark 0x4d3/0xfff lookup 100");
    assert_eq!(
        neighbours(&plan),
        ["192.168.126.1 dev pistioin lladdr 02:72:64:72:01:01", "192.168.127.1 dev pistioout lladdr 02:72:64:72:02:01"]
    );
}

#[test]
fn each_end_knows_the_mac_that_the_other_has() {
    let (facts, meshed, ztunnel) = (facts(), BTreeSet::new(), ztunnel());
    for modes in [&[Mode::Iptables][..], &[Mode::Ebpf], &[Mode::Iptables, Mode::Ebpf]] {
        let inputs = Inputs { modes, ..inputs(&facts, &meshed, Some(&ztunnel)) };
        let (node, proxy) = (node(&inputs), proxy(&inputs));
        for (here, there) in [(&node, &proxy), (&proxy, &node)] {
            let macs = |plan: &Plan| plan.links.iter().map(|link| link.mac).collect::<Vec<_>>();
            assert_eq!(here.neighbours.iter().map(|neighbour| neighbour.mac).collect::<Vec<_>>(), macs(there));
        }
    }
}

#[test]
fn without_a_proxy_pods_are_marked_and_blocked_not_bypassed() {
    let (facts, meshed) = (facts(), BTreeSet::from(["10.244.1.5".parse().unwrap()]));
    let plan = node(&inputs(&facts, &meshed, None));
    assert!(plan.links.is_empty() && plan.neighbours.is_empty() && plan.routes.is_empty());
    assert_eq!(plan.set, Some(meshed.clone()));
    assert!(plan.chains.iter().any(|chain| chain.table == "filter" && !chain.rules.is_empty()));
    assert_eq!(proxy(&inputs(&facts, &meshed, None)), Plan::default());
}

/// Wherever an address can be: in set, map, route, or guard of the bridge.
#[test]
fn who_is_bypassed_is_a_member_of_nothing_and_others_stay_blocked() {
    let (facts, ztunnel) = (facts(), ztunnel());
    let [open, shut]: [Ipv4Addr; 2] = [[10, 244, 1, 5].into(), [10, 244, 1, 7].into()];
    let (meshed, may_bypass, blocked) = (BTreeSet::from([open, shut]), BTreeSet::from([open]), BTreeSet::from([shut]));
    for modes in [&[Mode::Iptables][..], &[Mode::Ebpf], BOTH_MODES] {
        for proxy in [None, Some(&ztunnel)] {
            let all = Inputs { modes, ..inputs(&facts, &meshed, proxy) };
            let may = Inputs { may_bypass: &may_bypass, ..all };
            assert_eq!(node(&may), node(&all), "ztunnel is there");
            let away = Inputs { proxy_is_away: true, ..may };
            assert_eq!(node(&away), node(&Inputs { meshed: &blocked, ..all }), "as if it were not meshed");
            assert_eq!(node(&Inputs { proxy_is_away: true, ..all }), node(&all), "nobody may pass");
        }
    }
}

#[test]
fn a_strict_node_gets_loose_checks_on_our_links_only() {
    let (facts, meshed, ztunnel) = (facts(), BTreeSet::new(), ztunnel());
    let strict = AllRpFilter { node: 1, proxy: 0 };
    let plan = node(&Inputs { all_rp_filter: strict, ..inputs(&facts, &meshed, Some(&ztunnel)) });
    assert_eq!(plan.sysctls.get(&Setting::new("vethz", "rp_filter")).map(String::as_str), Some("2"));
    assert!(!plan.sysctls.keys().any(|setting| setting.device == "all"));
}

/// The former ztunnel and the one that follows it, and a pod.
struct Rollout {
    facts: Facts,
    meshed: BTreeSet<Ipv4Addr>,
    former: Proxy,
    next: Proxy,
}

impl Rollout {
    fn new() -> Self {
        let next = Proxy {
            uid: "v".into(),
            ip: "10.244.2.4".parse().unwrap(),
            host: HostSide { veth: "vethy".into(), bridge: None },
            ..ztunnel()
        };
        let mut facts = Facts::for_tests(&["eth0", "vethz", "vethy", "istioin", "istioout"]);
        for veth in facts.links.iter_mut().filter(|link| link.name.starts_with("veth")) {
            (veth.kind, veth.begins) = (Some("veth".to_owned()), Begins::Ethernet);
        }
        Self { facts, meshed: BTreeSet::from(["10.244.1.5".parse().unwrap()]), former: ztunnel(), next }
    }

    /// New connections go to the former one, on seat A.
    fn before(&self, beside: Option<Beside<'_>>, modes: &'static [Mode]) -> Plan {
        node(&Inputs { beside, modes, ..inputs(&self.facts, &self.meshed, Some(&self.former)) })
    }

    /// They go to the next one, on seat B.
    fn after(&self, beside: Option<Beside<'_>>, modes: &'static [Mode]) -> Plan {
        let proxy = Some(Seated { seat: Seat::B, proxy: &self.next });
        node(&Inputs { proxy, beside, modes, ..inputs(&self.facts, &self.meshed, None) })
    }

    fn coming(&self) -> Beside<'_> {
        Beside::Coming(Seated { seat: Seat::B, proxy: &self.next })
    }

    fn draining(&self) -> Beside<'_> {
        Beside::Draining(Seated { seat: Seat::A, proxy: &self.former })
    }
}

const BOTH_MODES: &[Mode] = &[Mode::Iptables, Mode::Ebpf];

#[test]
fn who_comes_beside_takes_nothing_from_who_is_there() {
    let rollout = Rollout::new();
    let (steady, coming) = (rollout.before(None, BOTH_MODES), rollout.before(Some(rollout.coming()), BOTH_MODES));
    assert_eq!((&coming.links, &coming.neighbours), (&steady.links, &steady.neighbours));
    assert!(steady.routes.is_subset(&coming.routes));
    let more: Vec<_> = coming.routes.difference(&steady.routes).map(ToString::to_string).collect();
    assert_eq!(
        more,
        [
            "10.244.2.4 dev vethy src 172.18.0.2 table 100",
            "10.244.2.4 dev vethy src 172.18.0.2 table 101",
            "default via 10.244.2.3 dev vethz onlink table 103",
            "10.244.2.3 dev vethz table 103",
            "default via 10.244.2.4 dev vethy onlink table 104",
            "10.244.2.4 dev vethy table 104",
        ]
    );
    let rules: Vec<_> = coming.rules.iter().take(2).map(ToString::to_string).collect();
    assert_eq!(rules, ["97: from all fwmark 0x40/0x250 lookup 103", "98: from all fwmark 0x50/0x250 lookup 104"]);
    assert_eq!(coming.rules[2..], steady.rules);
    assert!(steady.rules.iter().chain(&coming.rules).all(|rule| node_rules().contains(rule)));
    assert!(steady.sysctls.iter().all(|(setting, value)| coming.sysctls.get(setting) == Some(value)));
    let hook = |plan: &Plan, device: &str| {
        let hook = Hook { device: device.into(), direction: Direction::Ingress };
        plan.hooks.get(&hook).copied()
    };
    assert_eq!(hook(&steady, "vethy"), Some("redirect_from_pod"));
    assert_eq!(hook(&coming, "vethy"), Some("redirect_from_proxy"));
    let config = |plan: &Plan| plan.maps.as_ref().unwrap().config;
    assert_eq!(config(&steady).seats[0], config(&steady).seats[1]);
    assert_eq!(config(&coming).seats[0], config(&steady).seats[0]);
    assert_ne!(config(&coming).seats[1], config(&steady).seats[0]);
    assert_eq!((config(&steady).veth_b, config(&coming).veth_b), (0, 3));
}

#[test]
fn two_ztunnels_open_from_ports_of_their_own() {
    let rollout = Rollout::new();
    let ports = |seat, proxy| {
        let proxy = Some(Seated { seat, proxy });
        let plan = super::proxy(&Inputs { proxy, ..inputs(&rollout.facts, &rollout.meshed, None) });
        plan.sysctls.get(&Setting::of_netns("ip_local_port_range")).cloned()
    };
    assert_eq!(ports(Seat::A, &rollout.former).as_deref(), Some("4096 18431"));
    assert_eq!(ports(Seat::B, &rollout.next).as_deref(), Some("18432 32767"));
}

/// What marks and who may leave where has stood before: only links, routes and a rule are left for the turn.
#[test]
fn the_turn_changes_nothing_that_marks() {
    let rollout = Rollout::new();
    let coming = rollout.before(Some(rollout.coming()), BOTH_MODES);
    let turned = rollout.after(Some(rollout.draining()), BOTH_MODES);
    assert_eq!(turned.chains, coming.chains);
    assert_eq!(turned.guards, coming.guards);
    assert_eq!(turned.maps, coming.maps);
    assert_eq!(turned.hooks, coming.hooks);
    assert_eq!(turned.set, coming.set);
    assert_eq!(turned.sysctls, coming.sysctls);
    assert!(turned.links.iter().all(|link| link.remote == rollout.next.ip));
    let only = |one: &Plan, other: &Plan| -> Vec<_> {
        one.routes.difference(&other.routes).map(ToString::to_string).collect()
    };
    assert_eq!(
        only(&turned, &coming),
        ["default via 10.244.2.4 dev vethy onlink table 102", "10.244.2.4 dev vethy table 102"]
    );
    // What is taken away goes on to table 102, which leads to the same by then.
    assert_eq!(
        only(&coming, &turned),
        [
            "default via 10.244.2.3 dev vethz onlink table 102",
            "10.244.2.3 dev vethz table 102",
            "default via 10.244.2.4 dev vethy onlink table 104",
            "10.244.2.4 dev vethy table 104",
        ]
    );
    let gone: Vec<_> = coming.rules.iter().filter(|rule| !turned.rules.contains(rule)).collect();
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].to_string(), "98: from all fwmark 0x50/0x250 lookup 104");
}

#[test]
fn after_the_drain_all_reads_as_with_one_ztunnel() {
    let rollout = Rollout::new();
    let done = rollout.after(None, BOTH_MODES);
    let alone = node(&Inputs { modes: BOTH_MODES, ..inputs(&rollout.facts, &rollout.meshed, Some(&rollout.next)) });
    assert_eq!((&done.routes, &done.rules, &done.guards), (&alone.routes, &alone.rules, &alone.guards));
    // But for the seat, which what goes on needs.
    assert_ne!(done.chains, alone.chains);
    let config = done.maps.unwrap().config;
    assert_eq!((config.seats, config.veth_b), (alone.maps.unwrap().config.seats, 3));
}
