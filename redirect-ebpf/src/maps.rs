//! The maps, and how they are asked.

use core::net::IpAddr;

use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray};

use crate::count::COUNTERS;

/// How many addresses of meshed pods a node can have.
const MAX_PODS: u32 = 4096;

/// Addresses of the meshed pods of this node, as IPv6 (IPv4 mapped, RFC 4291 section 2.5.5.2). The value is for later.
#[map]
static PODS: HashMap<[u8; 16], u32> = HashMap::with_max_entries(MAX_PODS, 0);

/// Packets by [`crate::count::Counter`].
#[map]
pub(crate) static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);

/// Whether `ip` belongs to a meshed pod of this node.
#[inline]
pub(crate) fn is_meshed(ip: IpAddr) -> bool {
    let key = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    // SAFETY: the value is not read; whether there is one does not depend on concurrent writes to it.
    unsafe { PODS.get(&key.octets()) }.is_some()
}
