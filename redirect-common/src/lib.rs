//! What kernel and user space agree on, and nothing else: no I/O, no allocation, no `unsafe`.
//!
//! * [`names`]: every name, number, mark and table that stands on a node, once.
//! * [`packet`]: bytes to [`packet::Packet`], bounded.
//! * [`policy`]: the law. The only place that decides what mark a packet gets.
//! * [`flow`]: what a connection is remembered by, where no conntrack is asked.
//! * [`maps`]: the records in BPF maps, with a layout version.
//! * [`trace`]: what a line about a traced packet says.

#![no_std]
#![forbid(unsafe_code)]
#![allow(
    clippy::inline_always,
    reason = "a BPF program has no stack to spare for calls, and LLVM refuses some of them"
)]

pub mod flow;
pub mod maps;
pub mod names;
pub mod packet;
pub mod policy;
pub mod trace;
