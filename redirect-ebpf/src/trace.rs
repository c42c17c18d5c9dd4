//! Lines about packets of pods that are traced. Off, it costs a packet one comparison of what has been looked up anyway.
//!
//! A line is a record in the format of aya-log, written by hand: the macros of aya-log-ebpf read their level from `.rodata`, a map
//! that every load makes anew, so that no agent could know an earlier one's programs for its own. What `redirect_common::trace`
//! says, in numbers, is what the record holds.

use core::net::IpAddr;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use aya_log_common::{ArgumentKind, Level, RecordFieldKind};
use redirect_common::maps::{Address, Config, Pod, Tracing};
use redirect_common::packet::Packet;
use redirect_common::policy::{Hook, Ingress};
use redirect_common::trace::At;

use crate::maps::PODS;
use crate::skb::Skb;

/// Some hundred lines: more than come before the agent reads.
const LOG_BYTES: u32 = 1 << 16;
/// From nanoseconds to [`Tracing::window`].
const WINDOW: u32 = 30;

#[map]
static AYA_LOGS: RingBuf = RingBuf::with_byte_size(LOG_BYTES, 0);

#[map]
static TRACING: PerCpuArray<Tracing> = PerCpuArray::with_max_entries(1, 0);

/// The name of a hook in lines.
#[inline(always)]
pub(crate) const fn at(hook: Hook) -> At {
    match hook {
        Hook::Ingress(Ingress::Other) => At::Ingress,
        Hook::Ingress(Ingress::Proxy(_)) => At::FromProxy,
        Hook::Ingress(Ingress::Tunnel) => At::FromTunnel,
        Hook::Output => At::Output,
    }
}

/// Writes a line about a packet that was counted under `counter`, if one of its ends is traced.
#[inline(always)]
pub(crate) fn trace(config: &Config, at: At, skb: &Skb<'_>, packet: &Packet, counter: u32) {
    if config.traced == 0 {
        return;
    }
    if let (IpAddr::V4(source), IpAddr::V4(destination)) = (packet.source, packet.destination) {
        let ends = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
        let ports = packet.ports.map_or(0, |ports| u64::from(ports.source) << 16 | u64::from(ports.destination));
        let what = u64::from(packet.protocol) << 16 | u64::from(counter as u8) << 8 | at as u64;
        look(skb.raw(), ends, ports << 32 | what);
    }
}

/// A function of its own in the kernel too, and told in numbers only: a packet whose address is taken would have to be written
/// to the stack, also where nothing is traced. Not `cold`: such functions get a section of their own, and aya relocates calls into
/// one section of functions only.
#[inline(never)]
fn look(skb: &__sk_buff, ends: u64, what: u64) {
    let (source, destination) = ((ends >> 32) as u32, ends as u32);
    if (is_traced(source) || is_traced(destination)) && !write(skb, source, destination, what) {
        if let Some(tracing) = TRACING.get_ptr_mut(0) {
            // SAFETY: the value is this processor's, and nobody else writes it.
            unsafe { (*tracing).lost += 1 };
        }
    }
}

#[inline(always)]
fn is_traced(ip: u32) -> bool {
    // SAFETY: the flags are a word of their own, read once.
    unsafe { PODS.get(&Address::new(ip.into())) }.is_some_and(|pod| pod.flags & Pod::TRACED != 0)
}

/// Whether the line was written: it may be one too many, or nobody reads.
#[inline(always)]
fn write(skb: &__sk_buff, source: u32, destination: u32, what: u64) -> bool {
    if !has_room() {
        return false;
    }
    let Some(mut entry) = AYA_LOGS.reserve::<Record>(0) else { return false };
    entry.write(Record {
        size: size_of::<Record>() as u16,
        target: Field::new(RecordFieldKind::Target as u8, []),
        level: Field::new(RecordFieldKind::Level as u8, [Level::Info as u8]),
        module: Field::new(RecordFieldKind::Module as u8, []),
        file: Field::new(RecordFieldKind::File as u8, []),
        line: Field::new(RecordFieldKind::Line as u8, [0; 4]),
        arguments: Field::new(RecordFieldKind::NumArgs as u8, ARGUMENTS.to_ne_bytes()),
        at: Word::new(ArgumentKind::U8, [what as u8]),
        device: Word::new(ArgumentKind::U32, skb.ifindex.to_ne_bytes()),
        counter: Word::new(ArgumentKind::U8, [(what >> 8) as u8]),
        mark: Word::new(ArgumentKind::U32, skb.mark.to_ne_bytes()),
        source: Word::new(ArgumentKind::Ipv4Addr, source.to_be_bytes()),
        source_port: Word::new(ArgumentKind::U16, ((what >> 48) as u16).to_ne_bytes()),
        destination: Word::new(ArgumentKind::Ipv4Addr, destination.to_be_bytes()),
        destination_port: Word::new(ArgumentKind::U16, ((what >> 32) as u16).to_ne_bytes()),
        protocol: Word::new(ArgumentKind::U8, [(what >> 16) as u8]),
    });
    entry.submit(0);
    true
}

/// Counts the line among those of its window, if it still fits in.
#[inline(always)]
fn has_room() -> bool {
    let Some(tracing) = TRACING.get_ptr_mut(0) else { return false };
    // SAFETY: as in `look`.
    let tracing = unsafe { &mut *tracing };
    // SAFETY: it only reads a clock.
    let window = unsafe { bpf_ktime_get_ns() } >> WINDOW;
    if tracing.window != window {
        tracing.window = window;
        tracing.lines = 0;
    }
    tracing.lines += 1;
    tracing.lines <= Tracing::MOST
}

/// A field or an argument, as `aya_log_common::Field` writes it.
#[repr(C, packed)]
struct Field<const N: usize> {
    kind: u8,
    size: [u8; 2],
    value: [u8; N],
}

impl<const N: usize> Field<N> {
    #[inline(always)]
    const fn new(kind: u8, value: [u8; N]) -> Self {
        Self { kind, size: (N as u16).to_ne_bytes(), value }
    }
}

/// An argument with a blank behind it: aya-log puts none between two.
#[repr(C, packed)]
struct Word<const N: usize> {
    value: Field<N>,
    blank: Field<1>,
}

impl<const N: usize> Word<N> {
    #[inline(always)]
    const fn new(kind: ArgumentKind, value: [u8; N]) -> Self {
        Self { value: Field::new(kind as u8, value), blank: Field::new(ArgumentKind::Str as u8, *b" ") }
    }
}

/// How many arguments a [`Record`] has: nine words and their blanks.
const ARGUMENTS: u32 = 2 * 9;

/// A whole line.
#[repr(C, packed)]
struct Record {
    size: u16,
    target: Field<0>,
    level: Field<1>,
    module: Field<0>,
    file: Field<0>,
    line: Field<4>,
    arguments: Field<4>,
    at: Word<1>,
    device: Word<4>,
    counter: Word<1>,
    mark: Word<4>,
    source: Word<4>,
    source_port: Word<2>,
    destination: Word<4>,
    destination_port: Word<2>,
    protocol: Word<1>,
}
