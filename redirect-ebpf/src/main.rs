//! The programs that the kernel runs, one short entry per hook: parse, decide, act. What they agree on with user space, and
//! the law itself, is in `redirect-common`.
//!
//! For now there is one program, and it only looks: it counts packets by whether their source is a meshed pod, and leaves
//! every packet and every mark as they are. It shows that the toolchain, the loader and the verifiers of all kernels agree;
//! `--mode ebpf`, which decides and marks, is built on it.

#![no_std]
#![no_main]

mod count;
mod maps;
mod skb;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use redirect_common::packet::Packet;

use crate::count::{Counter, count};
use crate::skb::Skb;

/// On the ingress of a pod's host-side veth. It gives no verdict of its own: others' programs on the same hook run after it.
#[classifier]
pub fn redirect_from_pod(context: TcContext) -> i32 {
    count(look(&Skb::new(&context)));
    TC_ACT_UNSPEC
}

fn look(skb: &Skb<'_>) -> Counter {
    match Packet::from_ethernet(skb) {
        Ok(packet) if maps::is_meshed(packet.source) => Counter::Meshed,
        Ok(_) => Counter::Other,
        Err(_) => Counter::Unparsed,
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
