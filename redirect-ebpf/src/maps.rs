//! The maps. Their records, names and sizes are in `redirect_common::maps`; the agent pins and fills them.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use redirect_common::flow::{Flow, Remembered};
use redirect_common::maps::{
    Address, COUNTERS, Config, DEFAULT_FLOWS, MAX_NODE_ADDRESSES, MAX_PODS, MAX_PORTS, Pod, Port,
};

#[map]
pub(crate) static PODS: HashMap<Address, Pod> = HashMap::with_max_entries(MAX_PODS, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static FLOWS: LruHashMap<Flow, Remembered> = LruHashMap::with_max_entries(DEFAULT_FLOWS, 0);

#[map]
pub(crate) static DATAGRAMS: LruHashMap<Flow, Remembered> = LruHashMap::with_max_entries(DEFAULT_FLOWS, 0);

#[map]
pub(crate) static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static NODE: HashMap<Address, u32> = HashMap::with_max_entries(MAX_NODE_ADDRESSES, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static PORTS: HashMap<u32, Port> = HashMap::with_max_entries(MAX_PORTS, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);
