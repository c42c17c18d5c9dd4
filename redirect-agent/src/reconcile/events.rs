//! Listens to what the kernel says of changes in a namespace. The loop looks for itself, so an event that is lost or misunderstood costs
//! time, never truth. What it says is read only where others make so much of it that looking each time would cost too much: of nftables, in
//! which kube-proxy writes all day, the names of table and chain.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};
use nix::errno::Errno;
use redirect_common::names::{BRIDGE_TABLE, CHAIN_PREFIX};
use tokio::time::sleep;

use super::apply::Place;
use super::cause::{Cause, Classes};
use super::doorbell::Doorbell;
use crate::datapaths::iptables;
use crate::kernel::netns::Netns;
use crate::kernel::nftables::{self, Changed, FAMILY_IPV4};

/// rtnetlink groups (`include/uapi/linux/rtnetlink.h`): link, IPv4 address, route, rule, interface settings. Neighbours (3) are
/// left to the timer: the kernel tells of every step of ARP on every device, so a busy node would never be quiet, and a
/// filter would have to read events. Until the timer looks, ARP answers for an entry of ours that is gone.
const ROUTE_GROUPS: [u32; 5] = [1, 5, 7, 8, 24];
/// Another of them: qdiscs and filters. Of a TCX link that is detached nobody tells, but the program's pin stands.
const TC_GROUPS: [u32; 1] = [4];
/// nfnetlink groups (`include/uapi/linux/netfilter/nfnetlink_compat.h`): nftables. Legacy iptables and ipset say nothing.
const NETFILTER_GROUPS: [u32; 1] = [7];
/// Before a socket that fails is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// As much as the kernel puts into one notification of nftables (`NLMSG_GOODSIZE`, include/linux/netlink.h), or more.
const BUFFER: usize = 8192;

/// Follows a namespace until it is dropped.
pub(super) struct Watch(Vec<tokio::task::AbortHandle>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// Rings `doorbell` whenever something changes in `netns`, which is the node's or ztunnel's.
pub(super) fn watch(netns: &Netns, place: Place, doorbell: &Arc<Doorbell>) -> anyhow::Result<Watch> {
    let sockets: [(_, _, Tells); 3] = [
        (NETLINK_ROUTE, &ROUTE_GROUPS[..], |_| Classes::ROUTING),
        (NETLINK_ROUTE, &TC_GROUPS[..], |_| Classes::PROGRAMS | Classes::AHEAD),
        (NETLINK_NETFILTER, &NETFILTER_GROUPS[..], of_nftables),
    ];
    let tasks = sockets.into_iter().map(|(protocol, groups, tells)| {
        let cause = move |said: Option<&[u8]>| match place {
            Place::Node => Cause::node(tells(said)),
            Place::Proxy => Cause::proxy(tells(said)),
        };
        let socket = netns.run(|| open(protocol, groups))?.context("listen to the kernel's netlink notifications")?;
        Ok(tokio::spawn(follow(socket, cause, Arc::clone(doorbell))).abort_handle())
    });
    Ok(Watch(tasks.collect::<anyhow::Result<_>>()?))
}

/// What may have changed, by what was said; `None` where that is not known.
type Tells = fn(Option<&[u8]>) -> Classes;

fn of_nftables(said: Option<&[u8]>) -> Classes {
    let Some(changes) = said.and_then(nftables::changes) else { return Classes::NFTABLES };
    changes.iter().map(of_change).fold(Classes::NONE, |all, classes| all | classes)
}

fn of_change(change: &Changed<'_>) -> Classes {
    let leads = |chain: &str| chain.starts_with(CHAIN_PREFIX) || iptables::HOOKS.contains(&chain);
    if change.table == BRIDGE_TABLE {
        Classes::GUARD_TOLD
    } else if change.family == FAMILY_IPV4 && iptables::TABLES.contains(&change.table) && change.chain.is_none_or(leads)
    {
        Classes::CHAIN_TOLD
    } else {
        Classes::NONE
    }
}

fn open(protocol: isize, groups: &[u32]) -> std::io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind_auto()?;
    for group in groups {
        socket.socket_mut().add_membership(*group)?;
    }
    Ok(socket)
}

async fn follow(socket: TokioSocket, cause: impl Fn(Option<&[u8]>) -> Cause, doorbell: Arc<Doorbell>) {
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        let received = socket.recv(&mut buffer).await;
        match received {
            Ok(()) => doorbell.ring(cause(Some(&buffer))),
            // Something changed that did not fit (`netlink_overrun`, net/netlink/af_netlink.c).
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                doorbell.ring(cause(None));
                tracing::debug!("netlink notifications were lost");
            }
            Err(error) => {
                doorbell.ring(cause(None));
                tracing::warn!(%error, "netlink notifications cannot be read; until they can, the timer looks");
                sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_into_nftables_rings_nobody() {
        let told = |family, table, chain| of_change(&Changed { family, table, chain });
        for (table, chain) in [("nat", "PREROUTING"), ("filter", "KUBE-FORWARD"), ("mangle", "KUBE-KUBELET-CANARY")] {
            assert_eq!(told(FAMILY_IPV4, table, Some(chain)), Classes::NONE);
        }
        assert_eq!(told(10, "mangle", Some("PREROUTING")), Classes::NONE, "IPv6");
        for chain in [None, Some("PREROUTING"), Some("ztunnel-PREROUTING")] {
            assert_eq!(told(FAMILY_IPV4, "mangle", chain), Classes::CHAIN_TOLD);
        }
        assert_eq!(told(7, BRIDGE_TABLE, Some("prerouting")), Classes::GUARD_TOLD);
        assert_eq!(of_nftables(None), Classes::NFTABLES);
        assert_eq!(of_nftables(Some(&[1, 2, 3])), Classes::NFTABLES);
    }
}
