//! Parse, decide, act: what all programs do, each at its own hook.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use redirect_common::flow::Flow;
use redirect_common::maps::Counter;
use redirect_common::names::Mark;
use redirect_common::packet::{Packet, Plain, TCP, UDP, Unparsed};
use redirect_common::policy::{Hook, decide};

use crate::count::count;
use crate::maps::{CONFIG, PORTS};
use crate::scratch::{Scratch, scratch};
use crate::skb::{Network, Skb};
use crate::trace::{at, trace};
use crate::view::{Node, pod};

/// Others' programs on the same hook run after ours.
pub(crate) const NEXT: i32 = TC_ACT_UNSPEC;
/// The packet goes no further.
pub(crate) const DROP: i32 = TC_ACT_SHOT;
/// No action yet: the packet has been read.
const READ: i32 = i32::MAX;

/// No bits: writing it changes nothing. Not an `Option`, in which nothing is undefined: where the compiler keeps that on the stack,
/// kernels before 6.3 refuse to read back what was never written (`check_stack_read_fixed_off`, kernel/bpf/verifier.c).
const NOTHING: Mark = Mark::new(0, 0);

/// What happens to IPv4 that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// The kernel drops all of it too, but for frames behind many tags, which are others' business.
    Passes,
    /// A pod hides nothing from the law: the kernel takes any number of priority tags off a frame (`__netif_receive_skb_core`).
    Drops,
}

/// What a program does with a packet that has been read. Not a closure: what is inlined in two places must say so, or the
/// kernel calls it, and then knows neither the protocol nor which map is meant, and calls the maps by pointer too.
pub(crate) trait Act {
    /// Decides and acts.
    fn act(self, skb: &Skb<'_>, packet: &Packet, flow: Option<&Flow>) -> i32;
}

/// Reads an IPv4 packet and has `then` act on it and its connection. IPv6 is not redirected yet, and passes as it is.
#[inline(always)]
pub(crate) fn read(skb: &Skb<'_>, unreadable: Unreadable, then: impl Act) -> i32 {
    if let Some(plain) = skb.plain::<TCP>() {
        read_plain(skb, &plain, unreadable, then)
    } else if let Some(plain) = skb.plain::<UDP>() {
        read_plain(skb, &plain, unreadable, then)
    } else {
        read_slowly::<true>(skb, unreadable, then)
    }
}

/// As [`read`], on a device whose packets begin with their IP header.
#[inline(always)]
pub(crate) fn read_ip(skb: &Skb<'_>, unreadable: Unreadable, then: impl Act) -> i32 {
    read_slowly::<false>(skb, unreadable, then)
}

/// Most packets: nothing of them leaves the registers.
#[inline(always)]
fn read_plain<const PROTOCOL: u8>(
    skb: &Skb<'_>,
    plain: &Plain<'_, PROTOCOL>,
    unreadable: Unreadable,
    then: impl Act,
) -> i32 {
    match Packet::ipv4_from_ethernet(plain) {
        Ok(packet) => then.act(skb, &packet, Flow::of(&packet).as_ref()),
        Err(why) => refuse(why, unreadable),
    }
}

/// What has another shape. A function of its own in the kernel too, so that it costs the others no registers.
#[inline(never)]
fn read_slowly<const ETHERNET: bool>(skb: &Skb<'_>, unreadable: Unreadable, then: impl Act) -> i32 {
    let Some(scratch) = scratch() else { return NEXT };
    match fill::<ETHERNET>(skb, unreadable, scratch) {
        // SAFETY: it has just been written.
        READ => then.act(skb, unsafe { scratch.packet() }, scratch.flow()),
        action => action,
    }
}

/// Asks the law about a packet at `hook`, does what it says, and gives the mark that it wants.
#[inline(always)]
pub(crate) fn judge(skb: &Skb<'_>, hook: Hook, packet: &Packet, flow: Option<&Flow>) -> Mark {
    // There is none only if the array of one entry had none.
    let Some(node) = Node::new(flow) else { return NOTHING };
    let verdict = decide(hook, packet, &node);
    let mark = verdict.mark.unwrap_or(NOTHING);
    count(Counter::of(verdict.row));
    skb.write_mark(mark);
    if let Some(memory) = verdict.remember {
        node.remember(memory);
    }
    trace(node.config(), at(hook), skb, packet, Counter::of(verdict.row));
    mark
}

/// A function of its own in the kernel too: what it needs of the stack is free again for what follows.
#[inline(never)]
fn fill<const ETHERNET: bool>(skb: &Skb<'_>, unreadable: Unreadable, scratch: &mut Scratch) -> i32 {
    let packet = if ETHERNET { Packet::ipv4_from_ethernet(skb) } else { Packet::ipv4_from_ip(&Network(skb)) };
    match packet {
        Ok(packet) => {
            scratch.keep(packet);
            READ
        }
        Err(why) => refuse(why, unreadable),
    }
}

/// What cannot be read, or is not for us.
#[inline(always)]
fn refuse(why: Unparsed, unreadable: Unreadable) -> i32 {
    let (counter, action) = match why {
        Unparsed::NotIp => (Counter::Other, NEXT),
        _ if unreadable == Unreadable::Drops => (Counter::UnparsedDropped, DROP),
        _ => (Counter::Unparsed, NEXT),
    };
    count(counter as u32);
    action
}

/// On a bridge's port: TCP from or to a meshed pod is addressed to the bridge, so that the node routes it by its mark; pods of
/// one bridge would else reach each other by switching.
#[inline(always)]
pub(crate) fn route_not_switch(skb: &Skb<'_>, packet: &Packet) {
    if packet.protocol != TCP || CONFIG.get(0).is_none_or(|config| config.bridged == 0) {
        return;
    }
    // SAFETY: the record never changes but by being replaced as a whole.
    let Some(port) = (unsafe { PORTS.get(&skb.device()) }) else { return };
    if pod(packet.source).is_some() || pod(packet.destination).is_some() {
        skb.address_to(port.bridge);
    }
}
