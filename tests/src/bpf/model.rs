//! What the programs must do, said in user space.

use std::collections::HashMap;
use std::net::IpAddr;

use redirect_common::flow::Flow;
use redirect_common::maps::{COUNTERS, Counter};
use redirect_common::names::SKIP;
use redirect_common::packet::{Packet, TCP, Unparsed};
use redirect_common::policy::{Hook, Memory, Row, Seat, Verdict, View, decide};

use super::object::{Given, Ran};
use super::program::Program;
use super::world::World;

/// `TC_ACT_*` (`include/uapi/linux/pkt_cls.h`): the next program decides, the packet goes no further, it goes elsewhere.
pub const NEXT: i32 = -1;
/// See [`NEXT`].
pub const DROP: i32 = 2;
/// See [`NEXT`].
pub const REDIRECT: i32 = 7;

/// A node and what it remembers. Unlike the kernel's, its memory forgets nothing.
#[derive(Clone, Debug)]
pub struct Model {
    world: World,
    memory: HashMap<Flow, Memory>,
    counts: Vec<u64>,
}

struct Asked<'a> {
    model: &'a Model,
    flow: Option<Flow>,
}

impl Model {
    /// A node that remembers nothing.
    #[must_use]
    pub fn new(world: World) -> Self {
        Self { world, memory: HashMap::new(), counts: vec![0; COUNTERS as usize] }
    }

    /// Has what comes from a ztunnel come from the one on this seat.
    pub fn move_to(&mut self, seat: Seat) -> &World {
        self.world.here = seat;
        &self.world
    }

    /// How many connections it remembers.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.memory.len()
    }

    /// Forgets all connections.
    pub fn forget(&mut self) {
        self.memory.clear();
    }

    /// Packets by counter.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// What the program makes of a packet, and the row of the law that it meets, if it is asked.
    pub fn run(&mut self, program: Program, given: Given<'_>) -> (Ran, Option<Row>) {
        let untouched = Ran { action: NEXT, mark: given.mark, frame: given.frame.to_vec() };
        match (program, program.hook(self.world.here)) {
            (Program::FromNode, _) if given.ingress != 0 => (self.recalled(given, untouched), None),
            (_, Some(hook)) => self.judge(program, hook, given, untouched),
            (Program::ToPod, None) if given.ingress == 0 && !SKIP.matches(given.mark) => {
                self.judge(program, Hook::Output, given, untouched)
            }
            (Program::ToPod, None) => (self.toward_pod(given, untouched), None),
            (_, None) => (untouched, None),
        }
    }

    fn judge(&mut self, program: Program, hook: Hook, given: Given<'_>, before: Ran) -> (Ran, Option<Row>) {
        let packet = match self.read(program, given) {
            Ok(packet) => packet,
            Err(action) => return (Ran { action, ..before }, None),
        };
        let flow = Flow::of(&packet);
        let verdict = decide(hook, &packet, &Asked { model: self, flow });
        self.count(Counter::of(verdict.row));
        if let (Some(flow), Some(memory)) = (flow, verdict.remember) {
            self.memory.insert(flow, memory);
        }
        let mut after = before;
        after.mark = verdict.mark.map_or(given.mark, |mark| mark.apply(given.mark));
        match (program, self.world.bridge) {
            (Program::FromNode, _) => after.action = self.sent_to(&packet, &verdict),
            (_, Some(bridge)) if program.is_port() && self.has_to_be_routed(&packet) => {
                after.frame[..bridge.len()].copy_from_slice(&bridge);
            }
            _ => {}
        }
        (after, Some(verdict.row))
    }

    /// What has been judged where it arrived, and may have other ends since.
    fn recalled(&mut self, given: Given<'_>, before: Ran) -> Ran {
        let packet = match self.read(Program::FromNode, given) {
            Ok(packet) => packet,
            Err(action) => return Ran { action, ..before },
        };
        let asked = Asked { model: self, flow: Flow::of(&packet) };
        let Some(Memory::Proxy(seat)) = asked.memory(&packet) else { return before };
        self.count(Counter::of(Row::KnownProxy));
        let verdict = Row::KnownProxy.verdict(seat);
        Ran { action: self.sent_to(&packet, &verdict), mark: seat.way_back().apply(given.mark), ..before }
    }

    fn toward_pod(&mut self, given: Given<'_>, before: Ran) -> Ran {
        if SKIP.matches(given.mark) {
            return before;
        }
        let action = match self.read(Program::ToPod, given) {
            Ok(packet) if packet.protocol == TCP && self.is_meshed(packet.destination) => {
                self.count(Counter::Bypass as u32);
                DROP
            }
            Ok(_) => NEXT,
            Err(action) => action,
        };
        Ran { action, ..before }
    }

    fn read(&mut self, program: Program, given: Given<'_>) -> Result<Packet, i32> {
        let (counter, action) = match program.read(given.frame) {
            Ok(packet) => return Ok(packet),
            Err(Unparsed::NotIp) => (Counter::Other, NEXT),
            Err(_) if program.is_port() => (Counter::UnparsedDropped, DROP),
            Err(_) => (Counter::Unparsed, NEXT),
        };
        self.count(counter as u32);
        Err(action)
    }

    fn sent_to(&self, packet: &Packet, verdict: &Verdict) -> i32 {
        let device = match verdict.mark {
            Some(mark) if SKIP.matches(mark.value()) => {
                self.world.pods.get(&packet.destination).map_or(0, |pod| pod.device)
            }
            mark => Seat::ALL
                .into_iter()
                .find(|seat| mark.is_some_and(|mark| seat.way_back().matches(mark.value())))
                .map_or(0, |seat| self.world.proxies[seat as usize].1),
        };
        if device == 0 { NEXT } else { REDIRECT }
    }

    fn has_to_be_routed(&self, packet: &Packet) -> bool {
        packet.protocol == TCP && (self.is_meshed(packet.source) || self.is_meshed(packet.destination))
    }

    fn is_meshed(&self, ip: IpAddr) -> bool {
        self.world.pods.contains_key(&ip)
    }

    fn count(&mut self, counter: u32) {
        self.counts[counter as usize] += 1;
    }
}

impl View for Asked<'_> {
    fn is_meshed(&self, ip: IpAddr) -> bool {
        self.model.is_meshed(ip)
    }

    fn is_node(&self, ip: IpAddr) -> bool {
        self.model.world.node.contains(&ip)
    }

    fn is_proxy(&self, seat: Seat, ip: IpAddr) -> bool {
        self.model.world.proxies[seat as usize].0 == ip
    }

    fn tunnel_port(&self) -> u16 {
        self.model.world.tunnel_port
    }

    fn memory(&self, packet: &Packet) -> Option<Memory> {
        let flow = self.flow.filter(|_| !packet.opens)?;
        self.model.memory.get(&flow).copied()
    }
}
