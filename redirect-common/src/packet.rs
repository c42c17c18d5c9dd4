//! Bytes to [`Packet`]: what the law needs to know of a packet, and no more.

use core::net::IpAddr;

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
