//! What the plan is made from.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::config::Mode;
use crate::facts::Facts;
use crate::proxy::Proxy;

/// What the plan is made from.
pub(crate) struct Inputs<'a> {
    /// The node as it is.
    pub(crate) facts: &'a Facts,
    /// Addresses of the meshed pods of this node.
    pub(crate) meshed: &'a BTreeSet<Ipv4Addr>,
    /// Those of them whose packets are logged.
    pub(crate) traced: &'a BTreeSet<Ipv4Addr>,
    /// ztunnel; a former one while there is no other, so that its pods stay blocked and not bypassed.
    pub(crate) proxy: Option<&'a Proxy>,
    /// The node's address that tunnels end at.
    pub(crate) node_ip: Option<Ipv4Addr>,
    /// UDP port of the tunnels, host byte order.
    pub(crate) tunnel_port: u16,
    /// The modes that stand: one, and two while the node changes over.
    pub(crate) modes: &'a [Mode],
    /// `net.ipv4.conf.all.rp_filter` of the node and of ztunnel's namespace.
    pub(crate) all_rp_filter: AllRpFilter,
}

/// `net.ipv4.conf.all.rp_filter` of both namespaces.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct AllRpFilter {
    pub(crate) node: u8,
    pub(crate) proxy: u8,
}
