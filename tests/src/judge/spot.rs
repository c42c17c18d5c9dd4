//! Where a segment may be seen. The rule of the judge, and nothing else: no state, no packets.
//!
//! A connection that has to pass the proxy may show under its client's own address and port where the client is, on the way from there
//! to a proxy, and at a proxy. The proxy's connection onward has another port and is no matter of this rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use redirect_common::names::TUNNELS;

use crate::layout::{BRIDGE, NODE, REMOTE, UPLINK};

/// A link of a network namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Spot {
    /// Whose namespace: `node`, `remote` or a pod.
    pub host: String,
    /// The link's name.
    pub link: String,
}

/// As a reader looks for it.
impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.link, self.host)
    }
}

/// What is known of the node's links and of pods. Nothing is ever taken away: what was a pod's veth is not another one's later, and what
/// was sent to a proxy that has gone was still sent to a proxy.
#[derive(Clone, Default, Debug)]
pub(super) struct Surroundings {
    /// The node's ends of pods' veths.
    pub(super) veths: BTreeMap<String, String>,
    /// The pods that are proxies.
    pub(super) proxies: BTreeSet<String>,
}

/// What a spot is to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part<'a> {
    /// In a pod, or at the node's end of its veth.
    Pod(&'a str),
    /// The wire between the nodes.
    Wire,
    /// An end of a tunnel on the node.
    Tunnel,
    /// The bridge on which all pods are.
    Bridge,
    /// Loopback of the node, and whatever nobody knows.
    Elsewhere,
}

impl Surroundings {
    /// Whether a segment of a connection from `client`, which has to pass a proxy, may be at this spot; inside a tunnel or not.
    #[must_use]
    pub(super) fn is_on_its_way(&self, client: &str, spot: &Spot, tunnelled: bool) -> bool {
        match self.part(spot) {
            Part::Pod(pod) if self.proxies.contains(pod) => true,
            Part::Bridge => true,
            // The tunnel's own packets are for a proxy, and leave by its veth: whoever gets them at another place can read what is inside.
            _ if tunnelled => false,
            Part::Pod(pod) => pod == client,
            Part::Wire => client == REMOTE,
            Part::Tunnel => true,
            Part::Elsewhere => false,
        }
    }

    /// Whether it is where the connection begins.
    #[must_use]
    pub(super) fn is_at(&self, client: &str, spot: &Spot) -> bool {
        let there = match self.part(spot) {
            Part::Pod(pod) => pod == client,
            Part::Wire => client == REMOTE,
            Part::Tunnel | Part::Bridge | Part::Elsewhere => false,
        };
        there || client == NODE && spot.host == NODE
    }

    /// Whether it is at a proxy.
    #[must_use]
    pub(super) fn is_at_proxy(&self, spot: &Spot) -> bool {
        matches!(self.part(spot), Part::Pod(pod) if self.proxies.contains(pod))
    }

    fn part<'a>(&'a self, spot: &'a Spot) -> Part<'a> {
        let link = spot.link.as_str();
        match spot.host.as_str() {
            REMOTE => Part::Wire,
            NODE if link == UPLINK => Part::Wire,
            NODE if link == BRIDGE => Part::Bridge,
            NODE if TUNNELS.iter().any(|tunnel| link.starts_with(tunnel.node_link)) => Part::Tunnel,
            NODE => self.veths.get(link).map_or(Part::Elsewhere, |pod| Part::Pod(pod)),
            pod => Part::Pod(pod),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings() -> Surroundings {
        let veths = [("vethA", "app-a"), ("vethB", "app-b"), ("vethP", "plain"), ("vethZ", "ztunnel")];
        Surroundings {
            veths: veths.map(|(veth, pod)| (veth.to_owned(), pod.to_owned())).into(),
            proxies: ["ztunnel".to_owned()].into(),
        }
    }

    /// The spots at which each kind of packet may be, of these.
    fn allowed(client: &str, tunnelled: bool) -> Vec<String> {
        let node =
            ["vethA", "vethB", "vethP", "vethZ", "vethX", "istioin", "istioout", "istioout1", "cni0", "eth0", "lo"];
        let elsewhere = ["app-a", "app-b", "plain", "ztunnel", "remote"];
        let spots = node.map(|link| (NODE, link)).into_iter().chain(elsewhere.map(|host| (host, "eth0")));
        let spots = spots.map(|(host, link)| Spot { host: host.to_owned(), link: link.to_owned() });
        let known = surroundings();
        spots.filter(|spot| known.is_on_its_way(client, spot, tunnelled)).map(|spot| spot.to_string()).collect()
    }

    #[test]
    fn from_a_meshed_pod_to_the_proxy_and_nowhere_else() {
        let way = ["vethA of node", "vethZ of node", "istioin of node", "istioout of node", "istioout1 of node"];
        assert_eq!(allowed("app-a", false)[..5], way);
        assert_eq!(allowed("app-a", false)[5..], ["cni0 of node", "eth0 of app-a", "eth0 of ztunnel"]);
    }

    #[test]
    fn from_another_node_by_the_wire() {
        let found = allowed("remote", false);
        let way = ["vethZ of node", "istioin of node", "istioout of node", "istioout1 of node", "cni0 of node"];
        assert_eq!(found[..5], way);
        assert_eq!(found[5..], ["eth0 of node", "eth0 of ztunnel", "eth0 of remote"]);
    }

    #[test]
    fn the_inside_of_a_tunnel_is_for_the_proxy_alone() {
        for client in ["app-a", "remote"] {
            assert_eq!(allowed(client, true), ["vethZ of node", "cni0 of node", "eth0 of ztunnel"]);
        }
    }

    #[test]
    fn where_a_connection_begins() {
        let known = surroundings();
        let at = |client: &str, host: &str, link: &str| {
            known.is_at(client, &Spot { host: host.to_owned(), link: link.to_owned() })
        };
        assert!(at("app-a", "app-a", "eth0") && at("app-a", NODE, "vethA") && at(REMOTE, REMOTE, "eth0"));
        assert!(!at("app-a", "app-b", "eth0") && !at("app-a", NODE, "vethB") && !at("app-a", NODE, "eth0"));
        assert!(at(NODE, NODE, "lo") && !at(NODE, "plain", "eth0"));
    }
}
