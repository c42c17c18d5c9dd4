//! Packets are counted by what the law said of them.

use crate::maps::COUNTS;

/// Counts one packet under `counter` (`redirect_common::maps::Counter`).
#[inline(always)]
pub(crate) fn count(counter: u32) {
    if let Some(value) = COUNTS.get_ptr_mut(counter) {
        // SAFETY: the kernel gives each processor its own value, and does not move this program to another one while it
        // runs; nobody else writes it.
        unsafe { *value += 1 };
    }
}
