//! The maps that the agent has pinned, by the hand of a test: what the programs remember is taken from them, and what they
//! count is read.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use redirect_common::flow::{Flow, Remembered};
use redirect_common::maps::{Address, COUNTERS, Config, Counter, Pod, counter_name, name};
use redirect_common::policy::Row;

use crate::bpf::records::Record;
use crate::lab::Lab;

/// Records as their bytes.
type FlowKey = [u8; size_of::<Flow>()];
type FlowValue = [u8; size_of::<Remembered>()];

/// What the programs remember of TCP.
#[derive(Debug)]
pub struct Flows(HashMap<MapData, FlowKey, FlowValue>);

impl Flows {
    /// Those of the lab's node.
    pub fn open(lab: &Lab) -> Result<Self> {
        Ok(Self(HashMap::try_from(open(lab, name::FLOWS)?)?))
    }

    /// How many there are.
    pub fn count(&self) -> Result<usize> {
        Ok(self.keys()?.len())
    }

    /// Takes all of them away, as the kernel does with one when it needs room; how many there were.
    pub fn forget(&mut self) -> Result<usize> {
        let keys = self.keys()?;
        for key in &keys {
            match self.0.remove(key) {
                // The kernel was faster.
                Err(MapError::KeyNotFound) => {}
                other => other.context("cannot forget a flow")?,
            }
        }
        Ok(keys.len())
    }

    fn keys(&self) -> Result<Vec<FlowKey>> {
        self.0.keys().collect::<Result<_, _>>().context("cannot list the flows")
    }
}

/// Packets that met a row of the law so far.
pub fn count(lab: &Lab, row: Row) -> Result<u64> {
    let counts: PerCpuArray<_, u64> = PerCpuArray::try_from(open(lab, name::COUNTS)?)?;
    Ok(counts.get(&Counter::of(row), 0)?.iter().sum())
}

/// Packets by counter so far, as text; those that there were none of are left out.
pub fn counts(lab: &Lab) -> Result<String> {
    let counts: PerCpuArray<_, u64> = PerCpuArray::try_from(open(lab, name::COUNTS)?)?;
    let mut all = Vec::new();
    for index in 0..COUNTERS {
        let sum: u64 = counts.get(&index, 0)?.iter().sum();
        all.extend((sum > 0).then(|| format!("{} {sum}", counter_name(index))));
    }
    Ok(all.join(", "))
}

/// The tunnels' UDP port, by which the programs know the tunnels' own packets.
pub fn tunnel_port(lab: &Lab) -> Result<u32> {
    let config: Array<_, Record<Config>> = Array::try_from(open(lab, name::CONFIG)?)?;
    Ok(config.get(&0, 0)?.0.tunnel_port)
}

/// Addresses of the meshed pods in the map of this layout.
pub fn pods(lab: &Lab) -> Result<Vec<Ipv4Addr>> {
    let keys: Vec<_> = Pods::open(lab)?.0.keys().collect::<Result<_, _>>().context("cannot list the pods")?;
    Ok(keys.into_iter().map(|key| Address::from_bytes(key).ip()).collect())
}

/// The map of meshed pods.
#[derive(Debug)]
pub struct Pods(HashMap<MapData, [u8; size_of::<Address>()], [u8; size_of::<Pod>()]>);

impl Pods {
    /// That of the lab's node.
    pub fn open(lab: &Lab) -> Result<Self> {
        Ok(Self(HashMap::try_from(open(lab, name::PODS)?)?))
    }

    /// Whether it holds the address.
    pub fn contains(&self, ip: Ipv4Addr) -> Result<bool> {
        match self.0.get(&Address::new(ip).bytes(), 0) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot look {ip} up")),
        }
    }
}

fn open(lab: &Lab, name: &str) -> Result<Map> {
    let pin = lab.map_pin(name);
    let data = MapData::from_pin(&pin).with_context(|| format!("cannot open {}", pin.display()))?;
    Ok(Map::from_map_data(data)?)
}
