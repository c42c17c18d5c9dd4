//! The internet checksum (RFC 1071) where the corpus needs it. Conntrack takes a packet whose checksum is wrong for no
//! part of a connection, so they have to be right.

use std::net::IpAddr;

const IPV4_AT: usize = 10;

/// Fills in the checksum of an IPv4 header that stands alone.
pub(super) fn write_ipv4(header: &mut [u8]) {
    header[IPV4_AT..IPV4_AT + 2].fill(0);
    let sum = fold(sum(header));
    header[IPV4_AT..IPV4_AT + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Fills in the checksum at `at` over a segment and its pseudo header.
pub(super) fn write_upper(source: IpAddr, destination: IpAddr, protocol: u8, segment: &mut [u8], at: usize) {
    let pseudo = sum(&octets(source)) + sum(&octets(destination)) + u32::from(protocol) + len(segment);
    write(segment, at, pseudo);
}

/// Fills in the checksum at `at` over a message without pseudo header (`ICMPv4`).
pub(super) fn write_plain(message: &mut [u8], at: usize) {
    write(message, at, 0);
}

fn write(bytes: &mut [u8], at: usize, start: u32) {
    bytes[at..at + 2].fill(0);
    let sum = fold(start + sum(bytes));
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}
