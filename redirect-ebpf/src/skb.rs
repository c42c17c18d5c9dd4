//! Reads a packet where the kernel has it, also what is not in the linear part of the skb.

use aya_ebpf::programs::TcContext;
use redirect_common::packet::Octets;

/// The packet that a program was called for.
pub(crate) struct Skb<'a> {
    context: &'a TcContext,
}

impl<'a> Skb<'a> {
    /// The packet of a tc program.
    #[inline]
    pub(crate) fn new(context: &'a TcContext) -> Self {
        Self { context }
    }
}

impl Octets for Skb<'_> {
    #[inline]
    fn size(&self) -> usize {
        self.context.len() as usize
    }

    #[inline]
    fn octets<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.context.load(offset).ok()
    }
}
