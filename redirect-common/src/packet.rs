//! Bytes to [`Packet`]: what the law needs to know of a packet, and no more.
//!
//! The same code runs in the kernel, in tests and in user space, so it reads through [`Octets`] in pieces of constant
//! size, loops a small constant number of times, and answers every shape of input: with a packet, or with the reason why
//! it is none ([`Unparsed`]). It verifies no checksums, keeps no state and decides nothing; that is [`crate::policy`].

mod ethernet;
mod ipv4;
mod ipv6;
mod octets;
mod plain;

use core::fmt;
use core::net::{IpAddr, Ipv4Addr};

pub use ethernet::MAX_TAGS;
pub use ipv6::MAX_HEADERS;
pub use octets::Octets;
pub use plain::{PLAIN_LEN, Plain};

/// IP protocol number of `ICMPv4`.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// What the law reads of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol (IPv6: the upper-layer protocol, after extension headers).
    pub protocol: u8,
    /// Ports, host byte order; `None` where the packet has none: another protocol, a later fragment, a truncated header.
    pub ports: Option<Ports>,
    /// It is the first segment of a new TCP connection (SYN without ACK, RFC 9293 section 3.5).
    pub opens: bool,
    /// The packet that an `ICMPv4` error is about (RFC 792), as far as the law asks: its ends.
    pub about: About,
}

/// Both ends of a connection, as a packet of it names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// IP protocol.
    pub protocol: u8,
    /// Its ports.
    pub ports: Ports,
}

/// The ends of what an ICMP error is about, or nothing. Not an `Option`: what is not there is zero and not undefined, because a
/// BPF program may not even copy what was never written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct About {
    ends: Ends,
    known: bool,
}

impl About {
    /// Nothing.
    pub const NOTHING: Self = Self {
        ends: Ends {
            source: Ipv4Addr::UNSPECIFIED,
            destination: Ipv4Addr::UNSPECIFIED,
            protocol: 0,
            ports: Ports { source: 0, destination: 0 },
        },
        known: false,
    };

    /// These ends.
    #[must_use]
    pub const fn new(ends: Ends) -> Self {
        Self { ends, known: true }
    }

    /// The ends, if there are any.
    #[inline]
    #[must_use]
    pub const fn ends(&self) -> Option<&Ends> {
        if self.known { Some(&self.ends) } else { None }
    }
}

/// Source and destination port, host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
}

/// Why bytes are no [`Packet`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unparsed {
    /// Neither IPv4 nor IPv6 (ARP, LLC, MPLS, ...).
    NotIp,
    /// More than [`MAX_TAGS`] VLAN tags.
    TooManyTags,
    /// The bytes end inside a header, or before the end that the IP header names.
    Truncated,
    /// A header contradicts itself: version, header length, total length.
    BadHeader,
    /// More than [`MAX_HEADERS`] IPv6 extension headers.
    TooManyHeaders,
    /// A later IPv6 fragment that begins with an extension header: only the first one names the upper-layer protocol.
    HiddenProtocol,
}

impl Packet {
    /// Reads a frame that begins with its Ethernet header.
    #[inline]
    pub fn from_ethernet(frame: &(impl Octets + ?Sized)) -> Result<Self, Unparsed> {
        ethernet::parse::<true>(frame)
    }

    /// As [`Self::from_ethernet`]; IPv6 counts as no IP. For programs that leave it alone and need not carry its parser.
    #[inline(always)]
    pub fn ipv4_from_ethernet(frame: &(impl Octets + ?Sized)) -> Result<Self, Unparsed> {
        ethernet::parse::<false>(frame)
    }

    /// Reads a packet of a device without a link layer, from its IP header on; IPv6 counts as no IP, as in
    /// [`Self::ipv4_from_ethernet`]. It ends where its header says: how many bytes there are is not asked for.
    #[inline(always)]
    pub fn ipv4_from_ip(packet: &(impl Octets + ?Sized)) -> Result<Self, Unparsed> {
        let packet = &octets::Endless(packet);
        let [first] = packet.octets(0).ok_or(Unparsed::Truncated)?;
        if first >> 4 == 4 { ipv4::parse(packet, 0) } else { Err(Unparsed::NotIp) }
    }

    /// Reads a packet that begins with its IP header, as a local socket's does on its way out.
    #[inline]
    pub fn from_ip(packet: &(impl Octets + ?Sized)) -> Result<Self, Unparsed> {
        let [first] = packet.octets(0).ok_or(Unparsed::Truncated)?;
        match first >> 4 {
            4 => ipv4::parse(packet, 0),
            6 => ipv6::parse(packet, 0),
            _ => Err(Unparsed::NotIp),
        }
    }
}

/// The ports at `offset`, where the packet has them before its `end`.
#[inline(always)]
fn ports(octets: &(impl Octets + ?Sized), protocol: u8, offset: usize, end: usize) -> Option<Ports> {
    if !matches!(protocol, TCP | UDP) || offset + 4 > end {
        return None;
    }
    let [s0, s1, d0, d1] = octets.octets(offset)?;
    Some(Ports { source: u16::from_be_bytes([s0, s1]), destination: u16::from_be_bytes([d0, d1]) })
}

/// Whether the TCP header at `offset` has SYN and not ACK; a header that is cut off before its flags opens nothing.
#[inline(always)]
fn opens(octets: &(impl Octets + ?Sized), protocol: u8, offset: usize, end: usize) -> bool {
    const FLAGS_AT: usize = 13;
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    if protocol != TCP || offset + FLAGS_AT >= end {
        return false;
    }
    octets.octets(offset + FLAGS_AT).is_some_and(|[flags]| flags & (SYN | ACK) == SYN)
}

impl fmt::Display for Unparsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotIp => "neither IPv4 nor IPv6",
            Self::TooManyTags => "too many VLAN tags",
            Self::Truncated => "truncated",
            Self::BadHeader => "a header contradicts itself",
            Self::TooManyHeaders => "too many IPv6 extension headers",
            Self::HiddenProtocol => "a later fragment that hides its upper-layer protocol",
        })
    }
}

impl core::error::Error for Unparsed {}

#[cfg(test)]
mod tests;
