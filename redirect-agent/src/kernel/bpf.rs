//! Calls of bpf(2) that change something: maps, programs, links and their pins. `aya` makes them; this is where each of them
//! passes.

use super::fault::{self, Way};

/// Makes one change by bpf(2). `what` names it in a few words.
pub(crate) fn write<T>(what: &str, call: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    fault::write(Way::Bpf, || what.to_owned(), call)
}
