//! What the law asks about the node, answered from the maps.

use core::cell::Cell;
use core::net::IpAddr;

use aya_ebpf::maps::LruHashMap;
use redirect_common::flow::{Flow, Remembered};
use redirect_common::maps::{Address, Config, Pod};
use redirect_common::packet::Packet;
use redirect_common::policy::{Memory, Seat, View};

use crate::maps::{CONFIG, DATAGRAMS, FLOWS, NODE, PODS};

/// The node, while one packet is looked at.
pub(crate) struct Node<'s> {
    config: &'static Config,
    /// The connection of the packet that is looked at.
    flow: Option<&'s Flow>,
    /// What the law was told of the packet's connection.
    recalled: Cell<Option<Memory>>,
}

impl<'s> Node<'s> {
    /// The node as a packet of `flow` meets it; `None` only if the array of one entry had none.
    #[inline(always)]
    pub(crate) fn new(flow: Option<&'s Flow>) -> Option<Self> {
        Some(Self { config: CONFIG.get(0)?, flow, recalled: Cell::new(None) })
    }

    /// What the agent says of it.
    #[inline(always)]
    pub(crate) fn config(&self) -> &'static Config {
        self.config
    }

    /// Does what a verdict says about the connection, unless it is so already: a write costs more than all the rest.
    #[inline(always)]
    pub(crate) fn remember(&self, memory: Memory) {
        if self.recalled.get() == Some(memory) {
            return;
        }
        if let Some(flow) = self.flow {
            // A full map gives up the entry that was longest unused; anything else that could fail leaves the packet to
            // ztunnel's own lookup of sockets.
            let _ = table(flow).insert(flow, &Remembered::new(memory), 0);
        }
    }
}

impl View for Node<'_> {
    #[inline(always)]
    fn is_meshed(&self, ip: IpAddr) -> bool {
        pod(ip).is_some()
    }

    #[inline(always)]
    fn is_node(&self, ip: IpAddr) -> bool {
        // SAFETY: the value is not read; whether there is one does not depend on concurrent writes to it.
        v4(ip).is_some_and(|ip| unsafe { NODE.get(&ip) }.is_some())
    }

    #[inline(always)]
    fn is_proxy(&self, seat: Seat, ip: IpAddr) -> bool {
        v4(ip) == Some(self.config.way(seat).ip)
    }

    #[inline(always)]
    fn tunnel_port(&self) -> u16 {
        self.config.tunnel_port as u16
    }

    #[inline(always)]
    fn memory(&self, packet: &Packet) -> Option<Memory> {
        let flow = self.flow.filter(|_| !packet.opens)?;
        // SAFETY: the value is a single word, read once.
        let memory = unsafe { table(flow).get(flow) }?.memory();
        self.recalled.set(memory);
        memory
    }
}

/// The meshed pod with this address.
#[inline(always)]
pub(crate) fn pod(ip: IpAddr) -> Option<&'static Pod> {
    // SAFETY: each field is a word of its own, and an entry that is taken out meanwhile stays readable until the program ends.
    v4(ip).and_then(|ip| unsafe { PODS.get(&ip) })
}

#[inline(always)]
fn v4(ip: IpAddr) -> Option<Address> {
    match ip {
        IpAddr::V4(ip) => Some(Address::new(ip)),
        IpAddr::V6(_) => None,
    }
}

#[inline(always)]
fn table(flow: &Flow) -> &'static LruHashMap<Flow, Remembered> {
    if flow.is_tcp() { &FLOWS } else { &DATAGRAMS }
}
