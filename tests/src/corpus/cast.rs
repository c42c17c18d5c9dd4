//! Who speaks in the corpus: the addresses of a node with pods, its ztunnel, and what is around it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use redirect_common::policy::Seat;

/// A meshed pod of this node.
pub const MESHED: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
/// Another one, numbered right behind it.
pub const MESHED_B: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 6);
/// A pod of this node that is not meshed.
pub const UNMESHED: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 9);
/// The addresses around the meshed ones belong to no meshed pod.
pub const BEFORE_MESHED: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 4);
/// See [`BEFORE_MESHED`].
pub const AFTER_MESHED: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);
/// ztunnel's own.
pub const PROXY: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 3);
/// One below it.
pub const BEFORE_PROXY: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 2);
/// One above it.
pub const AFTER_PROXY: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 4);
/// That of the ztunnel beside it.
pub const PROXY_B: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 9);
/// The node's address.
pub const NODE: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
/// The node's other address.
pub const NODE_B: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 3);
/// One above them: nobody's.
pub const AFTER_NODE: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 4);
/// Another node.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 7);
/// A pod of another node.
pub const REMOTE_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 9, 8);
/// A server outside of the cluster.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// The cluster's address of a service.
pub const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The cluster's DNS service.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 53);

/// A meshed pod of this node.
pub const MESHED6: Ipv6Addr = v6(1, 5);
/// A pod of this node that is not meshed.
pub const UNMESHED6: Ipv6Addr = v6(1, 9);
/// ztunnel's own.
pub const PROXY6: Ipv6Addr = v6(2, 3);
/// The node's address.
pub const NODE6: Ipv6Addr = v6(0, 2);
/// Another node.
pub const REMOTE6: Ipv6Addr = v6(0, 7);

const fn v6(subnet: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, subnet, 0, 0, 0, host)
}

/// All addresses of meshed pods of this node.
pub const ALL_MESHED: [IpAddr; 3] = [IpAddr::V4(MESHED), IpAddr::V4(MESHED_B), IpAddr::V6(MESHED6)];
/// All addresses of the node.
pub const ALL_NODE: [IpAddr; 3] = [IpAddr::V4(NODE), IpAddr::V4(NODE_B), IpAddr::V6(NODE6)];
/// All addresses of ztunnels, with their seats.
pub const ALL_PROXY: [(Seat, IpAddr); 3] =
    [(Seat::A, IpAddr::V4(PROXY)), (Seat::A, IpAddr::V6(PROXY6)), (Seat::B, IpAddr::V4(PROXY_B))];
