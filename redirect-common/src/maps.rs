//! The records in BPF maps. What changes here without raising [`LAYOUT`] breaks the agents that are already running.

use core::net::Ipv4Addr;

use crate::policy::{Row, Seat};

/// Version of everything below and of the maps' names and kinds; part of the path where maps are pinned.
pub const LAYOUT: u32 = if cfg!(feature = "other-layout") { OWN + 1 } else { OWN };
const OWN: u32 = 3;

/// Addresses of meshed pods that the map has room for.
pub const MAX_PODS: u32 = 65_536;
/// Flows remembered of TCP, and as many of UDP, unless configured.
pub const DEFAULT_FLOWS: u32 = 65_536;
/// Addresses of the node that the map has room for: kube-proxy's ipvs mode gives the node one of each Service.
pub const MAX_NODE_ADDRESSES: u32 = 65_536;
/// Bridge ports that the map has room for.
pub const MAX_PORTS: u32 = 4096;

/// Names of the maps, as the object and the pins have them.
pub mod name {
    /// [`Address`](super::Address) of a meshed pod to [`Pod`](super::Pod); hash.
    pub const PODS: &str = "PODS";
    /// [`Flow`](crate::flow::Flow) to [`Remembered`](crate::flow::Remembered), TCP; LRU hash.
    pub const FLOWS: &str = "FLOWS";
    /// As [`FLOWS`], UDP.
    pub const DATAGRAMS: &str = "DATAGRAMS";
    /// [`Config`](super::Config) at 0; array.
    pub const CONFIG: &str = "CONFIG";
    /// [`Address`](super::Address) of the node to 1; hash.
    pub const NODE: &str = "NODE";
    /// Index of a bridge port to [`Port`](super::Port); hash.
    pub const PORTS: &str = "PORTS";
    /// Packets by [`Counter`](super::Counter); per-CPU array.
    pub const COUNTS: &str = "COUNTS";
    /// Where the programs keep the packet that they look at; per-CPU array.
    pub const SCRATCH: &str = "SCRATCH";
    /// [`Tracing`](super::Tracing) at 0; per-CPU array.
    pub const TRACING: &str = "TRACING";
    /// Lines about packets of traced pods; ring buffer. aya-log finds it by this name.
    pub const LOG: &str = "AYA_LOGS";
    /// All of them. A map that is not pinned would be another one for every agent, and make the programs differ.
    pub const ALL: [&str; 10] = [PODS, FLOWS, DATAGRAMS, CONFIG, NODE, PORTS, COUNTS, SCRATCH, TRACING, LOG];
}

/// An IPv4 address, network byte order. IPv6 gets maps of its own, as it does for flows.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Address([u8; 4]);

impl Address {
    /// The record of an address.
    #[inline(always)]
    #[must_use]
    pub const fn new(ip: Ipv4Addr) -> Self {
        Self(ip.octets())
    }

    /// As it is in the map.
    #[must_use]
    pub const fn bytes(self) -> [u8; 4] {
        self.0
    }

    /// From a map.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }

    /// The address.
    #[inline(always)]
    #[must_use]
    pub const fn ip(self) -> Ipv4Addr {
        let [a, b, c, d] = self.0;
        Ipv4Addr::new(a, b, c, d)
    }
}

/// A meshed pod.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Pod {
    /// Moves what follows, in the version that only tests have.
    #[cfg(feature = "other-layout")]
    pub other: u32,
    /// Index of the device that leads to it on the node; 0 while there is none.
    pub device: u32,
    /// Bits of [`Pod::TRACED`].
    pub flags: u32,
}

impl Pod {
    /// The programs log what they decide about it.
    pub const TRACED: u32 = 1;

    /// Where the first word of all versions is.
    const START: usize = size_of::<Self>() - 8;

    /// The record of a pod behind this device.
    #[must_use]
    pub const fn new(device: u32, flags: u32) -> Self {
        Self {
            #[cfg(feature = "other-layout")]
            other: 0,
            device,
            flags,
        }
    }

    /// As it is in the map.
    #[must_use]
    pub fn bytes(self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        let fields = self.device.to_ne_bytes().into_iter().chain(self.flags.to_ne_bytes());
        bytes[Self::START..].iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
        bytes
    }

    /// From a map.
    #[must_use]
    pub fn from_bytes(bytes: [u8; size_of::<Self>()]) -> Self {
        let word = |at| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self::new(word(Self::START), word(Self::START + 4))
    }
}

/// The way to a ztunnel.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Way {
    /// Its address; all zero while there is none, which is no source of any packet.
    pub ip: Address,
    /// Index of the device that leads to it: its veth, or the bridge of that.
    pub device: u32,
}

/// What the programs know of the node. It is written word by word while they read it, so no word may be wrong beside those of before:
/// a seat is filled before anything is remembered of whom it is for, and emptied after all of that has ended.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Config {
    /// The way to the ztunnel on each seat, in their order. To a seat that nobody has it is the way to the other: what began with one
    /// that has gone is the other's to refuse.
    pub seats: [Way; 2],
    /// Index of the host-side veth of the ztunnel on seat B; 0 while there is none. Any other one that there is a program for is
    /// seat A's.
    pub veth_b: u32,
    /// UDP port of the tunnels, host byte order.
    pub tunnel_port: u32,
    /// 1 if there are ports of bridges, else 0: then no packet's device is looked up among them.
    pub bridged: u32,
    /// 1 if a pod is traced, else 0: then no packet's pods are looked up for it.
    pub traced: u32,
}

impl Config {
    /// The way to the ztunnel on a seat.
    #[inline(always)]
    #[must_use]
    pub const fn way(&self, seat: Seat) -> &Way {
        let [a, b] = &self.seats;
        match seat {
            Seat::A => a,
            Seat::B => b,
        }
    }

    /// The seat of the ztunnel whose host-side veth has this index.
    #[inline(always)]
    #[must_use]
    pub const fn seat_of(&self, veth: u32) -> Seat {
        if self.veth_b == veth { Seat::B } else { Seat::A }
    }

    /// As it is in the map.
    #[must_use]
    pub fn bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let way = |way: Way| way.ip.0.into_iter().chain(way.device.to_ne_bytes());
        let words = [self.veth_b, self.tunnel_port, self.bridged, self.traced];
        let fields = self.seats.into_iter().flat_map(way).chain(words.into_iter().flat_map(u32::to_ne_bytes));
        bytes.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
        bytes
    }
}

/// A port of a bridge whose TCP from and to meshed pods has to be routed by the node, not switched.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Port {
    /// MAC address of the bridge.
    pub bridge: [u8; 6],
    /// Always zero.
    pub zero: [u8; 2],
}

impl Port {
    /// The record of a port of the bridge with this MAC address.
    #[must_use]
    pub const fn new(bridge: [u8; 6]) -> Self {
        Self { bridge, zero: [0; 2] }
    }

    /// As it is in the map.
    #[must_use]
    pub const fn bytes(self) -> [u8; 8] {
        let mac = self.bridge;
        [mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0]
    }
}

/// Lines of one processor, so that no pod can have the kernel and the agent write without end.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Tracing {
    /// The stretch of time that is counted in: nanoseconds since boot over 2^30, a little more than a second.
    pub window: u64,
    /// Lines in it so far.
    pub lines: u64,
    /// Lines that were not written, since the map was made.
    pub lost: u64,
}

impl Tracing {
    /// Lines that a processor writes in one window.
    pub const MOST: u64 = 64;

    /// The fields in order, as the map has them.
    #[must_use]
    pub const fn from_words([window, lines, lost]: [u64; 3]) -> Self {
        Self { window, lines, lost }
    }
}

/// What packets are counted by: index in the map of counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Counter {
    /// Not IPv4: passed on without a look.
    Other = 0,
    /// Cannot be read, and passed on.
    Unparsed = 11,
    /// Cannot be read, and comes from a pod: dropped.
    UnparsedDropped = 12,
    /// TCP on its way to a meshed pod past ztunnel: dropped.
    Bypass = 13,
}

/// How many counters there are.
pub const COUNTERS: u32 = 14;

/// What the packets at an index are called in status and metrics.
#[must_use]
pub const fn counter_name(index: u32) -> &'static str {
    match index {
        0 => "other",
        1 => "from-tunnel",
        2 => "tunnel-itself",
        3 => "known-skip",
        4 => "known-proxy",
        5 => "proxy-as-client",
        6 => "proxy-own",
        7 => "udp",
        8 => "node-probe",
        9 => "outbound",
        10 => "rest",
        11 => "unparsed",
        12 => "unparsed-dropped",
        _ => "bypass-dropped",
    }
}

impl Counter {
    /// The index of a row's packets.
    #[inline]
    #[must_use]
    pub const fn of(row: Row) -> u32 {
        row as u32
    }
}

#[cfg(test)]
mod tests {
    use core::mem::size_of;

    use super::*;

    #[test]
    fn records_have_no_padding() {
        assert_eq!(size_of::<Pod>(), if cfg!(feature = "other-layout") { 12 } else { 8 });
        assert_eq!(size_of::<Way>(), 8);
        assert_eq!(size_of::<Config>(), 2 * 8 + 4 * 4);
        assert_eq!(size_of::<Tracing>(), 3 * 8);
        assert_eq!(size_of::<Port>(), 8);
        assert_eq!(size_of::<Address>(), 4);
    }

    #[test]
    fn a_pod_survives_its_record() {
        let pod = Pod::new(7, Pod::TRACED);
        assert_eq!(Pod::from_bytes(pod.bytes()), pod);
    }

    #[test]
    fn an_address_survives_its_record() {
        let ip = Ipv4Addr::new(10, 0, 0, 1);
        assert_eq!(Address::new(ip).ip(), ip);
        assert_eq!(Address::from_bytes(Address::new(ip).bytes()).ip(), ip);
    }

    #[test]
    fn rows_and_others_do_not_share_a_counter() {
        assert_eq!(Counter::of(Row::FromTunnel), Counter::Other as u32 + 1);
        assert_eq!(Counter::of(Row::Rest) + 1, Counter::Unparsed as u32);
    }
}
