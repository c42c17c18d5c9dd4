//! Whether this kernel, with this process's permissions, can attach programs: found by doing it, on the loopback device of a
//! network namespace that nobody else is in.

use std::os::fd::AsFd as _;
use std::thread;

use anyhow::Context as _;
use aya::programs::{ProgramInfo, SchedClassifier};
use nix::sched::{CloneFlags, unshare};

use super::diff::HANDLE;
use super::{AttachKind, Programs};
use crate::kernel::netlink::Netlink;
use crate::kernel::tc::filter::{self, Slot};
use crate::kernel::tc::{Direction, qdisc, tcx};

/// The index of `lo` in every namespace (`loopback_net_init`, `drivers/net/loopback.c`).
const LOOPBACK: u32 = 1;

/// Attaches one program in both directions, swaps it, reads it back and detaches it. To the kernel all of ours are of one type.
pub(crate) fn probe(kind: AttachKind, programs: &Programs) -> anyhow::Result<()> {
    // The namespace belongs to the thread and goes with it.
    let attempt = thread::scope(|scope| scope.spawn(|| in_scratch(kind, programs)).join());
    attempt.map_err(|_| anyhow::anyhow!("the probe panicked"))?.with_context(|| format!("attach by {kind}"))
}

fn in_scratch(kind: AttachKind, programs: &Programs) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    let mut netlink = Netlink::open()?;
    if kind == AttachKind::Clsact {
        qdisc::add(&mut netlink, LOOPBACK).context("add a clsact qdisc")?;
    }
    let (name, identity) = programs.iter().next().context("no programs are loaded")?;
    Direction::ALL.into_iter().try_for_each(|direction| {
        let attempt = programs.with(name, |program| match kind {
            AttachKind::Tcx => by_link(program, direction, identity.id),
            AttachKind::Clsact => by_filter(&mut netlink, program, name, direction, identity.id),
        });
        attempt.with_context(|| format!("{name} on {direction}"))
    })
}

fn by_link(program: &mut SchedClassifier, direction: Direction, id: u32) -> anyhow::Result<()> {
    let link = tcx::attach_first(program, "lo", direction)?;
    let link = tcx::swap_link(program, link).context("swap it")?;
    let first = tcx::query("lo", direction)?.first().map(ProgramInfo::id);
    anyhow::ensure!(first == Some(id), "it is not the first on the device");
    drop(link);
    Ok(())
}

fn by_filter(
    netlink: &mut Netlink,
    program: &SchedClassifier,
    name: &str,
    direction: Direction,
    id: u32,
) -> anyhow::Result<()> {
    let slot = Slot { index: LOOPBACK, direction, priority: 1, handle: HANDLE };
    filter::add(netlink, slot, name, program.fd()?.as_fd()).context("add a filter")?;
    filter::replace(netlink, slot, name, program.fd()?.as_fd()).context("swap it")?;
    let filters = filter::dump(netlink, LOOPBACK, direction)?;
    let stands = filters.iter().any(|filter| filter.program.as_ref().is_some_and(|program| program.id == id));
    anyhow::ensure!(stands, "it is not among the device's filters");
    filter::delete(netlink, slot).context("delete it")
}
