//! TCP connections that end in a network namespace, and ending them, as `ss -K` does (`sock_diag(7)`, `net/ipv4/inet_diag.c`).

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::errno::Errno;

use super::netlink::{Message, Netlink, NetlinkError};

impl Message for SockDiagMessage {
    fn what(&self) -> String {
        "look for sockets".to_owned()
    }
}

impl Message for SockDiagDestroy {
    fn what(&self) -> String {
        "destroy socket".to_owned()
    }
}

/// Ends the IPv4 connections in the calling thread's network namespace whose local address is `wanted`: who is at the other end is sent a
/// reset, and the socket's owner is told `ECONNABORTED` (`tcp_abort`). Says how many there were.
///
/// # Errors
/// `EOPNOTSUPP`: the kernel has no `CONFIG_INET_DIAG_DESTROY`. `ENOENT`: it has no `tcp_diag`, and cannot load it.
pub(crate) fn end_connections(wanted: impl Fn(Ipv4Addr) -> bool) -> Result<usize, NetlinkError> {
    let mut netlink = Netlink::open_for(NETLINK_SOCK_DIAG)?;
    let mut ended = 0;
    // A socket for both families has mapped addresses.
    for family in [AF_INET, AF_INET6] {
        for answer in netlink.dump(&SockDiagMessage::InetRequest(connections(family, SocketId::new_v4())))? {
            let SockDiagMessage::InetResponse(response) = answer else { continue };
            let id = response.header.socket_id;
            if !matches!(id.source_address.to_canonical(), IpAddr::V4(ip) if wanted(ip)) {
                continue;
            }
            let one = SockDiagDestroy::new(SockDiagMessage::InetRequest(connections(family, id)));
            match netlink.request(one, 0) {
                Ok(_) => ended += 1,
                // It has ended by itself.
                Err(error) if error.is(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ended)
}

/// Those that are open at one end at least; which one, or all.
fn connections(family: u8, socket_id: SocketId) -> InetRequest {
    let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT - StateFlags::CLOSE;
    InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_and_what_is_over_are_not_asked_for() {
        let states = connections(AF_INET, SocketId::new_v4()).states;
        assert!(states.contains(StateFlags::ESTABLISHED | StateFlags::SYN_RECV | StateFlags::CLOSE_WAIT));
        assert!(!states.intersects(StateFlags::LISTEN | StateFlags::TIME_WAIT | StateFlags::CLOSE));
    }
}
