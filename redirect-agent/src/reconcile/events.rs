//! Listens to what the kernel says of changes in a namespace. What it says is not read: the loop looks for itself, so an
//! event that is lost or misunderstood costs time, never truth.

use std::sync::Arc;

use anyhow::Context as _;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};

use super::doorbell::{Cause, Doorbell};
use crate::kernel::netns::Netns;

/// rtnetlink groups (`include/uapi/linux/rtnetlink.h`): link, IPv4 address, route, rule, interface settings. Neighbours (3) are
/// left to the timer: the kernel tells of every step of ARP on every device, so a busy node would never be quiet, and a
/// filter would have to read events. Until the timer looks, ARP answers for an entry of ours that is gone.
const ROUTE_GROUPS: [u32; 5] = [1, 5, 7, 8, 24];
/// nfnetlink groups (`include/uapi/linux/netfilter/nfnetlink_compat.h`): nftables. Legacy iptables and ipset say nothing.
const NETFILTER_GROUPS: [u32; 1] = [7];
/// Only the fact that something came is of interest.
const BUFFER: usize = 8192;

/// Follows a namespace until it is dropped.
pub(super) struct Watch(Vec<tokio::task::AbortHandle>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// Rings `doorbell` whenever something changes in `netns`.
pub(super) fn watch(netns: &Netns, doorbell: &Arc<Doorbell>) -> anyhow::Result<Watch> {
    let sockets = [
        (NETLINK_ROUTE, &ROUTE_GROUPS[..], Cause::Routing),
        (NETLINK_NETFILTER, &NETFILTER_GROUPS[..], Cause::Anything),
    ];
    let tasks = sockets.into_iter().map(|(protocol, groups, cause)| {
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
        // An error is an overrun (ENOBUFS): something changed that did not fit.
        if let Err(error) = socket.recv(&mut buffer).await {
            tracing::debug!(%error, "netlink notifications were lost");
            tokio::task::yield_now().await;
        }
        doorbell.ring(cause);
    }
}
