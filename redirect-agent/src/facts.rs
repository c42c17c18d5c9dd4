//! What the plan needs to know of the node as it is: its addresses, its links, and which device leads to which pod.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_route::route::{RouteAttribute, RouteType};
use redirect_common::names::{TUNNEL_PORT, TUNNELS};

use crate::kernel::links::{self, Link};
use crate::kernel::netns::Netns;
use crate::resources::{address, route};

/// Number of the main table (`RT_TABLE_MAIN`).
const TABLE_MAIN: u32 = 254;

/// The node as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Facts {
    pub(crate) links: Vec<Link>,
    /// The node's addresses, those of our tunnels left out.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Main table's routes that need no gateway.
    direct: Vec<Direct>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Direct {
    destination: IpAddr,
    prefix: u8,
    index: u32,
}

impl Facts {
    /// Reads them.
    pub(crate) fn observe(node: &mut Netns) -> anyhow::Result<Self> {
        let links = links::dump(node.netlink())?;
        let ours: BTreeSet<_> = links.iter().filter(|link| is_tunnel(link)).map(|link| link.index).collect();
        let addresses = address::observe(node.netlink())?;
        let addresses =
            addresses.into_iter().filter(|address| !ours.contains(&address.index)).map(|address| address.ip).collect();
        let direct = route::dump(node.netlink())?.iter().filter_map(direct).collect();
        Ok(Self { links, addresses, direct })
    }

    /// The device that leads to a pod of this node: the veth or bridge that the most specific direct route names. `None` when
    /// the pod is not plumbed (yet): a default route or an uplink's subnet says nothing about a pod.
    pub(crate) fn device_of(&self, ip: IpAddr) -> Option<&Link> {
        let route = self.direct.iter().filter(|route| route.covers(ip)).max_by_key(|route| route.prefix)?;
        let link = self.links.iter().find(|link| link.index == route.index)?;
        matches!(link.kind.as_deref(), Some("veth" | "bridge")).then_some(link)
    }

    /// Whether the node has an interface of this name.
    pub(crate) fn has_link(&self, name: &str) -> bool {
        self.links.iter().any(|link| link.name == name)
    }
}

impl Direct {
    fn covers(&self, ip: IpAddr) -> bool {
        let bits = |ip| match ip {
            IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
            IpAddr::V6(ip) => ip.to_bits(),
        };
        let differing = bits(self.destination) ^ bits(ip);
        self.destination.is_ipv4() == ip.is_ipv4() && differing.leading_zeros() >= u32::from(self.prefix)
    }
}

fn is_tunnel(link: &Link) -> bool {
    TUNNELS.iter().any(|tunnel| {
        (link.name == tunnel.node_link || link.name == tunnel.proxy_link)
            && link.geneve.is_some_and(|geneve| geneve.vni == Some(tunnel.vni.get()))
    })
}

fn direct(message: &netlink_packet_route::route::RouteMessage) -> Option<Direct> {
    let header = &message.header;
    if route::table_of(message) != TABLE_MAIN
        || header.kind != RouteType::Unicast
        || header.destination_prefix_length == 0
    {
        return None;
    }
    let (mut destination, mut index) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = route::ip(address),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => return None,
            _ => {}
        }
    }
    Some(Direct { destination: destination?, prefix: header.destination_prefix_length, index: index? })
}

/// The UDP port for the tunnels: the one they have, else the first from [`TUNNEL_PORT`] up that no foreign GENEVE link of
/// either namespace owns. Both ends and every rule follow it.
pub(crate) fn tunnel_port(node: &[Link], proxy: &[Link]) -> u16 {
    let both = || node.iter().chain(proxy);
    let foreign: BTreeSet<_> =
        both().filter(|link| !is_tunnel(link)).filter_map(|link| Some(link.geneve?.port)).collect();
    let standing = node.iter().find(|link| is_tunnel(link)).and_then(|link| Some(link.geneve?.port));
    standing
        .filter(|port| !foreign.contains(port))
        .or_else(|| (TUNNEL_PORT..=u16::MAX).find(|port| !foreign.contains(port)))
        .unwrap_or(TUNNEL_PORT)
}

#[cfg(test)]
impl Facts {
    /// A node with plain links of these names and no addresses.
    pub(crate) fn for_tests(names: &[&str]) -> Self {
        let link = |(index, name): (u32, &&str)| Link { index, name: (*name).into(), ..Link::default() };
        Self { links: (1..).zip(names).map(link).collect(), addresses: BTreeSet::new(), direct: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::links::GeneveInfo;

    fn link(index: u32, name: &str, kind: &str, geneve: Option<(u32, u16)>) -> Link {
        Link {
            index,
            name: name.into(),
            kind: Some(kind.into()),
            geneve: geneve.map(|(vni, port)| GeneveInfo { vni: Some(vni), remote: None, port }),
            ..Link::default()
        }
    }

    #[test]
    fn the_most_specific_direct_route_names_the_device() {
        let route = |ip: &str, prefix, index| Direct { destination: ip.parse().unwrap(), prefix, index };
        let facts = Facts {
            links: vec![
                link(2, "eth0", "plain", None),
                link(3, "veth1", "veth", None),
                link(4, "cni0", "bridge", None),
            ],
            addresses: BTreeSet::new(),
            direct: vec![route("172.18.0.0", 24, 2), route("10.244.1.0", 24, 4), route("10.244.1.5", 32, 3)],
        };
        let device = |ip: &str| facts.device_of(ip.parse().unwrap()).map(|link| link.name.as_str());
        assert_eq!(device("10.244.1.5"), Some("veth1"));
        assert_eq!(device("10.244.1.6"), Some("cni0"));
        assert_eq!(device("172.18.0.9"), None);
        assert_eq!(device("10.245.0.1"), None);
        assert_eq!(device("fd00::1"), None);
    }

    #[test]
    fn the_port_yields_to_a_foreign_owner() {
        let ours = link(5, "istioin", "geneve", Some((1000, 6082)));
        let foreign = link(6, "genev_sys_6081", "geneve", Some((0, 6081)));
        assert_eq!(tunnel_port(&[], &[]), 6081);
        assert_eq!(tunnel_port(std::slice::from_ref(&foreign), &[]), 6082);
        assert_eq!(tunnel_port(&[], std::slice::from_ref(&foreign)), 6082);
        assert_eq!(tunnel_port(&[ours, foreign], &[]), 6082);
    }
}
