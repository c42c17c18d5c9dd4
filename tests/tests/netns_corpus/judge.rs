//! Sends the corpus and compares: the mark that each packet leaves the rules with, and the mark of its connection.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use redirect_common::packet::UDP;
use redirect_common::policy::{Row, Verdict};
use redirect_lab::corpus::{Connection, Conversation, Flow, NODE, OUTSIDE, Oracle, Place, Rules, Step};

use crate::net::{Net, connection_name};
use crate::nflog::Seen;

/// How long to wait for the kernel to say something of a packet, on an emulated CPU.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Netfilter's numbers (`include/uapi/linux/netfilter.h`).
const PREROUTING: u8 = 0;
const LOCAL_OUT: u8 = 3;

/// What came of a corpus.
#[derive(Default, Debug)]
pub(crate) struct Report {
    /// Packets that were sent.
    pub(crate) sent: usize,
    /// Packets that the rules saw.
    pub(crate) seen: usize,
    /// Packets that cannot be sent here (IPv6 by a local socket).
    pub(crate) left_out: usize,
    /// Where rules and law disagree.
    pub(crate) wrong: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, seen, left_out, wrong } = self;
        write!(f, "{sent} packets sent, {seen} seen by the rules, {left_out} left out, {} wrong", wrong.len())
    }
}

/// How long to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Until {
    /// The whole corpus.
    TheEnd,
    /// As soon as something is wrong.
    FirstWrong,
}

/// Sends `corpus` through the node's rules.
pub(crate) fn judge(net: &mut Net, corpus: &[Conversation], until: Until) -> Result<Report> {
    let mut oracle = Oracle::new(net.setup.tunnel_port);
    let mut report = Report::default();
    let mut id = 0;
    for conversation in corpus {
        for step in &conversation.steps {
            let name = format!("{} / {}", conversation.name, step.name);
            if step.place == Place::Output && step.datagram.source.is_ipv6() {
                report.left_out += 1;
                continue;
            }
            if until == Until::FirstWrong && !report.wrong.is_empty() {
                return Ok(report);
            }
            id += 2;
            let seen = send(net, step, id).with_context(|| name.clone())?;
            report.sent += 1;
            report.seen += usize::from(!seen.is_empty());
            let wrong = compare(net, &mut oracle, step, &seen);
            report.wrong.extend(wrong.into_iter().map(|wrong| format!("{name}: {wrong}")));
        }
    }
    Ok(report)
}

/// Sends a packet as `id`, and one behind it that is surely seen: then all that is to be seen of the first was.
fn send(net: &mut Net, step: &Step, id: u16) -> Result<Vec<Seen>> {
    let packets = step.packets(id);
    for packet in &packets {
        transmit(net, step, packet)?;
    }
    let probe = Flow { protocol: UDP, client: (NODE.into(), 7), server: (OUTSIDE.into(), 7) };
    let behind = Step::new("behind", step.place, probe.request(), Ok(Row::Udp));
    transmit(net, &behind, &behind.datagram.bytes(id + 1))?;
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    loop {
        for seen in net.nflog.next(deadline)? {
            if is_of(&seen, &behind, &behind.datagram.bytes(id + 1)) {
                return Ok(all);
            }
            if packets.iter().any(|packet| is_of(&seen, step, packet)) {
                all.push(seen);
            }
        }
    }
}

fn transmit(net: &Net, step: &Step, packet: &[u8]) -> Result<()> {
    match net.setup.entrance(step.place) {
        Some((interface, from)) => net.inject(interface.name, &step.frame(interface.mac, from, packet)),
        None => net.output(packet, step.mark, step.rules == Rules::AsLawOrDropped),
    }
}

/// Whether a packet that was seen is the one that was sent: same hook, identification, protocol and addresses.
fn is_of(seen: &Seen, step: &Step, sent: &[u8]) -> bool {
    let hook = if step.place == Place::Output { LOCAL_OUT } else { PREROUTING };
    let fields =
        |packet: &[u8]| Some((*packet.get(4..6)?.first_chunk::<2>()?, *packet.get(9)?, packet.get(12..20)?.to_vec()));
    seen.hook == hook && fields(&seen.packet).is_some_and(|seen| fields(sent) == Some(seen))
}

fn compare(net: &Net, oracle: &mut Oracle, step: &Step, seen: &[Seen]) -> Option<String> {
    let key = step.key();
    if step.anew {
        oracle.forget(key);
    }
    let verdict = step.rules_row().map(|row| oracle.verdict(row, step.place.hook(), key));
    if let Some(verdict) = &verdict {
        oracle.remember(key, verdict);
    }
    let (Verdict { row, mark, .. }, seen) = match (verdict, seen) {
        (None, []) => return None,
        (Some(_), []) if step.rules == Rules::AsLawOrDropped => return None,
        (Some(verdict), [seen]) => (verdict, seen),
        (verdict, _) => return Some(format!("seen {} times, expected {verdict:?}", seen.len())),
    };
    let before = net.setup.mark() | step.mark;
    let mark = mark.map_or(before, |mark| mark.apply(before));
    let connection = match step.connection {
        Connection::Unspecified => seen.prefix.clone(),
        Connection::Untracked => connection_name(None),
        Connection::Own | Connection::Of(_) => connection_name(Some(oracle.mark(key) | net.setup.foreign)),
    };
    let right = seen.mark == mark && seen.prefix == connection;
    let wrong = || format!("{row:?} is mark {mark:#x}, connection {connection}, not {:#x}, {}", seen.mark, seen.prefix);
    (!right).then(wrong)
}
