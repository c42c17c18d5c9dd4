//! The law against its table. The rows are written a second time here, each by itself and as the table words it; every
//! combination of what the law reads is then decided by both, so each pair of rows that can meet is tried in its order.

extern crate std;

use core::net::IpAddr;
use std::collections::BTreeSet;
use std::vec::Vec;

use super::*;
use crate::names::TUNNEL_PORT;
use crate::packet::{About, Ports};

/// Addresses of one family.
struct Cast {
    meshed: IpAddr,
    node: IpAddr,
    proxy: IpAddr,
    proxy_b: IpAddr,
    other: IpAddr,
}

fn casts() -> [Cast; 2] {
    let ip = |bytes: [u8; 4]| IpAddr::from(bytes);
    let ip6 = |last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]);
    [
        Cast {
            meshed: ip([10, 244, 1, 5]),
            node: ip([172, 18, 0, 2]),
            proxy: ip([10, 244, 2, 3]),
            proxy_b: ip([10, 244, 2, 8]),
            other: ip([198, 51, 100, 7]),
        },
        Cast { meshed: ip6(5), node: ip6(2), proxy: ip6(3), proxy_b: ip6(8), other: ip6(7) },
    ]
}

/// All that the law reads, for one packet. It is its own view.
#[derive(Clone, Copy, Debug)]
struct Case {
    hook: Hook,
    packet: Packet,
    memory: Option<Memory>,
}

impl View for Case {
    fn is_meshed(&self, ip: IpAddr) -> bool {
        casts().iter().any(|cast| cast.meshed == ip)
    }
    fn is_node(&self, ip: IpAddr) -> bool {
        casts().iter().any(|cast| cast.node == ip)
    }
    fn is_proxy(&self, seat: Seat, ip: IpAddr) -> bool {
        let own = |cast: &Cast| if seat == Seat::A { cast.proxy } else { cast.proxy_b };
        casts().iter().any(|cast| own(cast) == ip)
    }
    fn tunnel_port(&self) -> u16 {
        TUNNEL_PORT
    }
    fn memory(&self, _: &Packet) -> Option<Memory> {
        self.memory
    }
}

const ROWS: [Row; 10] = [
    Row::FromTunnel,
    Row::TunnelItself,
    Row::KnownSkip,
    Row::KnownProxy,
    Row::ProxyAsClient,
    Row::ProxyOwn,
    Row::Udp,
    Row::NodeProbe,
    Row::Outbound,
    Row::Rest,
];

impl Case {
    /// The seat of the ztunnel whose veth it is.
    fn from(&self) -> Option<Seat> {
        Seat::ALL.into_iter().find(|seat| self.hook == Hook::Ingress(Ingress::Proxy(*seat)))
    }

    /// The seat of the ztunnel that spoke for the connection.
    fn known(&self) -> Option<Seat> {
        Seat::ALL.into_iter().find(|seat| self.memory == Some(Memory::Proxy(*seat)))
    }

    /// The seat that the verdict depends on.
    fn seat(&self, row: Row) -> Seat {
        let seat = if row == Row::KnownProxy { self.known() } else { self.from() };
        seat.unwrap_or_default()
    }

    /// The table's words for one row, regardless of the rows before it.
    fn matches(&self, row: Row) -> bool {
        let packet = &self.packet;
        let (udp, tcp) = (packet.protocol == UDP, packet.protocol == TCP);
        match row {
            Row::FromTunnel => self.hook == Hook::Ingress(Ingress::Tunnel),
            Row::TunnelItself => udp && packet.ports.is_some_and(|ports| ports.destination == TUNNEL_PORT),
            Row::KnownSkip => self.memory == Some(Memory::ConnSkip),
            Row::KnownProxy => self.from().is_none() && self.known().is_some(),
            Row::ProxyAsClient => self.from().is_some_and(|seat| !self.is_proxy(seat, packet.source)),
            Row::ProxyOwn => self.from().is_some(),
            Row::Udp => udp,
            Row::NodeProbe => {
                self.hook == Hook::Output && tcp && self.is_meshed(packet.destination) && self.is_node(packet.source)
            }
            Row::Outbound => tcp && self.is_meshed(packet.source),
            Row::Rest => true,
        }
    }

    fn matching(&self) -> Vec<Row> {
        ROWS.into_iter().filter(|&row| self.matches(row)).collect()
    }
}

fn cases() -> Vec<Case> {
    const HOOKS: [Hook; 5] = [
        Hook::Ingress(Ingress::Tunnel),
        Hook::Ingress(Ingress::Proxy(Seat::A)),
        Hook::Ingress(Ingress::Proxy(Seat::B)),
        Hook::Ingress(Ingress::Other),
        Hook::Output,
    ];
    const MEMORIES: [Option<Memory>; 4] =
        [None, Some(Memory::ConnSkip), Some(Memory::Proxy(Seat::A)), Some(Memory::Proxy(Seat::B))];
    let mut cases = Vec::new();
    for hook in HOOKS {
        for memory in MEMORIES {
            cases.extend(packets().into_iter().map(|packet| Case { hook, packet, memory }));
        }
    }
    cases
}

fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for cast in casts() {
        let addresses = [cast.meshed, cast.node, cast.proxy, cast.proxy_b, cast.other];
        for source in addresses {
            for destination in addresses {
                for (protocol, ports) in protocols() {
                    packets.push(Packet { source, destination, protocol, ports, opens: false, about: About::NOTHING });
                }
            }
        }
    }
    packets
}

fn protocols() -> Vec<(u8, Option<Ports>)> {
    let ports = [(40000, 80), (40000, TUNNEL_PORT), (TUNNEL_PORT, 40000), (TUNNEL_PORT, TUNNEL_PORT)];
    let ports = ports.map(|(source, destination)| Some(Ports { source, destination }));
    let with_ports = [TCP, UDP].into_iter().flat_map(|protocol| ports.map(|ports| (protocol, ports)));
    with_ports.chain([TCP, UDP, 1, 47, 58, 132].map(|protocol| (protocol, None))).collect()
}

#[test]
fn the_first_row_that_matches_wins() {
    for case in cases() {
        let verdict = decide(case.hook, &case.packet, &case);
        assert_eq!(Some(&verdict.row), case.matching().first(), "{case:?}");
        assert_eq!(verdict, verdict.row.verdict(case.seat(verdict.row)), "{case:?}");
    }
}

#[test]
fn every_pair_of_rows_that_can_meet_does() {
    let mut met = BTreeSet::new();
    for case in cases() {
        let rows = case.matching();
        for (at, &row) in rows.iter().enumerate() {
            met.extend(rows[at + 1..].iter().map(|&later| (row, later)));
        }
    }
    let all = ROWS.into_iter().flat_map(|row| ROWS.map(|later| (row, later))).filter(|(row, later)| row < later);
    let apart: Vec<_> = all.filter(|pair| !met.contains(pair)).collect();
    assert_eq!(
        apart,
        [
            // A packet arrives on one interface, or is sent by the node itself.
            (Row::FromTunnel, Row::ProxyAsClient),
            (Row::FromTunnel, Row::ProxyOwn),
            (Row::FromTunnel, Row::NodeProbe),
            // It is of one protocol.
            (Row::TunnelItself, Row::NodeProbe),
            (Row::TunnelItself, Row::Outbound),
            // A connection is remembered as one thing.
            (Row::KnownSkip, Row::KnownProxy),
            // Row 4 excludes ztunnel's veth.
            (Row::KnownProxy, Row::ProxyAsClient),
            (Row::KnownProxy, Row::ProxyOwn),
            (Row::ProxyAsClient, Row::NodeProbe),
            (Row::ProxyOwn, Row::NodeProbe),
            (Row::Udp, Row::NodeProbe),
            (Row::Udp, Row::Outbound),
            // A meshed pod's address is never the node's.
            (Row::NodeProbe, Row::Outbound),
        ]
    );
}

#[test]
fn what_each_row_does() {
    let known = |mark: Mark| Some(mark.in_place_of(OUTBOUND));
    let skip = known(SKIP);
    let conn_skip = (known(CONN_SKIP), Some(Memory::ConnSkip));
    for (seat, back) in [(Seat::A, PROXY_RETURN_A), (Seat::B, PROXY_RETURN_B)] {
        let expected = [
            (skip, None),
            (None, None),
            (skip, None),
            (known(back), None),
            (known(PROXY), Some(Memory::Proxy(seat))),
            conn_skip,
            conn_skip,
            conn_skip,
            (Some(OUTBOUND.in_place_of(back)), None),
            (None, None),
        ];
        for (number, (row, (mark, remember))) in (1_u8..).zip(ROWS.into_iter().zip(expected)) {
            assert_eq!(row as u8, number);
            assert_eq!(row.verdict(seat), Verdict { row, mark, remember });
        }
    }
}

/// By a program first and by a rule then, while the node changes its mode: only one of them may know the connection.
#[test]
fn of_two_verdicts_on_a_packet_the_later_one_decides() {
    for seat in Seat::ALL {
        let mark = |row: Row| row.verdict(seat).mark.unwrap();
        let both = |first: Row, then: Row| mark(then).apply(mark(first).value());
        let (outbound, back) = (OUTBOUND.value(), seat.way_back().value());
        assert_eq!(both(Row::Outbound, Row::KnownProxy), back);
        assert_eq!(both(Row::KnownProxy, Row::Outbound), outbound);
        assert_eq!(both(Row::Outbound, Row::KnownSkip), SKIP.value());
        // By way of ipvs, which sends on in the node's name what ztunnel sends to a virtual address.
        assert!(SKIP.matches(both(Row::ProxyAsClient, Row::KnownProxy)));
    }
}

/// But for the seat, which is remembered only.
#[test]
fn what_is_remembered_is_the_mark_that_is_written() {
    for (row, seat) in ROWS.into_iter().flat_map(|row| Seat::ALL.map(|seat| (row, seat))) {
        let verdict = row.verdict(seat);
        if let (Some(memory), Some(mark)) = (verdict.remember, verdict.mark) {
            assert!(mark.matches(memory.mark().value()), "{row:?}");
            assert_eq!(mark == memory.mark().in_place_of(OUTBOUND), memory == Memory::ConnSkip, "{row:?}");
        }
    }
}

/// Each kind of connection in both directions, as the node sees its packets.
#[test]
fn both_directions() {
    const POD: Hook = Hook::Ingress(Ingress::Other);
    const UPLINK: Hook = Hook::Ingress(Ingress::Other);
    const PROXY_VETH: Hook = Hook::Ingress(Ingress::Proxy(Seat::A));
    const OTHER_VETH: Hook = Hook::Ingress(Ingress::Proxy(Seat::B));
    for Cast { meshed, node, proxy, proxy_b, other } in casts() {
        let remembered_proxy = Some(Memory::Proxy(Seat::A));
        let remembered_b = Some(Memory::Proxy(Seat::B));
        let conn_skip = Some(Memory::ConnSkip);
        let ways = [
            ("meshed to remote", POD, meshed, other, None, Row::Outbound),
            ("its reply, if it ever came", UPLINK, other, meshed, None, Row::Rest),
            ("remote to meshed", UPLINK, other, meshed, None, Row::Rest),
            ("its reply, outside of ztunnel", POD, meshed, other, None, Row::Outbound),
            ("ztunnel to meshed as the client", PROXY_VETH, other, meshed, None, Row::ProxyAsClient),
            ("the pod's reply", POD, meshed, other, remembered_proxy, Row::KnownProxy),
            ("ztunnel to remote as the pod", PROXY_VETH, meshed, other, None, Row::ProxyAsClient),
            ("the remote's reply", UPLINK, other, meshed, remembered_proxy, Row::KnownProxy),
            ("ztunnel as the pod to the node", PROXY_VETH, meshed, node, None, Row::ProxyAsClient),
            ("the node's reply", Hook::Output, node, meshed, remembered_proxy, Row::KnownProxy),
            ("ztunnel's own", PROXY_VETH, proxy, other, None, Row::ProxyOwn),
            ("its reply", UPLINK, other, proxy, conn_skip, Row::KnownSkip),
            ("the other ztunnel to remote as the pod", OTHER_VETH, meshed, other, None, Row::ProxyAsClient),
            ("the remote's reply to it", UPLINK, other, meshed, remembered_b, Row::KnownProxy),
            ("the other ztunnel's own", OTHER_VETH, proxy_b, other, None, Row::ProxyOwn),
            ("with the first one's address", OTHER_VETH, proxy, other, None, Row::ProxyAsClient),
            ("probe", Hook::Output, node, meshed, None, Row::NodeProbe),
            ("its reply", POD, meshed, node, conn_skip, Row::KnownSkip),
            ("a forged probe", UPLINK, node, meshed, None, Row::Rest),
            ("ztunnel's address from elsewhere", POD, proxy, other, None, Row::Rest),
        ];
        for (name, hook, source, destination, memory, row) in ways {
            let ports = Some(Ports { source: 40000, destination: 80 });
            let packet = Packet { source, destination, protocol: TCP, ports, opens: false, about: About::NOTHING };
            assert_eq!(decide(hook, &packet, &Case { hook, packet, memory }).row, row, "{name}: {source}");
        }
    }
}
