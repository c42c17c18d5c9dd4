//! What ebpf mode wants: which program stands on which device, and what the maps hold.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use redirect_common::maps::{Address, Config, Pod, Port, Way};
use redirect_common::names::{ISTIOIN, ISTIOOUT};
use redirect_common::policy::Seat;

use crate::facts::Facts;
use crate::kernel::links::{Begins, Link};
use crate::plan::Inputs;
use crate::proxy::Seated;
use crate::resources::map::Maps;
use crate::resources::program::{Direction, Hook};

/// Which program stands where.
pub(crate) type Hooks = BTreeMap<Hook, &'static str>;

/// What judges packets that a pod, or a ztunnel, sends.
const FROM_POD: &str = "redirect_from_pod";
const FROM_PROXY: &str = "redirect_from_proxy";

/// Packets of these devices come from devices below them, which have a program of their own, or there are none.
const WITHOUT: [&str; 7] = ["bridge", "bond", "team", "vrf", "dummy", "ifb", "nlmon"];

/// The programs of every device of the node.
pub(crate) fn hooks(facts: &Facts, proxies: &[Seated<'_>]) -> Hooks {
    let is_proxy = |link: &Link| proxies.iter().any(|seated| seated.proxy.host.veth == link.name);
    let mut hooks = Hooks::new();
    let mut add = |device: &str, direction, program| {
        hooks.insert(Hook { device: device.to_owned(), direction }, program);
    };
    for tunnel in [ISTIOIN, ISTIOOUT] {
        add(tunnel.node_link, Direction::Ingress, "redirect_from_tunnel");
        add(tunnel.node_link, Direction::Egress, "redirect_from_node");
    }
    for link in facts.links.iter().filter(|link| is_judged(link)) {
        match link.kind.as_deref() {
            _ if link.begins == Begins::Ip => add(&link.name, Direction::Ingress, "redirect_from_ip"),
            _ if is_proxy(link) => add(&link.name, Direction::Ingress, FROM_PROXY),
            Some("veth") => {
                add(&link.name, Direction::Ingress, FROM_POD);
                add(&link.name, Direction::Egress, "redirect_to_pod");
            }
            _ => add(&link.name, Direction::Ingress, "redirect_from_network"),
        }
    }
    hooks
}

/// Whether a program judges what pods or ztunnels send: where it does not, they send past the proxy.
pub(crate) fn judges_senders(program: &str) -> bool {
    [FROM_POD, FROM_PROXY].contains(&program)
}

fn is_judged(link: &Link) -> bool {
    let tunnel = [ISTIOIN, ISTIOOUT].iter().any(|tunnel| tunnel.node_link == link.name);
    link.begins != Begins::Other && !tunnel && !link.kind.as_deref().is_some_and(|kind| WITHOUT.contains(&kind))
}

/// What the maps hold.
pub(crate) fn maps(inputs: &Inputs<'_>) -> Maps {
    let Inputs { facts, traced, tunnel_port, .. } = *inputs;
    let index = |name: &str| facts.links.iter().find(|link| link.name == name).map_or(0, |link| link.index);
    let pod = |ip: Ipv4Addr| {
        let device = facts.device_of(IpAddr::V4(ip)).map_or(0, |link| link.index);
        (ip, Pod::new(device, if traced.contains(&ip) { Pod::TRACED } else { 0 }))
    };
    let bridge = |port: &Link| {
        let bridge = facts.links.iter().find(|link| Some(link.index) == port.controller)?;
        let mac = bridge.mac.filter(|_| bridge.kind.as_deref() == Some("bridge"))?;
        Some((port.index, Port::new(mac)))
    };
    let way = |Seated { proxy, .. }: Seated<'_>| Way {
        ip: v4(proxy.ip).map(Address::new).unwrap_or_default(),
        device: index(proxy.host.device()),
    };
    let current = inputs.proxy.map(way).unwrap_or_default();
    let on = |seat| inputs.proxies().find(|seated| seated.seat == seat);
    let veths = facts.links.iter().filter(|link| link.kind.as_deref() == Some("veth"));
    let ports: BTreeMap<_, _> = veths.filter_map(bridge).collect();
    Maps {
        pods: inputs.members().map(pod).collect(),
        // Programs read IPv4 only; every veth that comes and goes has an address of IPv6's.
        node: facts.addresses.iter().copied().filter_map(v4).collect(),
        config: Config {
            seats: Seat::ALL.map(|seat| on(seat).map_or(current, way)),
            veth_b: on(Seat::B).map_or(0, |seated| index(&seated.proxy.host.veth)),
            tunnel_port: u32::from(tunnel_port),
            bridged: u32::from(!ports.is_empty()),
            traced: u32::from(!traced.is_empty()),
        },
        ports,
    }
}

fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_device_has_its_program() {
        let kinds = [
            ("lo", None, Begins::Other),
            ("eth0", None, Begins::Ethernet),
            ("veth1", Some("veth"), Begins::Ethernet),
            ("cni0", Some("bridge"), Begins::Ethernet),
            ("istioin", Some("geneve"), Begins::Ethernet),
            ("istioout", Some("geneve"), Begins::Ethernet),
            ("wg0", Some("wireguard"), Begins::Ip),
        ];
        let mut facts = Facts::for_tests(&kinds.map(|(name, ..)| name));
        for (link, (_, kind, begins)) in facts.links.iter_mut().zip(kinds) {
            link.kind = kind.map(str::to_owned);
            link.begins = begins;
        }
        let hooks = hooks(&facts, &[]);
        let of = |device: &str, direction| hooks.get(&Hook { device: device.to_owned(), direction }).copied();
        assert_eq!(of("eth0", Direction::Ingress), Some("redirect_from_network"));
        assert_eq!(of("eth0", Direction::Egress), None);
        assert_eq!(of("veth1", Direction::Ingress), Some("redirect_from_pod"));
        assert_eq!(of("veth1", Direction::Egress), Some("redirect_to_pod"));
        for tunnel in ["istioin", "istioout"] {
            assert_eq!(of(tunnel, Direction::Ingress), Some("redirect_from_tunnel"));
            assert_eq!(of(tunnel, Direction::Egress), Some("redirect_from_node"));
        }
        assert_eq!(of("wg0", Direction::Ingress), Some("redirect_from_ip"));
        assert_eq!((of("lo", Direction::Ingress), of("cni0", Direction::Ingress)), (None, None));
    }
}
