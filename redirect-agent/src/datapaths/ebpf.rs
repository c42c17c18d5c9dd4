//! What ebpf mode wants: which program stands on which device, and what the maps hold.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use redirect_common::maps::{Address, Config, Pod, Port};
use redirect_common::names::{ISTIOIN, ISTIOOUT};

use crate::facts::Facts;
use crate::kernel::links::{Begins, Link};
use crate::plan::Inputs;
use crate::proxy::Proxy;
use crate::resources::map::Maps;
use crate::resources::program::{Direction, Hook};

/// Which program stands where.
pub(crate) type Hooks = BTreeMap<Hook, &'static str>;

/// Packets of these devices come from devices below them, which have a program of their own, or there are none.
const WITHOUT: [&str; 7] = ["bridge", "bond", "team", "vrf", "dummy", "ifb", "nlmon"];

/// The programs of every device of the node.
pub(crate) fn hooks(facts: &Facts, proxy: Option<&Proxy>) -> Hooks {
    let proxy_veth = proxy.map(|proxy| proxy.host.veth.as_str());
    let mut hooks = Hooks::new();
    let mut add = |device: &str, direction, program| {
        hooks.insert(Hook { device: device.to_owned(), direction }, program);
    };
    for tunnel in [ISTIOIN, ISTIOOUT] {
        add(tunnel.node_link, Direction::Ingress, "redirect_from_tunnel");
    }
    add(ISTIOIN.node_link, Direction::Egress, "redirect_from_node");
    for link in facts.links.iter().filter(|link| is_judged(link)) {
        match link.kind.as_deref() {
            _ if link.begins == Begins::Ip => add(&link.name, Direction::Ingress, "redirect_from_ip"),
            _ if proxy_veth == Some(link.name.as_str()) => add(&link.name, Direction::Ingress, "redirect_from_proxy"),
            Some("veth") => {
                add(&link.name, Direction::Ingress, "redirect_from_pod");
                add(&link.name, Direction::Egress, "redirect_to_pod");
            }
            _ => add(&link.name, Direction::Ingress, "redirect_from_network"),
        }
    }
    hooks
}

fn is_judged(link: &Link) -> bool {
    let tunnel = [ISTIOIN, ISTIOOUT].iter().any(|tunnel| tunnel.node_link == link.name);
    link.begins != Begins::Other && !tunnel && !link.kind.as_deref().is_some_and(|kind| WITHOUT.contains(&kind))
}

/// What the maps hold.
pub(crate) fn maps(inputs: &Inputs<'_>) -> Maps {
    let Inputs { facts, meshed, traced, proxy, tunnel_port, .. } = *inputs;
    let index = |name: &str| facts.links.iter().find(|link| link.name == name).map_or(0, |link| link.index);
    let pod = |ip: &Ipv4Addr| {
        let device = facts.device_of(IpAddr::V4(*ip)).map_or(0, |link| link.index);
        (*ip, Pod { device, flags: if traced.contains(ip) { Pod::TRACED } else { 0 } })
    };
    let bridge = |port: &Link| {
        let bridge = facts.links.iter().find(|link| Some(link.index) == port.controller)?;
        let mac = bridge.mac.filter(|_| bridge.kind.as_deref() == Some("bridge"))?;
        Some((port.index, Port::new(mac)))
    };
    let veths = facts.links.iter().filter(|link| link.kind.as_deref() == Some("veth"));
    let ports: BTreeMap<_, _> = veths.filter_map(bridge).collect();
    Maps {
        pods: meshed.iter().map(pod).collect(),
        // Programs read IPv4 only; every veth that comes and goes has an address of IPv6's.
        node: facts.addresses.iter().copied().filter_map(v4).collect(),
        config: Config {
            proxy: proxy.and_then(|proxy| v4(proxy.ip)).map(Address::new).unwrap_or_default(),
            proxy_device: proxy.map_or(0, |proxy| index(proxy.host.device())),
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
            ("wg0", Some("wireguard"), Begins::Ip),
        ];
        let mut facts = Facts::for_tests(&kinds.map(|(name, ..)| name));
        for (link, (_, kind, begins)) in facts.links.iter_mut().zip(kinds) {
            link.kind = kind.map(str::to_owned);
            link.begins = begins;
        }
        let hooks = hooks(&facts, None);
        let of = |device: &str, direction| hooks.get(&Hook { device: device.to_owned(), direction }).copied();
        assert_eq!(of("eth0", Direction::Ingress), Some("redirect_from_network"));
        assert_eq!(of("eth0", Direction::Egress), None);
        assert_eq!(of("veth1", Direction::Ingress), Some("redirect_from_pod"));
        assert_eq!(of("veth1", Direction::Egress), Some("redirect_to_pod"));
        assert_eq!(of("istioin", Direction::Ingress), Some("redirect_from_tunnel"));
        assert_eq!(of("istioin", Direction::Egress), Some("redirect_from_node"));
        assert_eq!(of("wg0", Direction::Ingress), Some("redirect_from_ip"));
        assert_eq!((of("lo", Direction::Ingress), of("cni0", Direction::Ingress)), (None, None));
    }
}
