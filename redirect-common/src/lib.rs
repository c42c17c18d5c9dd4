//! What kernel and user space agree on, and nothing else: no I/O, no allocation, no `unsafe`.
//!
//! * [`names`]: every name, number, mark and table that stands on a node, once.
//! * [`packet`]: bytes to [`packet::Packet`], bounded.
//! * [`policy`]: the law. The only place that decides what mark a packet gets.

#![no_std]
#![forbid(unsafe_code)]

pub mod names;
pub mod packet;
pub mod policy;
