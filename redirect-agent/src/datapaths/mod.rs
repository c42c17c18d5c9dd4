//! What each mode wants on the node beside what both have.

pub(crate) mod ebpf;
pub(crate) mod iptables;
