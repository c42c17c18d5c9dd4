//! What the corpus expects of a node: who its addresses belong to, and what it remembers of connections, keyed as
//! conntrack keys them: by protocol and both ends, whichever of them speaks. It decides nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use redirect_common::names::{CONN_SKIP, PROXY_A, PROXY_B};
use redirect_common::packet::Packet;
use redirect_common::policy::{Hook, Ingress, Memory, Row, Seat, Verdict, View};

use super::cast::{ALL_MESHED, ALL_NODE, ALL_PROXY};

/// What a connection is remembered by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    protocol: u8,
    ends: [(IpAddr, u16); 2],
}

impl Key {
    /// The key of a connection between two ends, in either order.
    #[must_use]
    pub fn new(protocol: u8, one: (IpAddr, u16), other: (IpAddr, u16)) -> Self {
        Self { protocol, ends: if one < other { [one, other] } else { [other, one] } }
    }
}

/// A node's memory while a corpus runs.
#[derive(Clone, Debug)]
pub struct Oracle {
    tunnel_port: u16,
    marks: BTreeMap<Key, u32>,
}

impl Oracle {
    /// A node that remembers nothing yet.
    #[must_use]
    pub fn new(tunnel_port: u16) -> Self {
        Self { tunnel_port, marks: BTreeMap::new() }
    }

    /// What the law may ask about a packet of the connection `key`; `None` where no connection can be told.
    #[must_use]
    pub fn view(&self, key: Option<Key>) -> impl View + use<'_> {
        Asked { oracle: self, mark: self.mark(key) }
    }

    /// What a row says of a packet of the connection `key` at `hook`: the seat of the ztunnel that it speaks of is the one that is
    /// remembered, or whose veth it is.
    #[must_use]
    pub fn verdict(&self, row: Row, hook: Hook, key: Option<Key>) -> Verdict {
        row.verdict(match (row, hook, remembered(self.mark(key))) {
            (Row::KnownProxy, _, Some(Memory::Proxy(seat))) | (_, Hook::Ingress(Ingress::Proxy(seat)), _) => seat,
            _ => Seat::A,
        })
    }

    /// The mark on the connection.
    #[must_use]
    pub fn mark(&self, key: Option<Key>) -> u32 {
        key.and_then(|key| self.marks.get(&key).copied()).unwrap_or_default()
    }

    /// Takes the connection for a new one.
    pub fn forget(&mut self, key: Option<Key>) {
        if let Some(key) = key {
            self.marks.remove(&key);
        }
    }

    /// Does to the connection what a verdict says.
    pub fn remember(&mut self, key: Option<Key>, verdict: &Verdict) {
        if let (Some(key), Some(memory)) = (key, verdict.remember) {
            let mark = self.marks.entry(key).or_default();
            *mark = memory.mark().apply(*mark);
        }
    }
}

struct Asked<'a> {
    oracle: &'a Oracle,
    mark: u32,
}

impl View for Asked<'_> {
    fn is_meshed(&self, ip: IpAddr) -> bool {
        ALL_MESHED.contains(&ip)
    }

    fn is_node(&self, ip: IpAddr) -> bool {
        ALL_NODE.contains(&ip)
    }

    fn is_proxy(&self, seat: Seat, ip: IpAddr) -> bool {
        ALL_PROXY.contains(&(seat, ip))
    }

    fn tunnel_port(&self) -> u16 {
        self.oracle.tunnel_port
    }

    fn memory(&self, _: &Packet) -> Option<Memory> {
        remembered(self.mark)
    }
}

/// A connection that was remembered as both bears both marks; row 3 comes first.
fn remembered(mark: u32) -> Option<Memory> {
    match mark {
        mark if CONN_SKIP.matches(mark) => Some(Memory::ConnSkip),
        mark if PROXY_A.matches(mark) => Some(Memory::Proxy(Seat::A)),
        mark if PROXY_B.matches(mark) => Some(Memory::Proxy(Seat::B)),
        _ => None,
    }
}
