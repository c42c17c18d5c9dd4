//! Parse, decide, act: what all programs do, each at its own hook.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use redirect_common::maps::Counter;
use redirect_common::packet::{Packet, TCP, Unparsed};
use redirect_common::policy::{Hook, Verdict, decide};

use crate::count::count;
use crate::maps::PORTS;
use crate::scratch::Scratch;
use crate::skb::Skb;
use crate::view::{Node, pod};

/// Others' programs on the same hook run after ours.
pub(crate) const NEXT: i32 = TC_ACT_UNSPEC;
/// The packet goes no further.
pub(crate) const DROP: i32 = TC_ACT_SHOT;
/// No action yet: the packet has been read.
const READ: i32 = i32::MAX;

/// What happens to IPv4 that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// The kernel drops all of it too, but for frames behind many tags, which are others' business.
    Passes,
    /// A pod hides nothing from the law: the kernel takes any number of priority tags off a frame (`__netif_receive_skb_core`).
    Drops,
}

/// Judges the packet at `hook` and writes what the law says. `Err` is the action for what the law does not see.
#[inline(always)]
pub(crate) fn judge<'s>(
    skb: &Skb<'_>,
    hook: Hook,
    unreadable: Unreadable,
    scratch: &'s mut Scratch,
) -> Result<(&'s Packet, Verdict), i32> {
    read(skb, unreadable, scratch)?;
    // SAFETY: one has been read.
    let packet = unsafe { scratch.packet() };
    let Some(node) = Node::new(scratch.flow()) else { return Err(NEXT) };
    let verdict = decide(hook, packet, &node);
    count(Counter::of(verdict.row));
    if let Some(mark) = verdict.mark {
        skb.write_mark(mark);
    }
    if let Some(memory) = verdict.remember {
        node.remember(memory);
    }
    Ok((packet, verdict))
}

/// Reads an IPv4 packet. IPv6 is not redirected yet, and passes as it is.
#[inline(always)]
pub(crate) fn read<'s>(skb: &Skb<'_>, unreadable: Unreadable, scratch: &'s mut Scratch) -> Result<&'s Packet, i32> {
    match fill(skb, unreadable, scratch) {
        // SAFETY: it has just been written.
        READ => Ok(unsafe { scratch.packet() }),
        action => Err(action),
    }
}

/// A function of its own in the kernel too: what it needs of the stack is free again for what follows.
#[inline(never)]
fn fill(skb: &Skb<'_>, unreadable: Unreadable, scratch: &mut Scratch) -> i32 {
    match Packet::ipv4_from_ethernet(skb) {
        Ok(packet) => {
            scratch.keep(packet);
            READ
        }
        Err(Unparsed::NotIp) => {
            count(Counter::Other as u32);
            NEXT
        }
        Err(_) if unreadable == Unreadable::Drops => {
            count(Counter::UnparsedDropped as u32);
            DROP
        }
        Err(_) => {
            count(Counter::Unparsed as u32);
            NEXT
        }
    }
}

/// On a bridge's port: TCP from or to a meshed pod is addressed to the bridge, so that the node routes it by its mark; pods of
/// one bridge would else reach each other by switching.
#[inline(always)]
pub(crate) fn route_not_switch(skb: &Skb<'_>, packet: &Packet) {
    if packet.protocol != TCP {
        return;
    }
    // SAFETY: the record never changes but by being replaced as a whole.
    let Some(port) = (unsafe { PORTS.get(&skb.device()) }) else { return };
    if pod(packet.source).is_some() || pod(packet.destination).is_some() {
        skb.address_to(port.bridge);
    }
}
