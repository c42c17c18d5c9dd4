//! Where a reader that judges frame by frame, with a memory of its own, gives another row than the law on whole connections
//! gives: the only such places, each with its reason. The programs in the kernel are such a reader; the iptables rules have
//! conntrack, which puts fragments together, knows states, and keeps track of every protocol.

use std::fmt;

use redirect_common::flow::Flow;
use redirect_common::packet::{Packet, Unparsed};
use redirect_common::policy::Row;

use super::Conversation;
use super::step::{Connection, Step};

/// A difference by design.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Difference {
    /// IPv6.
    Ipv6,
    /// A later fragment.
    LaterFragment,
    /// The first segment of a connection whose ends are remembered.
    FirstSegment,
    /// What is neither TCP nor UDP, nor an error about them.
    OtherProtocol,
    /// A packet that conntrack calls invalid.
    Invalid,
    /// A packet after one that conntrack called invalid.
    AfterInvalid,
    /// A packet that is cut short, from a device without a link layer.
    CutShort,
}

impl Difference {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Ipv6,
        Self::LaterFragment,
        Self::FirstSegment,
        Self::OtherProtocol,
        Self::Invalid,
        Self::AfterInvalid,
        Self::CutShort,
    ];

    /// Whether there is a link layer where it shows.
    #[must_use]
    pub const fn has_link_layer(self) -> bool {
        !matches!(self, Self::CutShort)
    }

    /// The difference by which the frame `piece` of packet `at` of a conversation may meet `row` although the law on the whole
    /// packet says another; `None` if there is no excuse.
    #[must_use]
    pub fn of(conversation: &Conversation, at: usize, piece: usize, frame: &[u8], row: Option<Row>) -> Option<Self> {
        let step = conversation.steps.get(at)?;
        let packet = match Packet::from_ethernet(frame) {
            Err(Unparsed::Truncated) if row.is_some() => return Some(Self::CutShort),
            packet => packet.ok(),
        };
        if step.datagram.source.is_ipv6() {
            return row.is_none().then_some(Self::Ipv6);
        }
        let packet = packet?;
        if piece > 0 && step.fragments.get(piece).copied() == row {
            return Some(Self::LaterFragment);
        }
        let (law, found) = (step.law.ok().is_some_and(is_known), row.is_some_and(is_known));
        let earlier = || conversation.steps[..at].iter().any(|earlier| precedes(earlier, &packet));
        match (law, found) {
            (true, false) if packet.opens => Some(Self::FirstSegment),
            (true, false) if Flow::of(&packet).is_none() => Some(Self::OtherProtocol),
            (false, true) if step.connection == Connection::Untracked => Some(Self::Invalid),
            (false, true) if earlier() => Some(Self::AfterInvalid),
            _ => None,
        }
    }

    /// Why it is so.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Ipv6 => "IPv6 is not redirected yet: the programs pass it on as it is",
            Self::LaterFragment => {
                "a later fragment names no ports, and so no connection and no tunnel: it is judged by its addresses and \
                 protocol. A meshed pod's TCP goes to ztunnel, never past it; conntrack, where it is on, puts fragments together \
                 before they are routed, and the whole bears the mark of the first"
            }
            Self::FirstSegment => {
                "a SYN without ACK begins a connection: what is remembered of an earlier one with the same ends does not count, \
                 because without conntrack nobody saw that one end, and a pod must not pass ztunnel by in its name"
            }
            Self::OtherProtocol => {
                "nothing is remembered of protocols other than TCP and UDP: only what ztunnel sends of them is marked, and their \
                 answers take the same way unmarked"
            }
            Self::Invalid => {
                "conntrack takes cut-off headers and impossible flags for no part of a connection; here a packet is part of the \
                 connection that its ports name"
            }
            Self::CutShort => {
                "without a link layer a program does not know how many bytes there are behind the IP header: a packet ends where \
                 its header says, and is judged by what is there. The kernel drops it afterwards (`ip_rcv_core`)"
            }
            Self::AfterInvalid => "what conntrack called invalid is remembered here, and its answer finds that",
        }
    }
}

fn is_known(row: Row) -> bool {
    matches!(row, Row::KnownSkip | Row::KnownProxy)
}

/// Whether `earlier` was called invalid and is of the connection that `packet` names.
fn precedes(earlier: &Step, packet: &Packet) -> bool {
    let same = || {
        let earlier = Packet::from_ip(earlier.datagram.bytes(1).as_slice()).ok()?;
        Some(Flow::of(&earlier)? == Flow::of(packet)?)
    };
    earlier.connection == Connection::Untracked && same().unwrap_or_default()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}
