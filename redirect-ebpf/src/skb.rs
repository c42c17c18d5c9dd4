//! The packet where the kernel has it: reading it, also what is not in the linear part of the skb, and writing its mark.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::bpf_skb_load_bytes_relative;
use aya_ebpf::programs::TcContext;
use redirect_common::names::Mark;
use redirect_common::packet::{Octets, PLAIN_LEN, Plain};

/// The packet that a program was called for.
pub(crate) struct Skb<'a> {
    context: &'a TcContext,
}

impl<'a> Skb<'a> {
    /// The packet of a tc program.
    #[inline(always)]
    pub(crate) fn new(context: &'a TcContext) -> Self {
        Self { context }
    }

    /// Its mark.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        self.raw().mark
    }

    /// Writes a mark's bits and leaves the others.
    #[inline(always)]
    pub(crate) fn write_mark(&self, mark: Mark) {
        self.context.set_mark(mark.apply(self.mark()));
    }

    /// Index of the device that it is on now.
    #[inline(always)]
    pub(crate) fn device(&self) -> u32 {
        self.raw().ifindex
    }

    /// Whether a local socket sends it: what has arrived from a device bears that device's index (`skb_iif`).
    #[inline(always)]
    pub(crate) fn is_local(&self) -> bool {
        self.raw().ingress_ifindex == 0
    }

    /// The packet as most are, read where the kernel has it; `None` where it has another shape, or is not linear so far.
    #[inline(always)]
    pub(crate) fn plain<const PROTOCOL: u8>(&self) -> Option<Plain<'_, PROTOCOL>> {
        let (start, end) = (self.context.data(), self.context.data_end());
        if start + PLAIN_LEN > end {
            return None;
        }
        // SAFETY: so many bytes are there, as the verifier has seen too, and nothing is written before they are read.
        let head = unsafe { &*(start as *const [u8; PLAIN_LEN]) };
        Plain::new(head, self.size())
    }

    /// Addresses the frame to another station.
    #[inline(always)]
    pub(crate) fn address_to(&self, mac: [u8; 6]) {
        // What could fail (a frame without room for its own header) has been read before.
        let _ = self.context.store(0, &mac, 0);
    }

    /// As the kernel shows it.
    #[inline(always)]
    pub(crate) fn raw(&self) -> &__sk_buff {
        // SAFETY: the kernel hands the program a context that is valid for as long as it runs.
        unsafe { &*self.context.skb.skb }
    }
}

impl Octets for Skb<'_> {
    #[inline(always)]
    fn size(&self) -> usize {
        self.context.len() as usize
    }

    #[inline(always)]
    fn octets<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.context.load(offset).ok()
    }
}

/// The packet from its IP header on. Of a device without a link layer, not even the kernel's idea of where the packet begins
/// says where that is: IPIP leaves the outer headers before it until 5.14 (`ipip_tunnel_rcv`, net/ipv4/ipip.c).
pub(crate) struct Network<'a>(pub(crate) &'a Skb<'a>);

impl Octets for Network<'_> {
    #[inline(always)]
    fn size(&self) -> usize {
        self.0.size()
    }

    #[inline(always)]
    fn octets<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut octets = MaybeUninit::<[u8; N]>::uninit();
        let (skb, offset) = (self.0.context.skb.skb, u32::try_from(offset).ok()?);
        // SAFETY: as many bytes are written as there is room for, or the call fails.
        let outcome = unsafe {
            bpf_skb_load_bytes_relative(skb.cast(), offset, octets.as_mut_ptr().cast(), N as u32, BPF_HDR_START_NET)
        };
        // SAFETY: the call has written all of them.
        (outcome == 0).then(|| unsafe { octets.assume_init() })
    }
}
