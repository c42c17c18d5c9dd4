//! What a local socket sends to a meshed pod. The node has routed it already, unmarked and so into `istioin`; what the law
//! wants elsewhere is sent there from here.

use core::net::{IpAddr, Ipv4Addr};

use aya_ebpf::bindings::{bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::helpers::bpf_redirect_neigh;
use redirect_common::flow::Flow;
use redirect_common::names::{PROXY_RETURN, SKIP};
use redirect_common::packet::Packet;
use redirect_common::policy::Hook;

use crate::judge::{Act, NEXT, Unreadable, judge, read};
use crate::maps::CONFIG;
use crate::skb::Skb;
use crate::view::pod;

/// `AF_INET` (`include/linux/socket.h`).
const AF_INET: u32 = 2;

/// Judges it and sends it on.
#[inline(always)]
pub(crate) fn send(skb: &Skb<'_>) -> i32 {
    read(skb, Unreadable::Passes, Send)
}

struct Send;

impl Act for Send {
    #[inline(always)]
    fn act(self, skb: &Skb<'_>, packet: &Packet, flow: Option<&Flow>) -> i32 {
        match judge(skb, Hook::Output, packet, flow) {
            mark if SKIP.matches(mark.value()) => match pod(packet.destination) {
                Some(pod) => match packet.destination {
                    IpAddr::V4(ip) => to(pod.device, ip),
                    IpAddr::V6(_) => NEXT,
                },
                None => NEXT,
            },
            PROXY_RETURN => match CONFIG.get(0) {
                Some(config) => to(config.proxy_device, config.proxy.ip()),
                None => NEXT,
            },
            _ => NEXT,
        }
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
