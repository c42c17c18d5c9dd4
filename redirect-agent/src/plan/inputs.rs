//! What the plan is made from.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use redirect_common::policy::Seat;

use crate::config::Mode;
use crate::facts::Facts;
use crate::proxy::Seated;

/// What the plan is made from.
pub(crate) struct Inputs<'a> {
    /// The node as it is.
    pub(crate) facts: &'a Facts,
    /// Addresses of the meshed pods of this node.
    pub(crate) meshed: &'a BTreeSet<Ipv4Addr>,
    /// Those of them that pass as if they were not meshed while ztunnel is away.
    pub(crate) may_bypass: &'a BTreeSet<Ipv4Addr>,
    /// No ztunnel was Ready, and none has been programmed since.
    pub(crate) proxy_is_away: bool,
    /// Those of them whose packets are logged.
    pub(crate) traced: &'a BTreeSet<Ipv4Addr>,
    /// ztunnel; a former one while there is no other, so that its pods stay blocked and not bypassed.
    pub(crate) proxy: Option<Seated<'a>>,
    /// Another one, on the other seat.
    pub(crate) beside: Option<Beside<'a>>,
    /// The node's address that tunnels end at.
    pub(crate) node_ip: Option<Ipv4Addr>,
    /// UDP port of the tunnels, host byte order.
    pub(crate) tunnel_port: u16,
    /// The modes that stand: one, and two while the node changes over.
    pub(crate) modes: &'a [Mode],
    /// `net.ipv4.conf.all.rp_filter` of the node and of ztunnel's namespace.
    pub(crate) all_rp_filter: AllRpFilter,
}

/// A ztunnel to which no new connections go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Beside<'a> {
    /// They will as soon as all stands that it needs.
    Coming(Seated<'a>),
    /// They did; what it began goes on with it.
    Draining(Seated<'a>),
}

impl<'a> Beside<'a> {
    pub(crate) fn seated(self) -> Seated<'a> {
        match self {
            Self::Coming(seated) | Self::Draining(seated) => seated,
        }
    }
}

impl<'a> Inputs<'a> {
    /// Addresses that are redirected, or blocked for as long as they cannot be. Who is bypassed is a member of nothing: neither of what
    /// marks, nor of what blocks.
    pub(crate) fn members(&self) -> impl Iterator<Item = Ipv4Addr> {
        let is_bypassed = |ip: &Ipv4Addr| self.proxy_is_away && self.may_bypass.contains(ip);
        self.meshed.iter().copied().filter(move |ip| !is_bypassed(ip))
    }

    /// Every ztunnel that there is, in the order of their seats: who is the one to turn to makes no difference.
    pub(crate) fn proxies(&self) -> impl Iterator<Item = Seated<'a>> {
        let both = [self.proxy, self.beside.map(Beside::seated)];
        Seat::ALL.into_iter().filter_map(move |seat| both.into_iter().flatten().find(|seated| seated.seat == seat))
    }

    /// Those that have a way back of their own, ahead of table 102: while one comes the other needs it too, so that the table can turn to
    /// the new one.
    pub(crate) fn with_own_way_back(&self) -> impl Iterator<Item = Seated<'a>> {
        let (both, one) = match self.beside {
            Some(Beside::Coming(seated)) => (self.proxy, Some(seated)),
            Some(Beside::Draining(seated)) => (None, Some(seated)),
            None => (None, None),
        };
        both.into_iter().chain(one)
    }
}

/// `net.ipv4.conf.all.rp_filter` of both namespaces.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct AllRpFilter {
    pub(crate) node: u8,
    pub(crate) proxy: u8,
}
