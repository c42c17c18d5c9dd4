//! What is counted.

use crate::maps::COUNTS;

/// Index in the map of counters.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Counter {
    /// The source is a meshed pod.
    Meshed = 0,
    /// The source is not.
    Other = 1,
    /// Not a packet that the law knows how to read.
    Unparsed = 2,
}

/// How many there are.
pub(crate) const COUNTERS: u32 = 3;

/// Counts one packet.
#[inline]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = COUNTS.get_ptr_mut(counter as u32) {
        // SAFETY: the kernel gives each processor its own value, and does not move this program to another one while it
        // runs; nobody else writes it.
        unsafe { *value += 1 };
    }
}
