//! Bytes to [`Packet`]: what the law needs to know of a packet, and no more.
//!
//! The same code runs in the kernel, in tests and in user space, so it reads through [`Octets`] in pieces of constant
//! size, loops a small constant number of times, and answers every shape of input: with a packet, or with the reason why
//! it is none ([`Unparsed`]). It verifies no checksums, keeps no state and decides nothing; that is [`crate::policy`].

mod ethernet;
mod ipv4;
mod ipv6;
mod octets;

use core::fmt;
use core::net::IpAddr;

pub use ethernet::MAX_TAGS;
pub use ipv6::MAX_HEADERS;
pub use octets::Octets;

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
        ethernet::parse(frame)
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
#[inline]
fn ports(octets: &(impl Octets + ?Sized), protocol: u8, offset: usize, end: usize) -> Option<Ports> {
    if !matches!(protocol, TCP | UDP) || offset + 4 > end {
        return None;
    }
    let [s0, s1, d0, d1] = octets.octets(offset)?;
    Some(Ports { source: u16::from_be_bytes([s0, s1]), destination: u16::from_be_bytes([d0, d1]) })
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
