//! The programs that the kernel runs, one short entry per hook: parse, decide, act. What they agree on with user space, and
//! the law itself, is in `redirect-common`.

#![no_std]
#![no_main]

mod count;
mod judge;
mod maps;
mod scratch;
mod skb;
mod trace;
mod tunnel;
mod view;

use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use redirect_common::flow::Flow;
use redirect_common::maps::Counter;
use redirect_common::names::SKIP;
use redirect_common::packet::{Packet, TCP};
use redirect_common::policy::{Hook, Ingress, Seat};
use redirect_common::trace::At;

use crate::count::count;
use crate::judge::{Act, DROP, NEXT, Unreadable, judge, read, read_ip, route_not_switch};
use crate::maps::CONFIG;
use crate::skb::Skb;
use crate::trace::trace;
use crate::view::pod;

/// Ingress of a pod's host-side veth, meshed or not.
#[classifier]
pub fn redirect_from_pod(context: TcContext) -> i32 {
    from_port(&Skb::new(&context), Ingress::Other)
}

/// Ingress of ztunnel's host-side veth.
#[classifier]
pub fn redirect_from_proxy(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let seat = CONFIG.get(0).map_or(Seat::A, |config| config.seat_of(skb.device()));
    from_port(&skb, Ingress::Proxy(seat))
}

/// Ingress of what leads to other nodes.
#[classifier]
pub fn redirect_from_network(context: TcContext) -> i32 {
    mark(&Skb::new(&context), Hook::Ingress(Ingress::Other))
}

/// Ingress of what leads to other nodes without a link layer: IPIP, WireGuard, tun.
#[classifier]
pub fn redirect_from_ip(context: TcContext) -> i32 {
    read_ip(&Skb::new(&context), Unreadable::Passes, Mark(Hook::Ingress(Ingress::Other)))
}

/// Ingress of `istioin` and `istioout`.
#[classifier]
pub fn redirect_from_tunnel(context: TcContext) -> i32 {
    mark(&Skb::new(&context), Hook::Ingress(Ingress::Tunnel))
}

/// Egress of the tunnels: what the node's own sockets send to meshed pods comes here, because the table of meshed pods leads
/// into one of them. What arrived from elsewhere has been judged there, but may have been translated since.
#[classifier]
pub fn redirect_from_node(context: TcContext) -> i32 {
    tunnel::enter(&Skb::new(&context))
}

/// Egress of pods' host-side veths: TCP that comes to a meshed pod from elsewhere, and that neither ztunnel nor the law sent,
/// has lost its way into `istioin`.
#[classifier]
pub fn redirect_to_pod(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    if SKIP.matches(skb.mark()) {
        return NEXT;
    }
    if skb.is_local() {
        // The way into `istioin` is missing, or the pod is not meshed: the law holds all the same, and the replies to a probe
        // have to be known.
        return mark(&skb, Hook::Output);
    }
    read(&skb, Unreadable::Passes, Guard)
}

/// Does nothing: what the others' times are compared with.
#[classifier]
pub fn empty(_context: TcContext) -> i32 {
    NEXT
}

/// Ends the chain, as a program of somebody else's may. Tests have ours overtake it.
#[classifier]
pub fn ends(_context: TcContext) -> i32 {
    TC_ACT_OK
}

#[inline(always)]
fn mark(skb: &Skb<'_>, hook: Hook) -> i32 {
    read(skb, Unreadable::Passes, Mark(hook))
}

#[inline(always)]
fn from_port(skb: &Skb<'_>, ingress: Ingress) -> i32 {
    read(skb, Unreadable::Drops, MarkAndRoute(Hook::Ingress(ingress)))
}

/// Does what the law says.
struct Mark(Hook);

impl Act for Mark {
    #[inline(always)]
    fn act(self, skb: &Skb<'_>, packet: &Packet, flow: Option<&Flow>) -> i32 {
        judge(skb, self.0, packet, flow);
        NEXT
    }
}

/// As [`Mark`], at what may be a bridge's port.
struct MarkAndRoute(Hook);

impl Act for MarkAndRoute {
    #[inline(always)]
    fn act(self, skb: &Skb<'_>, packet: &Packet, flow: Option<&Flow>) -> i32 {
        judge(skb, self.0, packet, flow);
        route_not_switch(skb, packet);
        NEXT
    }
}

/// Drops what must not come this way.
struct Guard;

impl Act for Guard {
    #[inline(always)]
    fn act(self, skb: &Skb<'_>, packet: &Packet, _flow: Option<&Flow>) -> i32 {
        if packet.protocol != TCP || pod(packet.destination).is_none() {
            return NEXT;
        }
        count(Counter::Bypass as u32);
        if let Some(config) = CONFIG.get(0) {
            trace(config, At::ToPod, skb, packet, Counter::Bypass as u32);
        }
        DROP
    }
}

/// Some of the kernel's helpers are for programs under the GPL only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Nothing here panics; the linker wants to be sure.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
