//! How the parser reads: a constant number of bytes at an offset. Not a buffer, so that a BPF program can implement it by
//! `bpf_skb_load_bytes`, which also reaches what is not in the linear part of the skb.

/// Bytes that can be read in small pieces.
pub trait Octets {
    /// How many there are.
    fn size(&self) -> usize;

    /// The `N` bytes at `offset`, or `None` where they are not all there.
    fn octets<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Octets for [u8] {
    #[inline]
    fn size(&self) -> usize {
        self.len()
    }

    #[inline]
    fn octets<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

/// Bytes whose number is not known: those that are not there are missed when they are read.
pub(super) struct Endless<'a, T: ?Sized>(pub(super) &'a T);

impl<T: Octets + ?Sized> Octets for Endless<'_, T> {
    #[inline(always)]
    fn size(&self) -> usize {
        // As far as any offset comes, and then some.
        1 << 20
    }

    #[inline(always)]
    fn octets<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.octets(offset)
    }
}
