//! What a line about a packet of a traced pod says: numbers, which the programs write and the agent turns into words.
//!
//! The message of a record of aya-log is, each behind a blank: where ([`At`]), index of the device, what was decided (an index of
//! [`counter_name`](crate::maps::counter_name)), the mark afterwards, source, its port, destination, its port, IP protocol.
//! Ports are 0 where there are none.

/// Where the packet was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum At {
    /// It arrived by a device that is neither ztunnel's nor a tunnel.
    Ingress = 1,
    /// It arrived by ztunnel's veth.
    FromProxy = 2,
    /// It arrived by `istioin` or `istioout`.
    FromTunnel = 3,
    /// A local socket sent it.
    Output = 4,
    /// It was on its way to a pod.
    ToPod = 5,
    /// It was on its way into `istioin` or `istioout`, from elsewhere.
    IntoTunnel = 6,
}

impl At {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Ingress, Self::FromProxy, Self::FromTunnel, Self::Output, Self::ToPod, Self::IntoTunnel];

    /// What lines call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::FromProxy => "from-proxy",
            Self::FromTunnel => "from-tunnel",
            Self::Output => "output",
            Self::ToPod => "to-pod",
            Self::IntoTunnel => "into-tunnel",
        }
    }
}
