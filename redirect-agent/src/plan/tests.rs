use std::collections::BTreeSet;
use std::fs::File;

use super::*;
use crate::facts::Facts;
use crate::kernel::netns::NetnsId;
use crate::proxy::HostSide;

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
        traced: &NOBODY,
        proxy,
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
    let way = plan.guards.destination.and_then(|destination| destination.way);
    assert_eq!(
        way.map(|way| (way.proxy.to_string(), way.port, way.device)),
        Some(("10.244.2.3".into(), 6081, "vethz".into()))
    );
    assert_eq!(plan.guards.bridge, None);
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

#[test]
fn a_strict_node_gets_loose_checks_on_our_links_only() {
    let (facts, meshed, ztunnel) = (facts(), BTreeSet::new(), ztunnel());
    let strict = AllRpFilter { node: 1, proxy: 0 };
    let plan = node(&Inputs { all_rp_filter: strict, ..inputs(&facts, &meshed, Some(&ztunnel)) });
    assert_eq!(plan.sysctls.get(&Setting::new("vethz", "rp_filter")).map(String::as_str), Some("2"));
    assert!(!plan.sysctls.keys().any(|setting| setting.device == "all"));
}
