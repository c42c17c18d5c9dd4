//! The programs of the object, and which of them meets a packet.

use std::fmt;

use redirect_common::policy::{Hook, Ingress};

use crate::corpus::Place;

/// A program of the object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Program {
    /// Ingress of pods' veths.
    FromPod,
    /// Ingress of what leads to other nodes.
    FromNetwork,
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
    pub const ALL: [Self; 7] =
        [Self::FromPod, Self::FromNetwork, Self::FromProxy, Self::FromTunnel, Self::FromNode, Self::ToPod, Self::Empty];
    /// Those that ask the law.
    pub const OF_THE_LAW: [Self; 5] =
        [Self::FromPod, Self::FromNetwork, Self::FromProxy, Self::FromTunnel, Self::FromNode];

    /// What the object calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "redirect_from_pod",
            Self::FromNetwork => "redirect_from_network",
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
            Place::Proxy => Self::FromProxy,
            Place::Pod => Self::FromPod,
            Place::Uplink => Self::FromNetwork,
            Place::Output => Self::FromNode,
        }
    }

    /// The hook that it asks the law about.
    #[must_use]
    pub const fn hook(self) -> Option<Hook> {
        match self {
            Self::FromPod | Self::FromNetwork => Some(Hook::Ingress(Ingress::Other)),
            Self::FromProxy => Some(Hook::Ingress(Ingress::Proxy)),
            Self::FromTunnel => Some(Hook::Ingress(Ingress::Tunnel)),
            Self::FromNode => Some(Hook::Output),
            Self::ToPod | Self::Empty => None,
        }
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
