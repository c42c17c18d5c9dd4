//! IPv4 (RFC 791): options are skipped, not read; of fragments only the first has ports.

use core::net::{IpAddr, Ipv4Addr};

use super::{Octets, Packet, TCP, Unparsed, ports};

/// Length of the header without options.
const HEADER_LEN: usize = 20;
/// The fragment offset, without the flags before it.
const FRAGMENT_OFFSET: u16 = 0x1fff;

#[inline]
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
    Ok(Packet {
        source: IpAddr::V4(Ipv4Addr::new(s0, s1, s2, s3)),
        destination: IpAddr::V4(Ipv4Addr::new(d0, d1, d2, d3)),
        protocol,
        ports: if later_fragment { None } else { ports(octets, protocol, offset + header_len, end) },
    })
}

/// Where the packet ends. Inside the kernel, TCP too long for the field has zero there (`iph_totlen`, "BIG TCP").
#[inline]
fn end(size: usize, offset: usize, total_len: usize, protocol: u8) -> usize {
    if total_len == 0 && protocol == TCP { size } else { offset + total_len }
}
