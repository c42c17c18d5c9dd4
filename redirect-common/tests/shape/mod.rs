//! What must hold of the parser whatever the bytes: it answers every shape of input, and its entries agree where they read the same.
//! Shared by a test with bytes by chance and by `fuzz/`, where libFuzzer chooses them.

use redirect_common::flow::Flow;
use redirect_common::packet::{PLAIN_LEN, Packet, Plain, Ports, TCP, UDP, Unparsed};

/// Ethernet's header without tags.
const HEADER: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];

/// Reads the bytes in every way that there is.
pub(crate) fn hold(bytes: &[u8]) {
    let (all, ipv4, ip) = (Packet::from_ethernet(bytes), Packet::ipv4_from_ethernet(bytes), Packet::from_ip(bytes));
    let endless = Packet::ipv4_from_ip(bytes);
    for packet in [all, ipv4, ip, endless].into_iter().flatten() {
        check(&packet);
    }
    agree(all, ipv4);
    if let (Ok(packet), true) = (ip, bytes.first().is_some_and(|first| first >> 4 == 4)) {
        assert_eq!(endless, Ok(packet), "where all is there, it does not matter who says how much that is");
    }
    if bytes.get(12..HEADER) == Some(&IPV4) && bytes.get(HEADER).is_some_and(|first| first >> 4 == 4) {
        assert_eq!(all, Packet::from_ip(&bytes[HEADER..]), "the same packet with and without its Ethernet header");
    }
    plain::<TCP>(bytes, ipv4);
    plain::<UDP>(bytes, ipv4);
}

/// The short way says what the long one says.
fn plain<const PROTOCOL: u8>(bytes: &[u8], ipv4: Result<Packet, Unparsed>) {
    let Some(plain) = bytes.first_chunk::<PLAIN_LEN>().and_then(|head| Plain::<PROTOCOL>::new(head, bytes.len()))
    else {
        return;
    };
    assert_eq!(Packet::ipv4_from_ethernet(&plain), ipv4);
}

/// What reads IPv4 only says of IPv4 what the other says, and of IPv6 that it is none.
fn agree(all: Result<Packet, Unparsed>, ipv4: Result<Packet, Unparsed>) {
    match (all, ipv4) {
        (Ok(packet), ipv4) if packet.source.is_ipv4() => assert_eq!(ipv4, Ok(packet)),
        (all, Ok(packet)) => panic!("{packet:?} is {all:?}"),
        (Err(reason), Err(other)) => assert!(reason == other || other == Unparsed::NotIp, "{reason:?}, {other:?}"),
        (Ok(_), Err(other)) => assert_eq!(other, Unparsed::NotIp),
    }
}

fn check(packet: &Packet) {
    assert_eq!(packet.source.is_ipv4(), packet.destination.is_ipv4());
    assert!(
        packet.ports.is_none() || packet.about.ends().is_none(),
        "ports of its own, and about something: {packet:?}"
    );
    assert!(!packet.opens || packet.ports.is_some(), "a first segment without ports: {packet:?}");
    let flow = Flow::of(packet);
    assert!(flow.is_none_or(|flow| flow.is_tcp() || packet.protocol != TCP));
    let remembered = Flow::remembered_for(packet);
    assert!(remembered.is_none() || remembered == flow && !packet.opens);
    if let Some(ports) = packet.ports {
        let mut back = *packet;
        (back.source, back.destination) = (packet.destination, packet.source);
        back.ports = Some(Ports { source: ports.destination, destination: ports.source });
        assert_eq!(Flow::of(&back), flow, "both directions are one flow");
    }
}
