//! The programs of the object, and which of them meets a packet.

use std::borrow::Cow;
use std::fmt;

use redirect_common::packet::{MAX_TAGS, Packet, Unparsed};
use redirect_common::policy::{Hook, Ingress, Seat};

use crate::corpus::Place;

const ETHERTYPE_AT: usize = 12;

/// A program of the object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Program {
    /// Ingress of pods' veths.
    FromPod,
    /// Ingress of what leads to other nodes.
    FromNetwork,
    /// Ingress of what leads to other nodes without a link layer: its packets begin with their IP header.
    FromIp,
    /// Ingress of ztunnel's veth.
    FromProxy,
    /// Ingress of the tunnels.
    FromTunnel,
    /// Egress of `istioin`.
    FromNode,
    /// Egress of pods' veths.
    ToPod,
    /// Does nothing.
    Empty,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::FromPod,
        Self::FromNetwork,
        Self::FromIp,
        Self::FromProxy,
        Self::FromTunnel,
        Self::FromNode,
        Self::ToPod,
        Self::Empty,
    ];
    /// Those that ask the law.
    pub const OF_THE_LAW: [Self; 6] =
        [Self::FromPod, Self::FromNetwork, Self::FromIp, Self::FromProxy, Self::FromTunnel, Self::FromNode];

    /// What the object calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "redirect_from_pod",
            Self::FromNetwork => "redirect_from_network",
            Self::FromIp => "redirect_from_ip",
            Self::FromProxy => "redirect_from_proxy",
            Self::FromTunnel => "redirect_from_tunnel",
            Self::FromNode => "redirect_from_node",
            Self::ToPod => "redirect_to_pod",
            Self::Empty => "empty",
        }
    }

    /// The program that meets what the corpus has in `place`.
    #[must_use]
    pub const fn at(place: Place) -> Self {
        match place {
            Place::TunnelIn | Place::TunnelOut => Self::FromTunnel,
            Place::Proxy | Place::ProxyB => Self::FromProxy,
            Place::Pod => Self::FromPod,
            Place::Uplink => Self::FromNetwork,
            Place::Output => Self::FromNode,
        }
    }

    /// The hook that it asks the law about; ztunnel's, on a device of the one on this seat.
    #[must_use]
    pub const fn hook(self, seat: Seat) -> Option<Hook> {
        match self {
            Self::FromPod | Self::FromNetwork | Self::FromIp => Some(Hook::Ingress(Ingress::Other)),
            Self::FromProxy => Some(Hook::Ingress(Ingress::Proxy(seat))),
            Self::FromTunnel => Some(Hook::Ingress(Ingress::Tunnel)),
            Self::FromNode => Some(Hook::Output),
            Self::ToPod | Self::Empty => None,
        }
    }

    /// What it is given of a frame. Without a link layer there are no tags; the kernel's test wants something like an Ethernet
    /// header all the same, and takes what is behind it for the network's header.
    #[must_use]
    pub fn part(self, frame: &[u8]) -> Cow<'_, [u8]> {
        const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
        if self != Self::FromIp {
            return frame.into();
        }
        let (addresses, mut rest) = frame.split_at_checked(ETHERTYPE_AT).unwrap_or((frame, &[]));
        for _ in 0..MAX_TAGS {
            match rest {
                [a, b, _, _, behind @ ..] if TAGS.contains(&[*a, *b]) => rest = behind,
                _ => break,
            }
        }
        [addresses, rest].concat().into()
    }

    /// The packet in what it is given.
    pub fn read(self, given: &[u8]) -> Result<Packet, Unparsed> {
        if self == Self::FromIp {
            return Packet::ipv4_from_ip(given.get(ETHERTYPE_AT + 2..).unwrap_or_default());
        }
        Packet::ipv4_from_ethernet(given)
    }

    /// Whether what arrives by it comes from a pod, so that it drops what it cannot read, and on a bridge's port sees to it that
    /// TCP is routed.
    #[must_use]
    pub const fn is_port(self) -> bool {
        matches!(self, Self::FromPod | Self::FromProxy)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
