//! Bytes of a link to what the judge asks of them: a TCP segment's ends, flags and first bytes, and whether it is inside a tunnel. It
//! shares no code with what is judged: `redirect_common::packet` reads for the law.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Bytes of a frame that are enough: two Ethernet headers, two of IPv4 and of TCP with all their options, and a cookie.
pub const ENOUGH: usize = 320;

const ETHERTYPE_IPV4: u16 = 0x0800;
/// IEEE 802.1Q and 802.1ad.
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
/// GENEVE's protocol type for Ethernet frames (RFC 8926, section 3.4).
const GENEVE_ETHERNET: u16 = 0x6558;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// `SYN`, `RST` and `ACK` in the octet of flags (RFC 9293, section 3.1).
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A TCP segment on a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    /// Who sent it, as it says.
    pub source: SocketAddrV4,
    /// Whom it is for.
    pub destination: SocketAddrV4,
    /// What it is for.
    pub flags: Flags,
    /// The first of its bytes.
    pub payload: &'a [u8],
    /// The tunnel that it is in.
    pub tunnel: Option<Tunnel>,
}

impl Segment<'_> {
    /// Whether it only says that there is no such connection.
    #[must_use]
    pub const fn is_bare_reset(&self) -> bool {
        self.flags.0 & RST != 0 && self.payload.is_empty()
    }
}

/// The outside of an encapsulated segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// The end that sent it.
    pub source: Ipv4Addr,
    /// The end that it is for.
    pub destination: Ipv4Addr,
}

/// Flags of a TCP segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flags(u8);

impl Flags {
    /// Whether the segment asks for a connection.
    #[must_use]
    pub const fn opens(self) -> bool {
        self.0 & (SYN | ACK) == SYN
    }
}

/// As tcpdump writes them.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(SYN, 'S'), (0x01, 'F'), (RST, 'R'), (0x08, 'P'), (ACK, '.')];
        names.into_iter().filter(|(bit, _)| self.0 & bit != 0).try_for_each(|(_, name)| write!(f, "{name}"))
    }
}

/// The segment in an Ethernet frame, if there is one: tagged or not, and in not more than one tunnel.
#[must_use]
pub fn frame(frame: &[u8]) -> Option<Segment<'_>> {
    ipv4(beyond_ethernet(frame)?)
}

/// The segment in an IPv4 packet, for devices without a link layer.
#[must_use]
pub fn ipv4(packet: &[u8]) -> Option<Segment<'_>> {
    let ip = Ip::of(packet)?;
    if ip.protocol == TCP {
        return tcp(&ip);
    }
    let (geneve, outside) = (beyond_udp(&ip)?, Tunnel { source: ip.source, destination: ip.destination });
    let inside = Ip::of(beyond_ethernet(beyond_geneve(geneve)?)?)?;
    let segment = (inside.protocol == TCP).then(|| tcp(&inside))??;
    Some(Segment { tunnel: Some(outside), ..segment })
}

fn beyond_ethernet(frame: &[u8]) -> Option<&[u8]> {
    let mut at = 12;
    while ETHERTYPES_VLAN.contains(&word(frame, at)?) {
        at += 4;
    }
    (word(frame, at)? == ETHERTYPE_IPV4).then(|| frame.get(at + 2..))?
}

struct Ip<'a> {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    payload: &'a [u8],
}

impl<'a> Ip<'a> {
    /// Fragments but the first have no ports, and so are nobody's.
    fn of(packet: &'a [u8]) -> Option<Self> {
        let first = *packet.first()?;
        let (version, header, total) = (first >> 4, usize::from(first & 0xf) * 4, usize::from(word(packet, 2)?));
        if version != 4 || header < 20 || word(packet, 6)? & 0x1fff != 0 {
            return None;
        }
        // What follows the packet fills up the frame. Offloads leave the length to the device, as 0.
        let end = if total == 0 { packet.len() } else { total.min(packet.len()) };
        Some(Self {
            source: address(packet, 12)?,
            destination: address(packet, 16)?,
            protocol: *packet.get(9)?,
            payload: packet.get(header..end)?,
        })
    }
}

fn tcp<'a>(ip: &Ip<'a>) -> Option<Segment<'a>> {
    let header = usize::from(*ip.payload.get(12)? >> 4) * 4;
    Some(Segment {
        source: SocketAddrV4::new(ip.source, word(ip.payload, 0)?),
        destination: SocketAddrV4::new(ip.destination, word(ip.payload, 2)?),
        flags: Flags(*ip.payload.get(13)?),
        payload: ip.payload.get(header.max(20)..).unwrap_or_default(),
        tunnel: None,
    })
}

/// Whatever its port: the agent chooses another one where 6081 is taken.
fn beyond_udp<'a>(ip: &Ip<'a>) -> Option<&'a [u8]> {
    (ip.protocol == UDP).then(|| ip.payload.get(8..))?
}

/// RFC 8926, section 3.4: version 0, options of so many words.
fn beyond_geneve(packet: &[u8]) -> Option<&[u8]> {
    let first = *packet.first()?;
    let options = usize::from(first & 0x3f) * 4;
    (first >> 6 == 0 && word(packet, 2)? == GENEVE_ETHERNET).then(|| packet.get(8 + options..))?
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([word[0], word[1]]))
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 5), 33_001);
    const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(172, 18, 0, 1), 8080);
    const OUTSIDE: Tunnel = Tunnel { source: Ipv4Addr::new(172, 18, 0, 2), destination: Ipv4Addr::new(10, 244, 1, 3) };

    fn ethernet(tags: &[u16], payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for tag in tags {
            frame.extend([tag.to_be_bytes(), [0, 7]].concat());
        }
        frame.extend([0x08, 0x00]);
        frame.extend(payload);
        frame
    }

    fn ip(protocol: u8, (source, destination): (Ipv4Addr, Ipv4Addr), payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(24 + payload.len()).unwrap();
        let mut packet = vec![0x46, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        packet.extend(source.octets());
        packet.extend(destination.octets());
        // One word of options.
        packet.extend([1, 1, 1, 1]);
        packet.extend(payload);
        packet
    }

    fn segment(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut tcp = [CLIENT.port().to_be_bytes(), SERVER.port().to_be_bytes()].concat();
        tcp.extend([0; 8]);
        tcp.extend([0x60, flags, 0, 0, 0, 0, 0, 0, 2, 4, 5, 0xb4]);
        tcp.extend(payload);
        ip(TCP, (*CLIENT.ip(), *SERVER.ip()), &tcp)
    }

    fn tunnelled(port: u16, version: u8) -> Vec<u8> {
        let mut udp = [[0x30, 0x39], port.to_be_bytes(), [0, 0], [0, 0]].concat();
        udp.extend([version << 6 | 1, 0, 0x65, 0x58, 0, 3, 0xe9, 0, 9, 9, 9, 9]);
        udp.extend(ethernet(&[], &segment(0x18, b"cookie")));
        ethernet(&[], &ip(UDP, (OUTSIDE.source, OUTSIDE.destination), &udp))
    }

    #[test]
    fn a_segment_is_read_with_and_without_tags() {
        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            let bytes = ethernet(tags, &segment(0x02, b""));
            let found = frame(&bytes).unwrap();
            assert_eq!((found.source, found.destination, found.payload), (CLIENT, SERVER, &b""[..]));
            assert!(found.flags.opens() && found.tunnel.is_none());
        }
        assert_eq!(ipv4(&segment(0x12, b"")).unwrap().flags.to_string(), "S.");
        assert!(!ipv4(&segment(0x12, b"")).unwrap().flags.opens());
    }

    #[test]
    fn a_segment_is_found_in_a_tunnel_of_any_port() {
        for port in [6081, 6082] {
            let bytes = tunnelled(port, 0);
            let found = frame(&bytes).unwrap();
            assert_eq!((found.source, found.tunnel, found.payload), (CLIENT, Some(OUTSIDE), &b"cookie"[..]));
        }
        assert_eq!(frame(&tunnelled(6081, 1)), None, "another version");
    }

    #[test]
    fn what_fills_up_a_frame_is_no_payload() {
        let mut bytes = ethernet(&[], &segment(0x10, b""));
        bytes.extend([0xee; 6]);
        assert_eq!(frame(&bytes).unwrap().payload, b"");
    }

    #[test]
    fn no_ports_in_a_later_fragment() {
        let mut bytes = segment(0x10, b"x");
        bytes[7] = 1;
        assert_eq!(ipv4(&bytes), None);
    }

    #[test]
    fn whatever_is_cut_off_is_read_without_a_panic() {
        for bytes in [ethernet(&[0x8100], &segment(0x18, b"cookie")), tunnelled(6081, 0)] {
            for end in 0..bytes.len() {
                if let Some(found) = frame(&bytes[..end]) {
                    assert_eq!((found.source, found.destination), (CLIENT, SERVER));
                }
            }
        }
    }

    /// Every byte in turn is every value: nothing is found that goes beyond the bytes.
    #[test]
    fn whatever_is_changed_is_read_without_a_panic() {
        let bytes = tunnelled(6081, 0);
        for at in 0..bytes.len() {
            for value in 0..=u8::MAX {
                let mut changed = bytes.clone();
                changed[at] = value;
                let _ = frame(&changed);
            }
        }
    }
}
