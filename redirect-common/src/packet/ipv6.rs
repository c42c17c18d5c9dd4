//! IPv6 (RFC 8200) with a bounded walk of the extension headers that the kernel also looks behind (`ipv6_ext_hdr`).

use core::net::{IpAddr, Ipv6Addr};

use super::{About, Octets, Packet, Unparsed, opens, ports};

/// How many extension headers are looked behind. RFC 8200 section 4.1 recommends at most seven in a packet.
pub const MAX_HEADERS: usize = 8;

const HEADER_LEN: usize = 40;
/// Every extension header is at least this long, and its length is counted in this unit.
const UNIT: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Where the extension headers end and what follows them.
struct Upper {
    protocol: u8,
    offset: usize,
    later_fragment: bool,
}

#[inline]
pub(super) fn parse(octets: &(impl Octets + ?Sized), offset: usize) -> Result<Packet, Unparsed> {
    let [first, _, _, _, l0, l1, next, _] = octets.octets(offset).ok_or(Unparsed::Truncated)?;
    if first >> 4 != 6 {
        return Err(Unparsed::BadHeader);
    }
    let source: [u8; 16] = octets.octets(offset + 8).ok_or(Unparsed::Truncated)?;
    let destination: [u8; 16] = octets.octets(offset + 24).ok_or(Unparsed::Truncated)?;
    // Zero is a jumbogram (RFC 2675), or inside the kernel TCP too long for the field ("BIG TCP"): all that is there.
    let end = match usize::from(u16::from_be_bytes([l0, l1])) {
        0 => octets.size(),
        payload => offset + HEADER_LEN + payload,
    };
    if end > octets.size() {
        return Err(Unparsed::Truncated);
    }
    let upper = walk(octets, next, offset + HEADER_LEN, end)?;
    Ok(Packet {
        source: IpAddr::V6(Ipv6Addr::from(source)),
        destination: IpAddr::V6(Ipv6Addr::from(destination)),
        protocol: upper.protocol,
        ports: if upper.later_fragment { None } else { ports(octets, upper.protocol, upper.offset, end) },
        opens: !upper.later_fragment && opens(octets, upper.protocol, upper.offset, end),
        about: About::NOTHING,
    })
}

#[inline]
fn walk(octets: &(impl Octets + ?Sized), first: u8, start: usize, end: usize) -> Result<Upper, Unparsed> {
    let (mut protocol, mut offset) = (first, start);
    for _ in 0..=MAX_HEADERS {
        if !is_extension(protocol) {
            return Ok(Upper { protocol, offset, later_fragment: false });
        }
        if offset + UNIT > end {
            return Err(Unparsed::Truncated);
        }
        let [next, len, f0, f1] = octets.octets(offset).ok_or(Unparsed::Truncated)?;
        // The fragment offset, without the reserved and the "more" bits after it.
        if protocol == FRAGMENT && u16::from_be_bytes([f0, f1]) & 0xfff8 != 0 {
            return later_fragment(next, offset + UNIT);
        }
        offset += header_len(protocol, len);
        protocol = next;
    }
    Err(Unparsed::TooManyHeaders)
}

#[inline]
fn later_fragment(protocol: u8, offset: usize) -> Result<Upper, Unparsed> {
    if is_extension(protocol) {
        return Err(Unparsed::HiddenProtocol);
    }
    Ok(Upper { protocol, offset, later_fragment: true })
}

#[inline]
const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

#[inline]
fn header_len(protocol: u8, len: u8) -> usize {
    match protocol {
        FRAGMENT => UNIT,
        // RFC 4302 section 2.2: in units of four, minus two.
        AUTHENTICATION => (usize::from(len) + 2) * 4,
        _ => (usize::from(len) + 1) * UNIT,
    }
}
