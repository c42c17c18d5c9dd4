//! A node as the corpus has it: what the maps hold, and the same for the model.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use redirect_common::flow::{Flow, Remembered};
use redirect_common::maps::{Address, Config, Pod, Port, Way, name};
use redirect_common::policy::Seat;

use super::object::Object;
use super::records::Record;
use crate::corpus::{ALL_NODE, MESHED, MESHED_B, MESHED6, PROXY, PROXY_B};

/// The device that the kernel runs tests on, unless told otherwise: the loopback of the netns.
pub const TEST_DEVICE: u32 = 1;

/// The node.
#[derive(Clone, Debug)]
pub struct World {
    /// Meshed pods.
    pub pods: BTreeMap<IpAddr, Pod>,
    /// The node's addresses.
    pub node: BTreeSet<IpAddr>,
    /// By seat: the ztunnel's address, and the device that leads to it; 0 if there is none.
    pub proxies: [(IpAddr, u32); 2],
    /// Whose veth the programs' device is, where they are a ztunnel's.
    pub here: Seat,
    /// The tunnels' UDP port.
    pub tunnel_port: u16,
    /// The MAC address of the bridge, if the programs' device is a port of one.
    pub bridge: Option<[u8; 6]>,
}

impl World {
    /// The corpus's node. One of the pods has no device yet, and one of the ztunnels.
    #[must_use]
    pub fn of_the_corpus(tunnel_port: u16) -> Self {
        let pod = |device| Pod { device, flags: 0 };
        Self {
            pods: [(MESHED.into(), pod(11)), (MESHED_B.into(), pod(0)), (MESHED6.into(), pod(12))].into(),
            node: ALL_NODE.into(),
            proxies: [(PROXY.into(), 13), (PROXY_B.into(), 0)],
            here: Seat::A,
            tunnel_port,
            bridge: None,
        }
    }

    /// With `count` meshed pods, those of the corpus among them.
    #[must_use]
    pub fn crowded(mut self, count: usize) -> Self {
        let others = (0..).map(|number: u32| IpAddr::from(Ipv4Addr::from_bits(0x0a80_0000 + number)));
        let missing = count.saturating_sub(self.pods.len());
        self.pods.extend(others.take(missing).map(|ip| (ip, Pod { device: 14, flags: 0 })));
        self
    }

    /// On a bridge's port.
    #[must_use]
    pub fn bridged(mut self) -> Self {
        self.bridge = Some([2, 0xb, 0xb, 0xb, 0xb, 0xb]);
        self
    }

    /// With every second of the pods traced.
    #[must_use]
    pub fn traced(mut self) -> Self {
        self.pods.values_mut().step_by(2).for_each(|pod| pod.flags |= Pod::TRACED);
        self
    }

    /// Makes the object's maps tell of this node, and of no connections.
    pub fn tell(&self, object: &mut Object) -> Result<()> {
        object.clear::<Record<Address>, Record<Pod>>(name::PODS)?;
        let mut pods = object.hash(name::PODS)?;
        for (ip, &pod) in self.pods.iter().filter_map(|(ip, pod)| Some((v4(*ip)?, pod))) {
            pods.insert(Record(Address::new(ip)), Record(pod), 0).context("add a pod")?;
        }
        object.clear::<Record<Address>, u32>(name::NODE)?;
        let mut node = object.hash(name::NODE)?;
        for ip in self.node.iter().copied().filter_map(v4) {
            node.insert(Record(Address::new(ip)), 1, 0).context("add an address of the node")?;
        }
        object.clear::<u32, Record<Port>>(name::PORTS)?;
        let mut ports = object.hash(name::PORTS)?;
        if let Some(bridge) = self.bridge {
            ports.insert(TEST_DEVICE, Record(Port { bridge, zero: [0; 2] }), 0).context("add a bridge's port")?;
        }
        self.configure(object)?;
        forget(object)
    }

    /// Tells what is no list, and leaves connections.
    pub fn configure(&self, object: &mut Object) -> Result<()> {
        let way = |(ip, device): (IpAddr, u32)| Way { ip: v4(ip).map(Address::new).unwrap_or_default(), device };
        let config = Config {
            seats: self.proxies.map(way),
            veth_b: if self.here == Seat::B { TEST_DEVICE } else { 0 },
            tunnel_port: self.tunnel_port.into(),
            bridged: self.bridge.is_some().into(),
            traced: self.pods.values().any(|pod| pod.flags & Pod::TRACED != 0).into(),
        };
        object.array(name::CONFIG)?.set(0, Record(config), 0).context("configure")
    }
}

/// The programs' maps are about IPv4 only.
fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

/// Forgets all connections.
pub fn forget(object: &mut Object) -> Result<()> {
    object.clear::<Record<Flow>, Record<Remembered>>(name::FLOWS)?;
    object.clear::<Record<Flow>, Record<Remembered>>(name::DATAGRAMS)
}
