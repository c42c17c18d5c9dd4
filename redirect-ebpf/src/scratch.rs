//! Where a program keeps the packet that it looks at: its stack (512 bytes, `MAX_BPF_STACK`) is too small for it.
//!
//! One for each processor is enough: tc programs run with bottom halves disabled (`sch_handle_ingress`, `sch_handle_egress`,
//! net/core/dev.c), and none of ours makes another one run before it ends.

use core::mem::MaybeUninit;

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use redirect_common::flow::Flow;
use redirect_common::packet::Packet;

/// What is known of the packet.
#[repr(C)]
pub(crate) struct Scratch {
    /// As it was read. The kernel's zeros are no packet: it is written before it is read.
    packet: MaybeUninit<Packet>,
    /// The connection that it is part of, written where there is one.
    flow: MaybeUninit<Flow>,
    /// Whether there is one.
    has_flow: bool,
}

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

impl Scratch {
    /// Keeps a packet.
    #[inline(always)]
    pub(crate) fn keep(&mut self, packet: Packet) {
        let packet = self.packet.write(packet);
        self.has_flow = false;
        if let Some(flow) = Flow::of(packet) {
            self.flow.write(flow);
            self.has_flow = true;
        }
    }

    /// The packet that is kept.
    ///
    /// # Safety
    /// One has been kept.
    #[inline(always)]
    pub(crate) unsafe fn packet(&self) -> &Packet {
        // SAFETY: the caller has seen to it.
        unsafe { self.packet.assume_init_ref() }
    }

    /// Its flow.
    #[inline(always)]
    pub(crate) fn flow(&self) -> Option<&Flow> {
        // SAFETY: it is written before it is said to be there.
        self.has_flow.then(|| unsafe { self.flow.assume_init_ref() })
    }
}

/// This processor's.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: nobody else has it while this program runs, see above; any bytes are a value of it.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}
