//! What the programs cost: nanoseconds for a packet, by test runs that repeat it. No device, no route and no other packet is
//! in it, so this is the programs' own part with everything in the processor's caches.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use redirect_common::flow::{Flow, Remembered};
use redirect_common::maps::{Counter, counter_name, name};
use redirect_common::names::TUNNEL_PORT;
use redirect_common::packet::{Packet, TCP, UDP};
use redirect_common::policy::{Memory, Row, Seat};
use serde::Serialize;

use super::object::{Given, Object};
use super::program::Program;
use super::records::Record;
use super::world::World;
use crate::corpus::{self, MESHED, OUTSIDE, Place, Step, UNMESHED};

/// How many pods are meshed while it is measured. All sizes are measured in one run, side by side.
pub const PODS: [usize; 3] = [10, 1_000, 65_000];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What is measured.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    program: Program,
    frame: fn() -> Vec<u8>,
    /// Remembered of the packet's connection.
    memory: Option<Memory>,
    /// What the packet must be counted as.
    counter: Option<u32>,
}

const CASES: [Case; 8] = [
    Case { name: "empty", program: Program::Empty, frame: from_meshed, memory: None, counter: None },
    // Begun and given up at once: what is not IPv4.
    Case { name: "arp", program: Program::FromPod, frame: arp, memory: None, counter: Some(Counter::Other as u32) },
    // Reading, marking and counting, and no lookup.
    Case {
        name: "tunnel",
        program: Program::FromTunnel,
        frame: from_meshed,
        memory: None,
        counter: Some(Counter::of(Row::FromTunnel)),
    },
    Case {
        name: "hit",
        program: Program::FromPod,
        frame: from_meshed,
        memory: None,
        counter: Some(Counter::of(Row::Outbound)),
    },
    Case {
        name: "miss",
        program: Program::FromPod,
        frame: from_unmeshed,
        memory: None,
        counter: Some(Counter::of(Row::Rest)),
    },
    Case {
        name: "reply",
        program: Program::FromPod,
        frame: from_meshed,
        memory: Some(Memory::Proxy(Seat::A)),
        counter: Some(Counter::of(Row::KnownProxy)),
    },
    Case {
        name: "ztunnel",
        program: Program::FromProxy,
        frame: from_meshed,
        memory: Some(Memory::ConnSkip),
        counter: Some(Counter::of(Row::KnownSkip)),
    },
    Case {
        name: "udp",
        program: Program::FromPod,
        frame: datagram,
        memory: Some(Memory::ConnSkip),
        counter: Some(Counter::of(Row::KnownSkip)),
    },
];

/// How long it takes to measure, and how sure that is.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How often each case is measured, in turn with all others.
    pub rounds: usize,
    /// Packets for one measurement.
    pub repeat: u32,
}

/// Nanoseconds for a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Figure {
    /// What is measured.
    pub case: &'static str,
    /// Meshed pods.
    pub pods: usize,
    /// A tenth of the rounds took no more.
    pub p10: u64,
    /// The middle one.
    pub median: u64,
    /// A tenth of the rounds took no less.
    pub p90: u64,
    /// What the median is above the empty program's.
    pub over_empty: u64,
}

/// A case that is set up.
struct Stand {
    case: Case,
    pods: usize,
    object: Object,
    frame: Vec<u8>,
    times: Vec<u64>,
}

/// Measures every case at every number of pods, round by round, so that what disturbs the machine disturbs all alike.
pub fn measure(effort: Effort) -> Result<Vec<Figure>> {
    let mut stands = Vec::new();
    for pods in PODS {
        for case in CASES {
            stands.push(Stand::new(case, pods)?);
        }
    }
    for _ in 0..effort.rounds {
        for stand in &mut stands {
            stand.time(effort.repeat)?;
        }
    }
    let mut figures: Vec<Figure> = stands.iter_mut().map(Stand::figure).collect();
    let empty = |pods: usize, of: &[Figure]| {
        of.iter().find(|figure| figure.case == "empty" && figure.pods == pods).map_or(0, |figure| figure.median)
    };
    let known = figures.clone();
    for figure in &mut figures {
        figure.over_empty = figure.median.saturating_sub(empty(figure.pods, &known));
    }
    figures.sort_by_key(|figure| CASES.iter().position(|case| case.name == figure.case));
    Ok(figures)
}

impl Stand {
    fn new(case: Case, pods: usize) -> Result<Self> {
        let mut object = Object::load()?;
        World::of_the_corpus(TUNNEL_PORT).crowded(pods).tell(&mut object)?;
        let frame = (case.frame)();
        if let Some(memory) = case.memory {
            let packet = Packet::ipv4_from_ethernet(frame.as_slice())?;
            let flow = Flow::of(&packet).context("the packet is part of no connection")?;
            let mut flows = object.hash(if flow.is_tcp() { name::FLOWS } else { name::DATAGRAMS })?;
            flows.insert(Record(flow), Record(Remembered::new(memory)), 0).context("remember a connection")?;
        }
        let stand = Self { case, pods, object, frame, times: Vec::new() };
        stand.check()?;
        Ok(stand)
    }

    /// What is measured is what is meant.
    fn check(&self) -> Result<()> {
        self.object.run(self.case.program, self.given())?.context("this kernel tests no programs")?;
        let counted = self.object.counts()?;
        for (counter, count) in (0..).zip(counted) {
            let wanted = u64::from(self.case.counter == Some(counter));
            ensure!(count == wanted, "{}: {} were counted as {}", self.case.name, count, counter_name(counter));
        }
        Ok(())
    }

    fn time(&mut self, repeat: u32) -> Result<()> {
        let time = self.object.time(self.case.program, self.given(), repeat)?;
        self.times.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        Ok(())
    }

    fn given(&self) -> Given<'_> {
        Given { frame: &self.frame, mark: 0, ingress: 0 }
    }

    fn figure(&mut self) -> Figure {
        self.times.sort_unstable();
        let at = |tenths: usize| self.times.get((self.times.len().saturating_sub(1) * tenths) / 10).copied();
        let [p10, median, p90] = [1, 5, 9].map(|tenths| at(tenths).unwrap_or_default());
        Figure { case: self.case.name, pods: self.pods, p10, median, p90, over_empty: 0 }
    }
}

fn from_meshed() -> Vec<u8> {
    frame(MESHED, TCP)
}

fn from_unmeshed() -> Vec<u8> {
    frame(UNMESHED, TCP)
}

fn datagram() -> Vec<u8> {
    frame(MESHED, UDP)
}

fn arp() -> Vec<u8> {
    let mut frame = from_meshed();
    frame.splice(12..14, [8, 6]);
    frame
}

/// Data in the middle of a connection: for a first segment nothing would be looked up.
fn frame(source: Ipv4Addr, protocol: u8) -> Vec<u8> {
    let flow = corpus::Flow { protocol, client: (source.into(), 40000), server: (OUTSIDE.into(), 80) };
    let step = Step::new("data", Place::Pod, flow.data(), Ok(Row::Rest));
    step.packets(1).iter().map(|packet| step.frame(MAC, MAC, packet)).next().unwrap_or_default()
}

/// A table for people.
#[must_use]
pub fn render(figures: &[Figure]) -> String {
    let head = format!("{:<10}{:>8}{:>9}{:>14}{:>13}\n", "case", "pods", "median", "p10..p90", "over empty");
    figures.iter().fold(head, |table, figure| {
        let Figure { case, pods, p10, median, p90, over_empty } = figure;
        let spread = format!("{p10}..{p90}");
        format!("{table}{case:<10}{pods:>8}{median:>6} ns{spread:>11} ns{over_empty:>10} ns\n")
    })
}
