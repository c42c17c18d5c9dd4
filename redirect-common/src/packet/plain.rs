//! The head of a frame as most TCP and UDP has it: Ethernet without tags, IPv4 without options. All that the law reads of it
//! lies at constant places, so a BPF program that has seen it to be plain reads it where the kernel has it, and calls none
//! of the kernel's functions for it.

use super::Octets;

/// How many bytes are looked at: down to the end of a TCP header without options. A datagram that is shorter is read in the way
/// that reads all.
pub const PLAIN_LEN: usize = 14 + 20 + 20;

/// The first bytes of a frame that was seen to be plain, of an IP protocol that is known when the program is built.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a, const PROTOCOL: u8> {
    head: &'a [u8; PLAIN_LEN],
    size: usize,
}

impl<'a, const PROTOCOL: u8> Plain<'a, PROTOCOL> {
    /// What makes a frame plain: IPv4, version 4 and five words of header, the protocol. Each is a place and what stands there.
    const KNOWN: [(usize, u8); 4] = [(12, 0x08), (13, 0x00), (14, 0x45), (23, PROTOCOL)];

    /// A frame of `size` bytes by its first ones; `None` if it is of another shape.
    #[inline(always)]
    #[must_use]
    pub fn new(head: &'a [u8; PLAIN_LEN], size: usize) -> Option<Self> {
        let [a, b, c, d] = Self::KNOWN;
        let is = |(at, byte): (usize, u8)| head[at] == byte;
        (is(a) && is(b) && is(c) && is(d)).then_some(Self { head, size })
    }
}

impl<const PROTOCOL: u8> Octets for Plain<'_, PROTOCOL> {
    #[inline(always)]
    fn size(&self) -> usize {
        self.size
    }

    #[inline(always)]
    fn octets<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut octets: [u8; N] = *self.head.get(offset..)?.first_chunk()?;
        // Said once more as constants: from them the compiler knows where everything else lies, and so does the verifier.
        for (at, byte) in Self::KNOWN {
            if at >= offset && at - offset < N {
                octets[at - offset] = byte;
            }
        }
        Some(octets)
    }
}
