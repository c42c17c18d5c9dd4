//! Our programs come first on every device: a final verdict of one ahead of ours would keep ours from the packet. Where that cannot be,
//! status has a note; of what only they could move, ahead of the program that judges what a pod or ztunnel sends, it is a problem,
//! and the node falls back to iptables mode (`datapath`).

use std::cell::RefCell;
use std::collections::BTreeMap;

use anyhow::Context as _;

use super::apply::Task;
use super::programs::with_programs;
use crate::bpf::Bpf;
use crate::datapaths::ebpf::judges_senders;
use crate::resources::Context;
use crate::resources::ledger::Problem;
use crate::resources::program::{self, AttachKind, Behind, Hook, Obstacle};

/// Puts those that others have got ahead of first again, and notes which of them others still stand ahead of.
pub(super) fn come_first(
    context: &mut Context<'_>,
    task: Task<'_>,
    bpf: &RefCell<Bpf>,
    maps_are_full: bool,
) -> anyhow::Result<()> {
    let mut behind = look(context, task, bpf)?;
    // What could not be attached is behind nobody, and programs over maps that are not full do not take the place of others.
    if maps_are_full && !behind.is_empty() && context.ledger.problems.is_empty() {
        for (hook, found) in &behind {
            overtake(context, task, bpf, hook, found)?;
        }
        behind = look(context, task, bpf)?;
    }
    // Who was faster this time is put aside the next time: no reason to change over.
    behind.retain(|hook, found| !found.for_good || !stands_in_the_way(context, task, hook, found));
    context.ledger.notes = Some(behind.iter().map(|(hook, found)| note(hook, found)).collect());
    Ok(())
}

fn look(context: &mut Context<'_>, task: Task<'_>, bpf: &RefCell<Bpf>) -> anyhow::Result<BTreeMap<Hook, Behind>> {
    let bpf = bpf.borrow();
    program::ahead_of_us(context, &task.plan.hooks, &bpf.programs, bpf.kind)
}

fn overtake(
    context: &mut Context<'_>,
    task: Task<'_>,
    bpf: &RefCell<Bpf>,
    hook: &Hook,
    found: &Behind,
) -> anyhow::Result<()> {
    let Some(name) = task.plan.hooks.get(hook).copied() else { return Ok(()) };
    if found.is_loaded && bpf.borrow().kind == AttachKind::Tcx {
        bpf.try_borrow_mut().context("the programs are in use")?.load_again(name)?;
    }
    with_programs(task, true, |attach| program::overtake(context, hook, name, attach))
}

/// Whether what others have ahead of ours keeps it from what a pod or ztunnel sends, and so from its work.
fn stands_in_the_way(context: &mut Context<'_>, task: Task<'_>, hook: &Hook, found: &Behind) -> bool {
    if !task.plan.hooks.get(hook).is_some_and(|name| judges_senders(name)) {
        return false;
    }
    let Problem { object, message } = note(hook, found);
    context.ledger.obstacles.push(Obstacle { hook: hook.clone(), why: message.clone() });
    context.ledger.problem(object, message);
    true
}

fn note(hook: &Hook, found: &Behind) -> Problem {
    let others = found.others.join(", ");
    let message = format!("runs after others' ({others}); a final verdict of theirs ends the chain before it");
    Problem::new(format!("program on {hook}"), message)
}
