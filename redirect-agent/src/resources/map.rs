//! The contents of the BPF maps that the agent fills: who is meshed, where, and what the node is. What the programs write
//! (flows, counters) is theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};
use redirect_common::maps::{Address, Config, Pod, Port, name};

use super::Context;
use super::ledger::{Kind, NOTHING};
use crate::kernel::bpf;

/// What must be in the maps.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Maps {
    /// Meshed pods by address.
    pub(crate) pods: BTreeMap<Ipv4Addr, Pod>,
    /// Addresses of the node.
    pub(crate) node: BTreeSet<Ipv4Addr>,
    /// Ports of bridges, by index.
    pub(crate) ports: BTreeMap<u32, Port>,
    pub(crate) config: Config,
}

/// Makes the maps hold exactly what is desired. The configuration and the node's addresses come first: a pod counts as soon as
/// it is in.
pub(crate) fn converge(context: &mut Context<'_>, ebpf: &mut Ebpf, desired: &Maps) -> anyhow::Result<()> {
    config(context, ebpf, desired.config)?;
    let node = desired.node.iter().map(|ip| (Address::new(*ip).bytes(), 1_u32.to_ne_bytes())).collect();
    entries(context, ebpf, name::NODE, &node, |key| Address::from_bytes(*key).ip().to_string())?;
    let ports = desired.ports.iter().map(|(index, port)| (index.to_ne_bytes(), port.bytes())).collect();
    entries(context, ebpf, name::PORTS, &ports, |key| format!("link {}", u32::from_ne_bytes(*key)))?;
    let pods = desired.pods.iter().map(|(ip, pod)| (Address::new(*ip).bytes(), pod.bytes())).collect();
    entries(context, ebpf, name::PODS, &pods, |key| Address::from_bytes(*key).ip().to_string())
}

fn config(context: &mut Context<'_>, ebpf: &mut Ebpf, desired: Config) -> anyhow::Result<()> {
    let map = ebpf.map_mut(name::CONFIG).context("no map CONFIG")?;
    let mut map: Array<&mut MapData, [u8; 32]> = Array::try_from(map)?;
    if map.get(&0, 0).context("read the map CONFIG")? != desired.bytes() {
        let outcome = bpf::write("update CONFIG", || Ok(map.set(0, desired.bytes(), 0)?));
        context.ledger.mend(Kind::Map, name::CONFIG, "another configuration", "written", outcome);
    }
    Ok(())
}

fn entries<const K: usize, const V: usize>(
    context: &mut Context<'_>,
    ebpf: &mut Ebpf,
    name: &str,
    desired: &BTreeMap<[u8; K], [u8; V]>,
    show: impl Fn(&[u8; K]) -> String,
) -> anyhow::Result<()> {
    let map = ebpf.map_mut(name).with_context(|| format!("no map {name}"))?;
    let mut map: HashMap<&mut MapData, [u8; K], [u8; V]> = HashMap::try_from(map)?;
    let observed: BTreeMap<_, _> =
        map.iter().collect::<Result<_, _>>().with_context(|| format!("read the map {name}"))?;
    for (key, value) in desired.iter().filter(|(key, value)| observed.get(*key) != Some(*value)) {
        let outcome = bpf::write(&format!("update {name}"), || Ok(map.insert(key, value, 0)?))
            .with_context(|| format!("write the map {name} (it may be full)"));
        let found = observed.get(key).map_or(NOTHING, |_| "another value");
        context.ledger.mend(Kind::Map, &format!("{name} entry {}", show(key)), found, "written", outcome);
    }
    for key in observed.keys().filter(|key| !desired.contains_key(*key)) {
        let outcome = bpf::write(&format!("delete from {name}"), || match map.remove(key) {
            Err(MapError::KeyNotFound) => Ok(()),
            other => Ok(other?),
        });
        context.ledger.mend(Kind::Map, &format!("{name} entry {}", show(key)), "an entry too many", "removed", outcome);
    }
    Ok(())
}
