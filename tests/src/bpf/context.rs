//! The part of `struct __sk_buff` that a test run may set (`convert___skb_to_skb`, `net/bpf/test_run.c`). The kernel takes a
//! shorter one for one with zeroes behind, so only the beginning is here.

use std::mem::size_of;

/// Where the fields are (`include/uapi/linux/bpf.h`), counted in words.
const MARK: usize = 2;
const INGRESS_IFINDEX: usize = 9;
const WORDS: usize = 11;
const LEN: usize = WORDS * size_of::<u32>();

/// What a program is told besides the packet, and tells.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Context {
    pub(super) mark: u32,
    /// Where the packet arrived; 0 for what a local socket sends.
    pub(super) ingress_ifindex: u32,
}

impl Context {
    /// Room for all that the kernel gives back, whatever fields it adds: it says so if there is too little.
    pub(super) const ROOM: usize = 512;

    pub(super) fn bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        for (field, value) in [(MARK, self.mark), (INGRESS_IFINDEX, self.ingress_ifindex)] {
            bytes[field * 4..field * 4 + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }

    /// The mark in what the kernel gave back.
    pub(super) fn mark_of(bytes: &[u8; Self::ROOM]) -> u32 {
        let [_, _, _, _, _, _, _, _, m0, m1, m2, m3, ..] = *bytes;
        u32::from_ne_bytes([m0, m1, m2, m3])
    }
}
