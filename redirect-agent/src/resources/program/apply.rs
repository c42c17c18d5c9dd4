//! Takes the steps, one write at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::Context as _;
use nix::errno::Errno;

use super::diff::{HANDLE, Observed, Step, Wanted};
use super::observe::{self, name_of, pin_path};
use super::{Attach, AttachKind, Context, Hook, Obstacle, Place, Programs};
use crate::kernel::links::Link;
use crate::kernel::netlink::{Netlink, NetlinkError};
use crate::kernel::tc::filter::{self, Slot};
use crate::kernel::tc::qdisc::{self, Qdisc};
use crate::kernel::tc::tcx;
use crate::resources::ledger::{Kind, NOTHING};

/// Brings every place to what is `desired`, and then removes the qdiscs that nobody needs any more.
pub(super) fn apply(
    context: &mut Context<'_>,
    desired: &BTreeMap<Place, &'static str>,
    attach: &Attach<'_>,
    mut observed: Observed,
) -> anyhow::Result<()> {
    let netns = context.netns.id();
    context.record.retain_qdiscs(netns, |index| observed.qdiscs.get(&index) == Some(&Qdisc::Clsact))?;
    put_queues_back(context)?;
    observe::sweep(attach.links)?;
    let places: BTreeSet<Place> = desired.keys().copied().chain(observed.places()).collect();
    for place in places {
        stand(context, place, desired.get(&place).copied(), attach, &mut observed)?;
    }
    let needed: BTreeSet<u32> = match attach.kind {
        AttachKind::Clsact => desired.keys().map(|place| place.index).collect(),
        AttachKind::Tcx => BTreeSet::new(),
    };
    remove_qdiscs(context, &observed, &needed)
}

/// Has the program called `name` stand at `place`, or none of ours.
pub(super) fn stand(
    context: &mut Context<'_>,
    place: Place,
    name: Option<&'static str>,
    attach: &Attach<'_>,
    observed: &mut Observed,
) -> anyhow::Result<()> {
    let identity = name.and_then(|name| attach.programs?.get(name));
    let wanted = name.zip(identity).map(|(name, identity)| Wanted { name, identity, kind: attach.kind });
    if let (Some(name), None) = (name, wanted) {
        // What stands there stays.
        context.ledger.problem(format!("program {name}"), "is not loaded");
        return Ok(());
    }
    if wanted.is_some() && !attach.swap && observed.stands(place) {
        return Ok(());
    }
    for step in observed.steps(place, wanted) {
        if !take(context, place, step, attach)? {
            break;
        }
        if step == Step::AddQdisc {
            observed.qdiscs.insert(place.index, Qdisc::Clsact);
        }
    }
    Ok(())
}

/// Whether the step was taken. What fails because the device has gone is not a failure.
fn take(context: &mut Context<'_>, place: Place, step: Step, attach: &Attach<'_>) -> anyhow::Result<bool> {
    let device = name_of(context.links()?, place.index);
    let outcome = write(context, place, step, attach, device.as_deref());
    if outcome.is_err() && is_gone(context, place.index)? {
        return Ok(false);
    }
    let device = device.unwrap_or_else(|| format!("device {}", place.index));
    let at = format!("{device} {}", place.direction);
    let (kind, object, what) = match step {
        Step::AddQdisc => (Kind::Qdisc, format!("clsact of {device}"), "added"),
        Step::AddFilter { name, .. } => (Kind::Program, format!("{name} on {at} (clsact)"), "attached"),
        Step::AddLink { name } => (Kind::Program, format!("{name} on {at} (tcx)"), "attached"),
        Step::SwapFilter { name, .. } => (Kind::Program, format!("{name} on {at} (clsact)"), "swapped"),
        Step::SwapLink { name } => (Kind::Program, format!("{name} on {at} (tcx)"), "swapped"),
        Step::DeleteFilter { .. } => (Kind::Program, format!("on {at} (clsact)"), "detached"),
        Step::Unlink => (Kind::Program, format!("on {at} (tcx)"), "detached"),
        Step::Refuse { name, .. } => (Kind::Program, format!("{name} on {at}"), "attached"),
    };
    if let Step::Refuse { why, .. } = step {
        let hook = Hook { device, direction: place.direction };
        context.ledger.obstacles.push(Obstacle { hook, why: why.to_owned() });
    }
    let found = match step {
        Step::AddQdisc | Step::AddFilter { .. } | Step::AddLink { .. } | Step::Refuse { .. } => NOTHING,
        Step::SwapFilter { .. } | Step::SwapLink { .. } => "another program",
        Step::DeleteFilter { .. } => "a filter that is not wanted",
        Step::Unlink => "a link that is not wanted, or dead",
    };
    Ok(context.ledger.mend(kind, &object, found, what, outcome))
}

pub(super) fn is_gone(context: &mut Context<'_>, index: u32) -> anyhow::Result<bool> {
    context.links_changed();
    Ok(name_of(context.links()?, index).is_none())
}

fn write(
    context: &mut Context<'_>,
    place: Place,
    step: Step,
    attach: &Attach<'_>,
    device: Option<&str>,
) -> anyhow::Result<()> {
    let pin = pin_path(attach.links, place);
    let programs = || attach.programs.context("no programs are loaded");
    match step {
        Step::AddQdisc => add_qdisc(context, place.index),
        Step::AddFilter { name, priority } => {
            write_filter(context, programs()?, name, slot(place, priority), filter::add)
        }
        Step::SwapFilter { name, priority } => {
            write_filter(context, programs()?, name, slot(place, priority), filter::replace)
        }
        Step::DeleteFilter { priority } => match filter::delete(context.netns.netlink(), slot(place, priority)) {
            // Somebody was faster.
            Err(error) if error.is(Errno::ENOENT) => Ok(()),
            outcome => Ok(outcome?),
        },
        Step::AddLink { name } => {
            let (programs, device) = (programs()?, device.context("the device is gone")?);
            let attach = || programs.with(name, |program| tcx::attach(program, device, place.direction, &pin));
            context.netns.run(attach)?
        }
        Step::SwapLink { name } => programs()?.with(name, |program| tcx::swap(program, &pin)),
        Step::Unlink => tcx::unlink(&pin),
        Step::Refuse { why, .. } => anyhow::bail!(why),
    }
}

pub(super) fn slot(place: Place, priority: u16) -> Slot {
    Slot { index: place.index, direction: place.direction, priority, handle: HANDLE }
}

type Write = fn(&mut Netlink, Slot, &str, BorrowedFd<'_>) -> Result<(), NetlinkError>;

fn write_filter(
    context: &mut Context<'_>,
    programs: &Programs,
    name: &str,
    slot: Slot,
    write: Write,
) -> anyhow::Result<()> {
    programs.with(name, |program| Ok(write(context.netns.netlink(), slot, name, program.fd()?.as_fd())?))
}

/// On record before it is made: a qdisc does not say whose it is. Where one stands already although none was tried for, it is
/// another's; whatever else went wrong, it may have been made.
fn add_qdisc(context: &mut Context<'_>, index: u32) -> anyhow::Result<()> {
    let netns = context.netns.id();
    let has_queue = context.links()?.iter().any(|link| link.index == index && link.queue_len > 0);
    let tried = context.record.made_qdisc(netns, index);
    context.record.add_qdisc(netns, index, has_queue)?;
    if let Err(error) = qdisc::add(context.netns.netlink(), index) {
        if error.is(Errno::EEXIST) && !tried {
            context.record.retain_qdiscs(netns, |made| made != index)?;
        }
        return Err(error.into());
    }
    if !has_queue {
        put_queue_back(context, index)?;
    }
    Ok(())
}

fn put_queue_back(context: &mut Context<'_>, index: u32) -> anyhow::Result<()> {
    qdisc::set_queue_len(context.netns.netlink(), index, 0).context("put the length of the device's queue back to 0")
}

/// Does what was not come to when the qdiscs were added, because the agent ended or the kernel refused.
fn put_queues_back(context: &mut Context<'_>) -> anyhow::Result<()> {
    let unqueued = context.record.unqueued(context.netns.id());
    if unqueued.is_empty() {
        return Ok(());
    }
    let is_raised = |link: &&Link| link.queue_len == qdisc::RAISED_QUEUE_LEN && unqueued.contains(&link.index);
    let raised: Vec<_> =
        context.links()?.iter().filter(is_raised).map(|link| (link.index, link.name.clone())).collect();
    for (index, name) in raised {
        let outcome = put_queue_back(context, index);
        if outcome.is_ok() || !is_gone(context, index)? {
            context.ledger.book(Kind::Qdisc, &format!("queue of {name}"), "taken back", outcome);
        }
    }
    Ok(())
}

/// Removes the qdiscs that we made, that no program of ours is to stand in, and in which there is no filter of anybody's.
/// Programs attached by TCX do not hang on them (`clsact_destroy`, `net/sched/sch_ingress.c`).
fn remove_qdiscs(context: &mut Context<'_>, observed: &Observed, needed: &BTreeSet<u32>) -> anyhow::Result<()> {
    let netns = context.netns.id();
    for (index, qdisc) in &observed.qdiscs {
        let ours = *qdisc == Qdisc::Clsact && context.record.made_qdisc(netns, *index);
        if !ours || needed.contains(index) {
            continue;
        }
        let netlink = context.netns.netlink();
        let outcome = match qdisc::is_empty(netlink, *index) {
            Ok(true) => qdisc::delete(netlink, *index),
            Ok(false) => continue,
            Err(error) => Err(error),
        };
        if outcome.is_err() && is_gone(context, *index)? {
            continue;
        }
        let device = name_of(context.links()?, *index).unwrap_or_else(|| format!("device {index}"));
        if context.ledger.book(Kind::Qdisc, &format!("clsact of {device}"), "deleted", outcome.map_err(Into::into)) {
            context.record.retain_qdiscs(netns, |made| made != *index)?;
        }
    }
    Ok(())
}
