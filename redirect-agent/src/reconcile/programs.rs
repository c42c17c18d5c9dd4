//! Maps, pins and programs, as part of bringing the node to its plan: when they come, when they go, and what waits for them.

use std::cell::RefCell;

use anyhow::Context as _;
use redirect_common::names::TUNNELS;

use super::apply::{Place, Task};
use super::first;
use crate::bpf;
use crate::config::Mode;
use crate::plan::Plan;
use crate::resources::ledger::Kind;
use crate::resources::program::{Attach, AttachKind};
use crate::resources::{Context, map, pin, program};

pub(super) fn maps(context: &mut Context<'_>, task: Task<'_>) -> anyhow::Result<()> {
    match (&task.plan.maps, task.bpf) {
        (Some(desired), Some(bpf)) => {
            let mut bpf = bpf.try_borrow_mut().context("the programs are in use")?;
            map::converge(context, &mut bpf.ebpf, desired)
        }
        _ => Ok(()),
    }
}

pub(super) fn pins(context: &mut Context<'_>, task: Task<'_>) -> anyhow::Result<()> {
    match task.bpf.filter(|_| task.plan.maps.is_some()) {
        Some(bpf) => pin::converge(context, &bpf.borrow().pins),
        None => Ok(()),
    }
}

/// Where a tunnel has just been made, its programs stand before a route leads into it: they let the node's probes pass to pods, which
/// would be ztunnel's otherwise.
pub(super) fn judge_ahead(context: &mut Context<'_>, task: Task<'_>) -> anyhow::Result<()> {
    if task.place == Place::Proxy || task.bpf.is_none() || context.ledger.writes.of(Kind::Link) == 0 {
        return Ok(());
    }
    let is_tunnel = |device: &str| TUNNELS.iter().any(|tunnel| tunnel.node_link == device);
    let mut hooks = task.plan.hooks.clone();
    hooks.retain(|hook, _| is_tunnel(&hook.device));
    if hooks.is_empty() {
        return Ok(());
    }
    maps(context, task)?;
    with_programs(task, true, |attach| program::add(context, &hooks, attach))
}

/// What programs are attached with. Pins go last: what is pinned is attached. While the maps are not full, programs that stand do not
/// make way for those that look into them: they may know pods that these do not.
pub(super) fn with_programs<T>(task: Task<'_>, maps_are_full: bool, work: impl FnOnce(&Attach<'_>) -> T) -> T {
    let links = bpf::links_dir(task.bpf_dir);
    let bpf = task.bpf.map(RefCell::borrow);
    work(&Attach {
        programs: bpf.as_ref().map(|bpf| &bpf.programs),
        kind: bpf.as_ref().map_or(AttachKind::Clsact, |bpf| bpf.kind),
        links: &links,
        swap: maps_are_full,
    })
}

pub(super) fn converge(context: &mut Context<'_>, task: Task<'_>, maps_are_full: bool) -> anyhow::Result<()> {
    if task.plan.hooks.is_empty() && !context.record.modes().contains(&Mode::Ebpf) && !task.bpf_dir.exists() {
        return Ok(());
    }
    let down = *task.plan == Plan::default();
    if task.plan.hooks.is_empty() && !down && !context.ledger.problems.is_empty() {
        // What is to mark in their place may not stand.
        return Ok(());
    }
    with_programs(task, maps_are_full, |attach| program::converge(context, &task.plan.hooks, attach))?;
    if let Some(bpf) = task.bpf.filter(|_| task.scope.covers(Kind::Qdisc)) {
        first::come_first(context, task, bpf, maps_are_full)?;
    }
    if task.plan.hooks.is_empty() {
        let pins = bpf::pins(task.bpf_dir)?;
        if !pins.is_empty() {
            context.ledger.book(Kind::Map, "pins", "removed", bpf::unpin(&pins));
        }
    }
    Ok(())
}
