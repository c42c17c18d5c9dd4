//! Every shape of packet, and what is said of each.

extern crate std;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::vec::Vec;

use super::*;

const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
const DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 3);
const SOURCE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
const DESTINATION6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
/// Ports 1234 to 80, and the rest of a TCP header with the flag ACK.
const SEGMENT: [u8; 20] = [4, 210, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, ACK, 0, 0, 0, 0, 0, 0];
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const PORTS: Option<Ports> = Some(Ports { source: 1234, destination: 80 });

fn v4(protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + options.len() + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let ihl = u8::try_from(5 + options.len() / 4).unwrap_or(u8::MAX);
    let mut bytes = std::vec![0x40 | ihl, 0, total[0], total[1], 0, 1, 0, 0, 64, protocol, 0, 0];
    bytes.extend(SOURCE.octets());
    bytes.extend(DESTINATION.octets());
    bytes.extend(options);
    bytes.extend(payload);
    bytes
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut bytes = std::vec![0x60, 0, 0, 0, len[0], len[1], next, 64];
    bytes.extend(SOURCE6.octets());
    bytes.extend(DESTINATION6.octets());
    bytes.extend(payload);
    bytes
}

/// Extension headers of eight bytes each, the last of which names TCP.
fn extensions(kinds: &[u8]) -> Vec<u8> {
    let following = kinds.iter().skip(1).copied().chain([TCP]);
    following.flat_map(|next| [next, 0, 0, 0, 0, 0, 0, 0]).chain(SEGMENT).collect()
}

fn frame(ethertypes: &[u16], packet: &[u8]) -> Vec<u8> {
    let mut bytes = std::vec![2; 12];
    for (at, ethertype) in ethertypes.iter().enumerate() {
        bytes.extend(ethertype.to_be_bytes());
        if at + 1 < ethertypes.len() {
            bytes.extend([0, 7]);
        }
    }
    bytes.extend(packet);
    bytes
}

fn packet(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, protocol: u8, ports: Option<Ports>) -> Packet {
    Packet {
        source: source.into(),
        destination: destination.into(),
        protocol,
        ports,
        opens: false,
        about: About::NOTHING,
    }
}

fn tcp4() -> Packet {
    packet(SOURCE, DESTINATION, TCP, PORTS)
}

fn tcp6() -> Packet {
    packet(SOURCE6, DESTINATION6, TCP, PORTS)
}

fn edited(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    bytes
}

fn ip(bytes: &[u8]) -> Result<Packet, Unparsed> {
    Packet::from_ip(bytes)
}

fn ethernet(bytes: &[u8]) -> Result<Packet, Unparsed> {
    Packet::from_ethernet(bytes)
}

#[test]
fn plain_tcp_and_udp() {
    assert_eq!(ip(&v4(TCP, &[], &SEGMENT)), Ok(tcp4()));
    assert_eq!(ip(&v4(UDP, &[], &SEGMENT[..8])), Ok(Packet { protocol: UDP, ..tcp4() }));
    assert_eq!(ip(&v6(TCP, &SEGMENT)), Ok(tcp6()));
    assert_eq!(ip(&v6(UDP, &SEGMENT[..8])), Ok(Packet { protocol: UDP, ..tcp6() }));
}

#[test]
fn other_protocols_have_no_ports() {
    for protocol in [1, 2, 4, 41, 47, 50, 58, 132, 136, 255] {
        assert_eq!(ip(&v4(protocol, &[], &SEGMENT)), Ok(Packet { protocol, ports: None, ..tcp4() }));
        assert_eq!(ip(&v6(protocol, &SEGMENT)), Ok(Packet { protocol, ports: None, ..tcp6() }));
    }
    assert_eq!(ip(&v6(59, &[])), Ok(Packet { protocol: 59, ports: None, ..tcp6() }), "no next header");
}

#[test]
fn ethernet_with_up_to_two_tags() {
    let (four, six) = (v4(TCP, &[], &SEGMENT), v6(TCP, &SEGMENT));
    for tags in [&[][..], &[0x8100], &[0x88a8], &[0x88a8, 0x8100], &[0x8100, 0x8100]] {
        assert_eq!(ethernet(&frame(&[tags, &[0x0800]].concat(), &four)), Ok(tcp4()), "{tags:x?}");
        assert_eq!(ethernet(&frame(&[tags, &[0x86dd]].concat(), &six)), Ok(tcp6()), "{tags:x?}");
        assert_eq!(ethernet(&frame(&[tags, &[0x0806]].concat(), &four)), Err(Unparsed::NotIp), "{tags:x?}");
    }
    let three = frame(&[0x88a8, 0x8100, 0x8100, 0x0800], &four);
    assert_eq!(ethernet(&three), Err(Unparsed::TooManyTags));
}

#[test]
fn what_is_not_ip() {
    let packet = v4(TCP, &[], &SEGMENT);
    for ethertype in [0x0806, 0x0026, 0x8847, 0x8863, 0x9100, 0x6558] {
        assert_eq!(ethernet(&frame(&[ethertype], &packet)), Err(Unparsed::NotIp), "{ethertype:x}");
    }
    assert_eq!(ip(&edited(packet.clone(), 0, 0x55)), Err(Unparsed::NotIp));
    assert_eq!(ethernet(&frame(&[0x0800], &v6(TCP, &SEGMENT))), Err(Unparsed::BadHeader), "version against type");
    assert_eq!(ethernet(&frame(&[0x86dd], &packet)), Err(Unparsed::BadHeader), "version against type");
}

#[test]
fn options_are_skipped() {
    for words in 1..=10 {
        let options = std::vec![1; words * 4];
        assert_eq!(ip(&v4(TCP, &options, &SEGMENT)), Ok(tcp4()), "{words} words");
    }
}

#[test]
fn header_lengths_that_contradict() {
    let whole = v4(TCP, &[], &SEGMENT);
    for ihl in 0..5 {
        assert_eq!(ip(&edited(whole.clone(), 0, 0x40 | ihl)), Err(Unparsed::BadHeader), "header of {ihl} words");
    }
    assert_eq!(ip(&edited(whole.clone(), 0, 0x4f)), Err(Unparsed::BadHeader), "header longer than the packet");
    assert_eq!(ip(&edited(whole.clone(), 3, 19)), Err(Unparsed::BadHeader), "total shorter than the header");
    assert_eq!(ip(&edited(whole, 3, 41)), Err(Unparsed::Truncated), "total longer than the bytes");
    assert_eq!(ip(&edited(v6(TCP, &SEGMENT), 5, 21)), Err(Unparsed::Truncated), "payload longer than the bytes");
}

#[test]
fn lengths_of_zero_reach_to_the_end() {
    assert_eq!(ip(&edited(v4(TCP, &[], &SEGMENT), 3, 0)), Ok(tcp4()));
    assert_eq!(ip(&edited(v4(UDP, &[], &SEGMENT), 3, 0)), Err(Unparsed::BadHeader), "only TCP grows so long");
    assert_eq!(ip(&edited(v6(TCP, &SEGMENT), 5, 0)), Ok(tcp6()));
}

#[test]
fn padding_is_not_part_of_the_packet() {
    let padded = |packet: Vec<u8>| [packet, std::vec![9; 26]].concat();
    assert_eq!(ip(&padded(v4(TCP, &[], &[]))), Ok(Packet { ports: None, ..tcp4() }));
    assert_eq!(ip(&padded(v4(TCP, &[], &SEGMENT[..3]))), Ok(Packet { ports: None, ..tcp4() }));
    assert_eq!(ip(&padded(v6(TCP, &SEGMENT[..3]))), Ok(Packet { ports: None, ..tcp6() }));
    assert_eq!(ip(&padded(v4(TCP, &[], &SEGMENT))), Ok(tcp4()));
}

#[test]
fn truncated_upper_header() {
    assert_eq!(ip(&v4(TCP, &[], &SEGMENT[..4])), Ok(tcp4()), "the ports are there");
    assert_eq!(ip(&v4(UDP, &[], &SEGMENT[..3])), Ok(Packet { protocol: UDP, ports: None, ..tcp4() }));
    assert_eq!(ip(&v6(UDP, &SEGMENT[..3])), Ok(Packet { protocol: UDP, ports: None, ..tcp6() }));
}

#[test]
fn any_shorter_frame_is_truncated() {
    let frames = [
        frame(&[0x0800], &v4(TCP, &[1; 8], &SEGMENT)),
        frame(&[0x88a8, 0x8100, 0x0800], &v4(TCP, &[], &SEGMENT)),
        frame(&[0x8100, 0x86dd], &v6(0, &extensions(&[0, 60, 44]))),
    ];
    for frame in frames {
        assert!(ethernet(&frame).is_ok());
        for len in 0..frame.len() {
            assert_eq!(ethernet(&frame[..len]), Err(Unparsed::Truncated), "{len} of {}", frame.len());
        }
    }
    assert_eq!(ip(&[]), Err(Unparsed::Truncated));
}

#[test]
fn ipv4_fragments() {
    let whole = v4(TCP, &[], &SEGMENT);
    assert_eq!(ip(&edited(whole.clone(), 6, 0x40)), Ok(tcp4()), "don't fragment");
    assert_eq!(ip(&edited(whole.clone(), 6, 0x20)), Ok(tcp4()), "first");
    let later = Ok(Packet { ports: None, ..tcp4() });
    assert_eq!(ip(&edited(whole.clone(), 7, 1)), later, "last");
    assert_eq!(ip(&edited(whole.clone(), 6, 0x21)), later, "in the middle");
    assert_eq!(ip(&edited(whole, 6, 0x10)), later, "the highest bit of the offset");
}

#[test]
fn ipv6_extension_headers() {
    for kinds in [&[0][..], &[43], &[60], &[44], &[51], &[0, 60, 43, 44, 51, 60], &[60; MAX_HEADERS]] {
        let mut payload = extensions(kinds);
        // An authentication header of eight bytes counts zero words after its second.
        if let Some(at) = kinds.iter().position(|&kind| kind == 51) {
            payload[at * 8 + 1] = 0;
        }
        assert_eq!(ip(&v6(kinds[0], &payload)), Ok(tcp6()), "{kinds:?}");
    }
    assert_eq!(ip(&v6(60, &extensions(&[60; MAX_HEADERS + 1]))), Err(Unparsed::TooManyHeaders));
}

#[test]
fn ipv6_extension_header_lengths() {
    let long = [&[TCP, 2][..], &[0; 22], &SEGMENT].concat();
    assert_eq!(ip(&v6(60, &long)), Ok(tcp6()), "24 bytes of options");
    let authentication = [&[TCP, 4][..], &[0; 22], &SEGMENT].concat();
    assert_eq!(ip(&v6(51, &authentication)), Ok(tcp6()), "authentication counts in words");
    let beyond = [&[60, 255][..], &[0; 6], &SEGMENT].concat();
    assert_eq!(ip(&v6(60, &beyond)), Err(Unparsed::Truncated), "the next header is behind the end");
    let upper_beyond = [&[TCP, 255][..], &[0; 6], &SEGMENT].concat();
    assert_eq!(ip(&v6(60, &upper_beyond)), Ok(Packet { ports: None, ..tcp6() }), "the segment is behind the end");
    assert_eq!(ip(&v6(60, &[TCP, 0, 0])), Err(Unparsed::Truncated), "half an extension header");
}

#[test]
fn ipv6_fragments() {
    let fragment = |next: u8, offset: u16, rest: &[u8]| {
        let [o0, o1] = offset.to_be_bytes();
        v6(44, &[&[next, 0, o0, o1, 0, 0, 0, 1], rest].concat())
    };
    assert_eq!(ip(&fragment(TCP, 1, &SEGMENT)), Ok(tcp6()), "first");
    assert_eq!(ip(&fragment(60, 1, &extensions(&[60]))), Ok(tcp6()), "first, with options behind");
    assert_eq!(ip(&fragment(TCP, 8, &SEGMENT)), Ok(Packet { ports: None, ..tcp6() }), "last");
    assert_eq!(ip(&fragment(60, 9, &extensions(&[60]))), Err(Unparsed::HiddenProtocol));
}

#[test]
fn no_bytes_make_it_panic() {
    // xorshift: the same bytes in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let seeds = [frame(&[0x0800], &v4(TCP, &[1; 8], &SEGMENT)), frame(&[0x86dd], &v6(0, &extensions(&[0, 44, 60])))];
    for round in 0..20_000_usize {
        let mut bytes = seeds[round % 2].clone();
        for _ in 0..=round % 4 {
            let [at, value, ..] = next();
            let at = 12 + usize::from(at) % (bytes.len() - 12);
            bytes[at] = value;
        }
        bytes.truncate(usize::from(next()[0]));
        let _ = ethernet(&bytes);
        let _ = ip(bytes.get(14..).unwrap_or_default());
    }
}

#[test]
fn only_a_first_segment_opens_a_connection() {
    let opens = |flags: u8, cut: usize| {
        let mut segment = SEGMENT;
        segment[13] = flags;
        let both = [ip(&v4(TCP, &[1; 8], &segment[..cut])), ip(&v6(TCP, &segment[..cut]))];
        both.map(|packet| packet.unwrap().opens)
    };
    assert_eq!(opens(SYN, 20), [true; 2]);
    assert_eq!(opens(SYN | 0xc0, 20), [true; 2], "with ECN");
    assert_eq!(opens(SYN | ACK, 20), [false; 2]);
    assert_eq!(opens(ACK, 20), [false; 2]);
    assert_eq!(opens(SYN, 13), [false; 2], "the flags are cut off");
    assert!(!ip(&v4(UDP, &[], &SEGMENT)).unwrap().opens);
}

#[test]
fn an_icmp_error_names_what_it_is_about() {
    let about = |kind: u8, inner: &[u8]| {
        ip(&v4(ICMP, &[], &[&[kind, 1, 0, 0, 0, 0, 0, 0], inner].concat())).unwrap().about.ends().copied()
    };
    let ends = Ends { source: SOURCE, destination: DESTINATION, protocol: TCP, ports: PORTS.unwrap() };
    let inner = v4(TCP, &[1; 4], &SEGMENT);
    assert_eq!(about(3, &inner), Some(ends));
    assert_eq!(about(11, &inner[..28]), Some(ends), "8 bytes of the segment are all that must be there");
    assert_eq!(about(3, &inner[..26]), None, "no ports");
    assert_eq!(about(3, &inner[..19]), None);
    assert_eq!(about(8, &inner), None, "an echo is about nothing");
    assert_eq!(about(3, &v6(TCP, &SEGMENT)), None);
}

/// What a plain frame says is what all others read of it, whole, cut and of every length field.
#[test]
fn a_plain_frame_is_read_alike_in_both_ways() {
    fn agrees<const PROTOCOL: u8>(frame: &[u8]) -> bool {
        let plain = frame.first_chunk().and_then(|head| Plain::<PROTOCOL>::new(head, frame.len()));
        if let Some(plain) = plain {
            assert_eq!(Packet::ipv4_from_ethernet(&plain), Packet::ipv4_from_ethernet(frame));
        }
        plain.is_some()
    }
    let mut plain = 0;
    for (protocol, options) in [(TCP, 0), (UDP, 0), (ICMP, 0), (TCP, 4)] {
        let whole = frame(&[0x0800], &v4(protocol, &std::vec![0; options], &[SEGMENT, SEGMENT].concat()));
        for (at, len) in (0..PLAIN_LEN).zip((0..=whole.len()).cycle()).chain((0..PLAIN_LEN).map(|at| (at, whole.len())))
        {
            for byte in [0, 1, 0x14, 0x28, 0x3c, 0x45, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                bytes.truncate(len);
                plain += usize::from(agrees::<TCP>(&bytes)) + usize::from(agrees::<UDP>(&bytes));
            }
        }
    }
    assert!(plain > 500, "only {plain} were plain");
}
