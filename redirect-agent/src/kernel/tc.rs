//! Traffic control as the agent uses it: where on a device a program runs, the `clsact` qdisc with BPF filters in it, and the
//! TCX lists that newer kernels keep beside it. Single exchanges with the kernel; what is to stand is decided elsewhere.

use std::fmt;

use netlink_packet_route::tc::{TcHandle, TcHeader};

pub(crate) mod filter;
pub(crate) mod qdisc;
pub(crate) mod tcx;

/// Which packets of a device: those that come in through it, or those that leave by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub(crate) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The class of a `clsact` qdisc whose filters see these packets.
    const fn class(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: TcHandle::CLSACT.major, minor }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What every message about one side of a device begins with.
fn header(index: u32, parent: TcHandle) -> TcHeader {
    TcHeader { index: index.cast_signed(), parent, ..TcHeader::default() }
}
