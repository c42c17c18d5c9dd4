//! IPv4 (RFC 791): options are skipped, not read; of fragments only the first has ports.

use core::net::{IpAddr, Ipv4Addr};

use super::{About, Ends, ICMP, Octets, Packet, TCP, Unparsed, opens, ports};

/// Length of the header without options.
const HEADER_LEN: usize = 20;
/// The fragment offset, without the flags before it.
const FRAGMENT_OFFSET: u16 = 0x1fff;

#[inline(always)]
pub(super) fn parse(octets: &(impl Octets + ?Sized), offset: usize) -> Result<Packet, Unparsed> {
    let header: [u8; HEADER_LEN] = octets.octets(offset).ok_or(Unparsed::Truncated)?;
    let [first, _, l0, l1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = header;
    let header_len = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || header_len < HEADER_LEN {
        return Err(Unparsed::BadHeader);
    }
    let end = end(octets.size(), offset, usize::from(u16::from_be_bytes([l0, l1])), protocol);
    if end < offset + header_len {
        return Err(Unparsed::BadHeader);
    }
    if end > octets.size() {
        return Err(Unparsed::Truncated);
    }
    let later_fragment = u16::from_be_bytes([f0, f1]) & FRAGMENT_OFFSET != 0;
    let mut packet = Packet {
        source: IpAddr::V4(Ipv4Addr::new(s0, s1, s2, s3)),
        destination: IpAddr::V4(Ipv4Addr::new(d0, d1, d2, d3)),
        protocol,
        ports: None,
        opens: false,
        about: About::NOTHING,
    };
    if !later_fragment {
        let upper = offset + header_len;
        packet.ports = ports(octets, protocol, upper, end);
        packet.opens = opens(octets, protocol, upper, end);
        if protocol == ICMP
            && let Some(ends) = about(octets, upper, end)
        {
            packet.about = About::new(ends);
        }
    }
    Ok(packet)
}

/// What the ICMP message at `offset` is about: an error (RFC 792) carries the header of what caused it, and 8 bytes more.
#[inline(always)]
fn about(octets: &(impl Octets + ?Sized), offset: usize, end: usize) -> Option<Ends> {
    /// Destination unreachable, source quench, redirect, time exceeded, parameter problem.
    const ERRORS: [u8; 5] = [3, 4, 5, 11, 12];
    const ICMP_HEADER_LEN: usize = 8;
    let [kind] = octets.octets(offset)?;
    if !ERRORS.contains(&kind) {
        return None;
    }
    let inner = offset + ICMP_HEADER_LEN;
    if inner + HEADER_LEN > end {
        return None;
    }
    let header: [u8; HEADER_LEN] = octets.octets(inner)?;
    let [first, _, _, _, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = header;
    let header_len = usize::from(first & 0xf) * 4;
    let later_fragment = u16::from_be_bytes([f0, f1]) & FRAGMENT_OFFSET != 0;
    if first >> 4 != 4 || header_len < HEADER_LEN || later_fragment {
        return None;
    }
    Some(Ends {
        source: Ipv4Addr::new(s0, s1, s2, s3),
        destination: Ipv4Addr::new(d0, d1, d2, d3),
        protocol,
        ports: ports(octets, protocol, inner + header_len, end)?,
    })
}

/// Where the packet ends. Inside the kernel, TCP too long for the field has zero there (`iph_totlen`, "BIG TCP").
#[inline(always)]
fn end(size: usize, offset: usize, total_len: usize, protocol: u8) -> usize {
    if total_len == 0 && protocol == TCP { size } else { offset + total_len }
}
