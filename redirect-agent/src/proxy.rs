//! Finding ztunnel: from its pod's IP to its network namespace and to where the node sees it.
//!
//! The address alone proves nothing (another namespace may carry the same one), so the namespace is accepted only when its
//! interface and a veth of the node name each other as peers, and the node's id of the peer's namespace is that namespace's. A pod with
//! `CAP_NET_ADMIN` can give its own interface ztunnel's address: of several, one must be known by something else.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::errno::Errno;
use redirect_common::policy::Seat;
use serde::{Deserialize, Serialize};

use crate::kernel::links::{self, Link};
use crate::kernel::netlink::Netlink;
use crate::kernel::netns::{Netns, NetnsId};
use crate::resources::address;
use crate::resources::guard::Mac;

/// ztunnel as the node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Proxy {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) netns: NetnsId,
    /// Its interface, inside.
    pub(crate) interface: String,
    pub(crate) host: HostSide,
}

/// The node's side of ztunnel's interface.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct HostSide {
    /// The veth.
    pub(crate) veth: String,
    /// The bridge that the veth is a port of, and ztunnel's MAC address, by which its packets are told apart there.
    pub(crate) bridge: Option<(String, Mac)>,
}

impl HostSide {
    /// The device that the node's IP layer sees: the bridge, or else the veth.
    pub(crate) fn device(&self) -> &str {
        self.bridge.as_ref().map_or(&self.veth, |(bridge, _)| bridge)
    }
}

/// A ztunnel and the seat that the law knows it by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seated<'a> {
    pub(crate) seat: Seat,
    pub(crate) proxy: &'a Proxy,
}

/// The pod that is to be found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ProxyPod {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
}

/// What tells namespaces with the same address apart.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Hints<'a> {
    /// Where the runtime has said that the pod is, or else where it was found before.
    pub(crate) netns: Option<NetnsId>,
    /// The node's device that leads to the address.
    pub(crate) device: Option<&'a str>,
}

/// Directories where container runtimes keep namespaces by name.
const NETNS_DIRECTORIES: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// Finds `pod`'s namespace and the node's side of its interface.
pub(crate) fn locate(node: &mut Netns, pod: &ProxyPod, hints: Hints<'_>) -> anyhow::Result<(Proxy, Netns)> {
    let node_links = links::dump(node.netlink())?;
    let (mut found, mut reasons) = (Vec::new(), Vec::new());
    let mut looked = 0;
    for file in namespaces(node.id()) {
        looked += 1;
        let Ok(mut netns) = Netns::open(file?) else { continue };
        match examine(node, &node_links, &mut netns, pod.ip) {
            Ok(Examined::Reached(interface, host)) => {
                let ProxyPod { uid, namespace, name, ip } = pod.clone();
                found.push((Proxy { uid, namespace, name, ip, netns: netns.id(), interface, host }, netns));
            }
            Ok(Examined::Another) => {}
            Ok(Examined::Unreached(reason)) => reasons.push(reason),
            Err(error) => reasons.push(format!("{error:#}")),
        }
    }
    if !found.is_empty() {
        let proxies: Vec<_> = found.iter().map(|(proxy, _)| proxy).collect();
        let chosen = choose(&proxies, hints).with_context(|| format!("find ztunnel by {}", pod.ip))?;
        return Ok(found.swap_remove(chosen));
    }
    if reasons.is_empty() {
        bail!(
            "no network namespace with address {} found (looked at {looked}, in {} and /proc/*/ns/net; does the agent see \
             the host's /run/netns or its processes?)",
            pod.ip,
            NETNS_DIRECTORIES[0]
        );
    }
    bail!("{}", reasons.join("; "))
}

/// Which of those that have the address is the pod.
fn choose(found: &[&Proxy], hints: Hints<'_>) -> anyhow::Result<usize> {
    let only = |fits: &dyn Fn(&Proxy) -> bool| {
        let mut fitting = found.iter().enumerate().filter(|(_, proxy)| fits(proxy)).map(|(at, _)| at);
        fitting.next().filter(|_| fitting.next().is_none())
    };
    let chosen = only(&|_| true)
        .or_else(|| only(&|proxy| Some(proxy.netns) == hints.netns))
        .or_else(|| only(&|proxy| Some(proxy.host.device()) == hints.device));
    chosen.with_context(|| {
        let veths: Vec<_> = found.iter().map(|proxy| proxy.host.veth.as_str()).collect();
        format!(
            "several network namespaces have it, behind {}, and nothing tells which of them is ztunnel's; the others are of pods that \
             have given it to themselves: end these",
            veths.join(" and ")
        )
    })
}

/// Finds a namespace by its identity. `None` says that there is none, and not that it could not be looked for.
pub(crate) fn find(node: NetnsId, wanted: NetnsId) -> anyhow::Result<Option<Netns>> {
    for file in namespaces(node) {
        let file = file?;
        if NetnsId::of(&file)? == wanted {
            return Netns::open(file).map(Some);
        }
    }
    Ok(None)
}

/// Whether `netns` is still what `proxy` says. A look that fails says nothing: who took it for a no would end what still runs.
pub(crate) fn still_there(node: &mut Netns, netns: &mut Netns, proxy: &Proxy) -> anyhow::Result<bool> {
    let node_links = links::dump(node.netlink())?;
    let found =
        examine(node, &node_links, netns, proxy.ip).with_context(|| format!("look at ztunnel {}", proxy.name))?;
    Ok(matches!(found, Examined::Reached(interface, host) if interface == proxy.interface && host == proxy.host))
}

/// Every network namespace but the node's, each once. What ended meanwhile, and what is not to be seen, is left out; where files cannot
/// be opened at all, nobody knows what there is.
pub(crate) fn namespaces(node: NetnsId) -> impl Iterator<Item = anyhow::Result<File>> {
    let mut seen = BTreeSet::from([node]);
    paths().filter_map(move |path| {
        let opened = File::open(&path).and_then(|file| Ok((NetnsId::of(&file)?, file)));
        match opened {
            Ok((id, file)) => seen.insert(id).then_some(Ok(file)),
            Err(error) if is_shortage(&error) => {
                Some(Err(error).with_context(|| format!("open network namespace {}", path.display())))
            }
            Err(_) => None,
        }
    })
}

/// Out of descriptors, or of memory.
fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM))
}

fn paths() -> impl Iterator<Item = PathBuf> {
    let entries = |directory: &str| fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = NETNS_DIRECTORIES.into_iter().flat_map(entries);
    let processes = entries("/proc")
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit)));
    named.chain(processes.map(|path| path.join("ns/net")))
}

/// What a namespace turned out to be.
enum Examined {
    /// It does not have the address.
    Another,
    /// It has, but is not reached over a veth of the node, for this reason.
    Unreached(String),
    /// It has it on this interface.
    Reached(String, HostSide),
}

fn examine(node: &mut Netns, node_links: &[Link], netns: &mut Netns, ip: IpAddr) -> anyhow::Result<Examined> {
    let addresses = address::observe(netns.netlink())?;
    let Some(address) = addresses.into_iter().find(|address| address.ip == ip) else { return Ok(Examined::Another) };
    let inside = links::dump(netns.netlink())?;
    let Some(interface) = inside.into_iter().find(|link| link.index == address.index) else {
        return Ok(Examined::Another);
    };
    let name = &interface.name;
    let Some(host) = host_side(node_links, &interface) else {
        let reason = format!("interface {name} of the namespace with {ip} has no veth peer on the node");
        return Ok(Examined::Unreached(reason));
    };
    if host.peer_netns != nsid(node.netlink(), netns)? {
        let reason = format!("{} is the peer of another namespace than the one with {ip}", host.name);
        return Ok(Examined::Unreached(reason));
    }
    let bridge = host.controller.and_then(|index| node_links.iter().find(|link| link.index == index));
    let bridge = match (bridge, interface.mac) {
        (Some(bridge), Some(mac)) => Some((bridge.name.clone(), mac)),
        (Some(bridge), None) => {
            return Ok(Examined::Unreached(format!("{name} on bridge {} has no MAC address", bridge.name)));
        }
        (None, _) => None,
    };
    Ok(Examined::Reached(interface.name, HostSide { veth: host.name.clone(), bridge }))
}

/// The node's veth whose peer is `interface`, and the other way round.
fn host_side<'a>(node_links: &'a [Link], interface: &Link) -> Option<&'a Link> {
    let peer = interface.peer_index?;
    node_links.iter().find(|link| {
        link.index == peer && link.kind.as_deref() == Some("veth") && link.peer_index == Some(interface.index)
    })
}

/// The id by which the node's namespace knows `netns`, if it has one (`RTM_GETNSID`, `rtnl_net_getid`).
fn nsid(netlink: &mut Netlink, netns: &Netns) -> anyhow::Result<Option<i32>> {
    let file = netns.file().context("the node's own namespace")?;
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(u32::try_from(file.as_raw_fd())?));
    let answers = netlink.ask(RouteNetlinkMessage::GetNsId(message)).context("ask for a namespace's id")?;
    let ids = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewNsId(message) => message.attributes.into_iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if id >= 0 => Some(id),
            _ => None,
        }),
        _ => None,
    });
    Ok(ids.into_iter().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_that_have_the_address_one_must_be_known() {
        let netns = |ino| NetnsId::told(redirect_cni::protocol::NetnsId { dev: 4, ino });
        let proxy = |ino, veth: &str| Proxy {
            uid: "u".into(),
            namespace: "istio-system".into(),
            name: "ztunnel".into(),
            ip: IpAddr::from([10, 0, 0, 9]),
            netns: netns(ino),
            interface: "eth0".into(),
            host: HostSide { veth: veth.into(), bridge: None },
        };
        let (pod, ztunnel) = (proxy(1, "veth1"), proxy(2, "veth2"));
        let both = [&pod, &ztunnel];
        let at = |netns, device| choose(&both, Hints { netns, device }).ok();
        assert_eq!(choose(&[&ztunnel], Hints::default()).unwrap(), 0);
        assert_eq!(at(Some(netns(2)), None), Some(1));
        assert_eq!(at(Some(netns(2)), Some("veth1")), Some(1), "the runtime knows better than a route");
        assert_eq!(at(Some(netns(3)), Some("veth2")), Some(1));
        assert_eq!(at(None, Some("cni0")), None);
        assert_eq!(at(None, None), None);
    }
}
