//! The parser must answer every shape of input, and its entries must agree where they read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redirect_common::flow::Flow;
use redirect_common::packet::{Packet, Unparsed};

/// Ethernet's header without tags.
const HEADER: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];

fuzz_target!(|bytes: &[u8]| {
    let (all, ipv4, ip) = (Packet::from_ethernet(bytes), Packet::ipv4_from_ethernet(bytes), Packet::from_ip(bytes));
    for packet in [all, ipv4, ip].into_iter().flatten() {
        check(&packet);
    }
    agree(all, ipv4);
    if bytes.get(12..HEADER) == Some(&IPV4) && bytes.get(HEADER).is_some_and(|first| first >> 4 == 4) {
        assert_eq!(all, Packet::from_ip(&bytes[HEADER..]), "the same packet with and without its Ethernet header");
    }
});

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
    assert!(flow.is_none_or(|flow| flow.is_tcp() || packet.protocol != redirect_common::packet::TCP));
    let remembered = Flow::remembered_for(packet);
    assert!(remembered.is_none() || remembered == flow && !packet.opens);
    if let Some(ports) = packet.ports {
        let mut back = *packet;
        (back.source, back.destination) = (packet.destination, packet.source);
        back.ports = Some(redirect_common::packet::Ports { source: ports.destination, destination: ports.source });
        assert_eq!(Flow::of(&back), flow, "both directions are one flow");
    }
}
