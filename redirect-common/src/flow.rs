//! What a connection is remembered by, where BPF remembers it: both ends and the protocol, whichever end speaks.
//!
//! A first segment (SYN without ACK) has no memory: it begins a connection, and what was remembered of an earlier one with
//! the same ends is not about it. So a pod cannot pass the proxy by under the name of a connection that is over.

use core::net::{IpAddr, Ipv4Addr};

use crate::packet::{Packet, Ports, TCP, UDP};
use crate::policy::{Memory, Seat};

/// The key of a connection in the maps of flows: no padding, and every byte written, because the kernel hashes all of them.
/// IPv4 only, as the programs are: a key of four words is hashed in a third of the time that one for IPv6 takes, on every
/// packet. IPv6 gets maps of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct Flow {
    /// The lesser end's address, host byte order.
    low: u32,
    /// The greater end's.
    high: u32,
    /// The lesser end's port and the greater end's, host byte order.
    ports: [u16; 2],
    /// IP protocol.
    protocol: u32,
}

impl Flow {
    /// The connection that a packet is part of, or that an ICMP error is about; `None` where it names none: a later
    /// fragment, a truncated header, IPv6, or a protocol of which nothing is remembered.
    #[inline(always)]
    #[must_use]
    pub fn of(packet: &Packet) -> Option<Self> {
        match (packet.ports, packet.about.ends()) {
            (Some(ports), _) => match (packet.source, packet.destination) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => Self::new(source, destination, packet.protocol, ports),
                _ => None,
            },
            (None, Some(about)) => Self::new(about.source, about.destination, about.protocol, about.ports),
            (None, None) => None,
        }
    }

    /// Of the flows whose memory counts for `packet`.
    #[inline(always)]
    #[must_use]
    pub fn remembered_for(packet: &Packet) -> Option<Self> {
        if packet.opens { None } else { Self::of(packet) }
    }

    #[inline(always)]
    fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, ports: Ports) -> Option<Self> {
        if !matches!(protocol, TCP | UDP) {
            return None;
        }
        let (from, to) = (u32::from_be_bytes(source.octets()), u32::from_be_bytes(destination.octets()));
        let protocol = u32::from(protocol);
        Some(if (from, ports.source) <= (to, ports.destination) {
            Self { low: from, high: to, ports: [ports.source, ports.destination], protocol }
        } else {
            Self { low: to, high: from, ports: [ports.destination, ports.source], protocol }
        })
    }

    /// Whether it is TCP. Datagrams are remembered apart: a pod that sends to many ports must not push connections out.
    #[inline(always)]
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        self.protocol == u32::from(TCP)
    }
}

/// What is remembered of a flow: the value in the maps of flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Remembered(u32);

impl Remembered {
    /// The record of a memory.
    #[inline(always)]
    #[must_use]
    pub const fn new(memory: Memory) -> Self {
        Self(memory.mark().value())
    }

    /// The memory; `None` for a record that this build does not know.
    #[inline(always)]
    #[must_use]
    pub const fn memory(self) -> Option<Memory> {
        if self.0 == Memory::ConnSkip.mark().value() {
            Some(Memory::ConnSkip)
        } else if self.0 == Memory::Proxy(Seat::A).mark().value() {
            Some(Memory::Proxy(Seat::A))
        } else if self.0 == Memory::Proxy(Seat::B).mark().value() {
            Some(Memory::Proxy(Seat::B))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use core::mem::size_of;

    use super::*;
    use crate::packet::{About, Ends, ICMP};

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn packet(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), protocol: u8) -> Packet {
        Packet {
            source: IpAddr::V4(source.0),
            destination: IpAddr::V4(destination.0),
            protocol,
            ports: Some(Ports { source: source.1, destination: destination.1 }),
            opens: false,
            about: About::NOTHING,
        }
    }

    #[test]
    fn the_record_has_no_padding() {
        assert_eq!(size_of::<Flow>(), 2 * 4 + 2 * 2 + 4);
    }

    #[test]
    fn both_directions_are_one_flow() {
        let forth = Flow::of(&packet((A, 9), (B, 1), TCP));
        assert!(forth.is_some());
        assert_eq!(forth, Flow::of(&packet((B, 1), (A, 9), TCP)));
        assert_ne!(forth, Flow::of(&packet((A, 1), (B, 9), TCP)));
        assert_ne!(forth, Flow::of(&packet((A, 9), (B, 1), UDP)));
    }

    #[test]
    fn an_error_is_about_a_flow_and_a_first_segment_has_no_memory() {
        let ends = Ends { source: A, destination: B, protocol: UDP, ports: Ports { source: 9, destination: 1 } };
        let error = Packet { protocol: ICMP, ports: None, about: About::new(ends), ..packet((B, 0), (A, 0), ICMP) };
        assert_eq!(Flow::of(&error), Flow::of(&packet((A, 9), (B, 1), UDP)));
        let first = Packet { opens: true, ..packet((A, 9), (B, 1), TCP) };
        assert!(Flow::of(&first).is_some());
        assert_eq!(Flow::remembered_for(&first), None);
    }

    #[test]
    fn memories_survive_their_record() {
        for memory in [Memory::ConnSkip, Memory::Proxy(Seat::A), Memory::Proxy(Seat::B)] {
            assert_eq!(Remembered::new(memory).memory(), Some(memory));
        }
        assert_eq!(Remembered(1).memory(), None);
    }
}
