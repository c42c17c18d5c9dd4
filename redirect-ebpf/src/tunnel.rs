//! What is on its way into a tunnel, and belongs elsewhere: it is sent there from here.
//!
//! - *What a local socket sends to a meshed pod.* The node has routed it already, unmarked and so into `istioin`.
//! - *What answers a ztunnel from behind another address*: a service's, or the node's where it stands in for pods towards the
//!   world. When it arrived nothing was known of its ends; conntrack has put those back in the meantime that ztunnel knows. Without
//!   this it would take the tunnel, and so reach the ztunnel that new connections go to, which need not be the one that asked.

use core::net::{IpAddr, Ipv4Addr};

use aya_ebpf::bindings::{bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::helpers::bpf_redirect_neigh;
use redirect_common::flow::Flow;
use redirect_common::maps::{Counter, Way};
use redirect_common::names::SKIP;
use redirect_common::packet::Packet;
use redirect_common::policy::{Hook, Memory, Row, Seat, View as _};
use redirect_common::trace::At;

use crate::count::count;
use crate::judge::{Act, NEXT, Unreadable, judge, read};
use crate::maps::CONFIG;
use crate::skb::Skb;
use crate::trace::trace;
use crate::view::{Node, pod};

/// `AF_INET` (`include/linux/socket.h`).
const AF_INET: u32 = 2;

/// Sends it on, or lets it into the tunnel.
#[inline(always)]
pub(crate) fn enter(skb: &Skb<'_>) -> i32 {
    read(skb, Unreadable::Passes, Enter)
}

struct Enter;

impl Act for Enter {
    #[inline(always)]
    fn act(self, skb: &Skb<'_>, packet: &Packet, flow: Option<&Flow>) -> i32 {
        if skb.is_local() { send(skb, packet, flow) } else { recall(skb, packet, flow) }
    }
}

/// Does what the law says of a local socket's packet.
#[inline(always)]
fn send(skb: &Skb<'_>, packet: &Packet, flow: Option<&Flow>) -> i32 {
    match judge(skb, Hook::Output, packet, flow) {
        mark if SKIP.matches(mark.value()) => match pod(packet.destination) {
            Some(pod) => match packet.destination {
                IpAddr::V4(ip) => to(pod.device, ip),
                IpAddr::V6(_) => NEXT,
            },
            None => NEXT,
        },
        mark if Seat::A.way_back().matches(mark.value()) => back(Seat::A),
        mark if Seat::B.way_back().matches(mark.value()) => back(Seat::B),
        _ => NEXT,
    }
}

/// Row 4, once more.
#[inline(always)]
fn recall(skb: &Skb<'_>, packet: &Packet, flow: Option<&Flow>) -> i32 {
    let Some(node) = Node::new(flow) else { return NEXT };
    let Some(Memory::Proxy(seat)) = node.memory(packet) else { return NEXT };
    skb.write_mark(seat.way_back());
    count(Counter::of(Row::KnownProxy));
    trace(node.config(), At::IntoTunnel, skb, packet, Counter::of(Row::KnownProxy));
    back(seat)
}

/// To the ztunnel on this seat.
#[inline(always)]
fn back(seat: Seat) -> i32 {
    match CONFIG.get(0).map(|config| config.way(seat)) {
        Some(Way { ip, device }) => to(*device, ip.ip()),
        None => NEXT,
    }
}

/// By way of `device` to the neighbour `ip`; on into the tunnel where no device is known.
#[inline(always)]
fn to(device: u32, ip: Ipv4Addr) -> i32 {
    if device == 0 {
        return NEXT;
    }
    let next_hop = bpf_redir_neigh__bindgen_ty_1 { ipv4_nh: u32::from_ne_bytes(ip.octets()) };
    let mut params = bpf_redir_neigh { nh_family: AF_INET, __bindgen_anon_1: next_hop };
    // SAFETY: the parameters live until the call returns, and their size is what the kernel is told.
    unsafe { bpf_redirect_neigh(device, &raw mut params, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}
