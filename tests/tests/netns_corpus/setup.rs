//! What varies between runs, and how the corpus's places become interfaces.

use redirect_common::names::{ISTIOIN, ISTIOOUT, Mark};
use redirect_lab::backend::Backend;
use redirect_lab::corpus::Place;

/// One way to run the corpus.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// Whose rules.
    pub(crate) backend: Backend,
    /// How ztunnel is plumbed.
    pub(crate) veth: Veth,
    /// Bits that others have set on every packet and connection.
    pub(crate) foreign: u32,
    /// What a program of ours has marked every packet with already, as while the node changes its mode.
    pub(crate) marked: Option<Mark>,
    /// The tunnels' UDP port.
    pub(crate) tunnel_port: u16,
}

/// How ztunnel is plumbed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Veth {
    /// By a host-side veth that routes, as `ptp` makes it.
    Own,
    /// By a bridge together with the other pods: only its MAC address tells it from them.
    Bridged,
}

/// A node's interface and what is at its other end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interface {
    /// Name on the node.
    pub(crate) name: &'static str,
    /// Its MAC address.
    pub(crate) mac: [u8; 6],
}

/// ztunnel's host-side veth.
const PROXY: Interface = Interface { name: "vethz", mac: [2, 0, 0, 0, 1, 1] };
/// The host-side veth of the ztunnel beside it.
const PROXY_B: Interface = Interface { name: "vethy", mac: [2, 0, 0, 0, 1, 7] };
/// Another pod's, or the bridge of all.
const POD: Interface = Interface { name: "vethp", mac: [2, 0, 0, 0, 1, 2] };
const UPLINK: Interface = Interface { name: "eth0", mac: [2, 0, 0, 0, 1, 3] };
const TUNNEL_IN: Interface = Interface { name: ISTIOIN.node_link, mac: [2, 0, 0, 0, 1, 4] };
const TUNNEL_OUT: Interface = Interface { name: ISTIOOUT.node_link, mac: [2, 0, 0, 0, 1, 5] };
/// Where everything goes that is routed on.
pub(crate) const SINK: Interface = Interface { name: "sink", mac: [2, 0, 0, 0, 1, 6] };

/// All of them.
pub(crate) const INTERFACES: [Interface; 7] = [PROXY, PROXY_B, POD, UPLINK, TUNNEL_IN, TUNNEL_OUT, SINK];

/// ztunnel's MAC address; the others' differ in the last byte only.
const PROXY_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];
const PROXY_B_MAC: [u8; 6] = [2, 0, 0, 0, 2, 3];

impl Setup {
    /// The mark that every packet has before ours judges it.
    pub(crate) fn mark(self) -> u32 {
        self.marked.map_or(0, Mark::value) | self.foreign
    }

    /// The interface where packets of `place` arrive, and the MAC address that they come from; `None` for those that
    /// the node sends.
    pub(crate) fn entrance(self, place: Place) -> Option<(Interface, [u8; 6])> {
        match (place, self.veth) {
            (Place::TunnelIn, _) => Some((TUNNEL_IN, OTHER_MAC)),
            (Place::TunnelOut, _) => Some((TUNNEL_OUT, OTHER_MAC)),
            (Place::Proxy, Veth::Own) => Some((PROXY, PROXY_MAC)),
            (Place::Proxy, Veth::Bridged) => Some((POD, PROXY_MAC)),
            (Place::ProxyB, Veth::Own) => Some((PROXY_B, PROXY_B_MAC)),
            (Place::ProxyB, Veth::Bridged) => Some((POD, PROXY_B_MAC)),
            (Place::Pod, _) => Some((POD, OTHER_MAC)),
            (Place::Uplink, _) => Some((UPLINK, OTHER_MAC)),
            (Place::Output, _) => None,
        }
    }

    /// How the agent is told of both ztunnels' plumbing.
    pub(crate) fn agent_args(self) -> Vec<String> {
        let both = [(PROXY, PROXY_MAC), (PROXY_B, PROXY_B_MAC)];
        let args = both.map(|(interface, address)| match self.veth {
            Veth::Own => format!("--proxy-veth={}", interface.name),
            Veth::Bridged => format!("--proxy-veth={} --proxy-mac={}", POD.name, mac(address)),
        });
        args.join(" ").split(' ').map(str::to_owned).collect()
    }
}

/// As tools write it.
pub(crate) fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
