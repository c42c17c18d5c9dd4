//! Listens to what the kernel says of changes in a namespace. What it says is not read: the loop looks for itself, so an
//! event that is lost or misunderstood costs time, never truth.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};
use nix::errno::Errno;
use tokio::time::sleep;

use super::apply::Place;
use super::cause::{Cause, Classes};
use super::doorbell::Doorbell;
use crate::kernel::netns::Netns;

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
/// Only the fact that something came is of interest.
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
    let sockets = [
        (NETLINK_ROUTE, &ROUTE_GROUPS[..], Classes::ROUTING),
        (NETLINK_ROUTE, &TC_GROUPS[..], Classes::PROGRAMS | Classes::AHEAD),
        (NETLINK_NETFILTER, &NETFILTER_GROUPS[..], Classes::NFTABLES),
    ];
    let tasks = sockets.into_iter().map(|(protocol, groups, classes)| {
        let cause = match place {
            Place::Node => Cause::node(classes),
            Place::Proxy => Cause::proxy(classes),
        };
        let socket = netns.run(|| open(protocol, groups))?.context("listen to the kernel's netlink notifications")?;
        Ok(tokio::spawn(follow(socket, cause, Arc::clone(doorbell))).abort_handle())
    });
    Ok(Watch(tasks.collect::<anyhow::Result<_>>()?))
}

fn open(protocol: isize, groups: &[u32]) -> std::io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind_auto()?;
    for group in groups {
        socket.socket_mut().add_membership(*group)?;
    }
    Ok(socket)
}

async fn follow(socket: TokioSocket, cause: Cause, doorbell: Arc<Doorbell>) {
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        let received = socket.recv(&mut buffer).await;
        doorbell.ring(cause);
        match received {
            Ok(()) => {}
            // Something changed that did not fit (`netlink_overrun`, net/netlink/af_netlink.c).
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                tracing::debug!("netlink notifications were lost");
            }
            Err(error) => {
                tracing::warn!(%error, "netlink notifications cannot be read; until they can, the timer looks");
                sleep(PAUSE).await;
            }
        }
    }
}
