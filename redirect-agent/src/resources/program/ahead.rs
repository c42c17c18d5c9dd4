//! Others' programs that packets meet before ours: one that gives a verdict keeps ours from seeing the packet.

use std::collections::BTreeMap;

use aya::programs::ProgramInfo;

use super::diff::{can_be_first, is_ours};
use super::observe::name_of;
use super::{AttachKind, Context, Direction, Hook, Programs};
use crate::kernel::links;
use crate::kernel::netns::Netns;
use crate::kernel::tc::filter::{self, Filter};
use crate::kernel::tc::qdisc::{self, Qdisc};
use crate::kernel::tc::tcx;

/// Ours is not the first.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Behind {
    /// What stands ahead of it, in order and in words.
    pub(crate) others: Vec<String>,
    /// Some of it ours cannot get ahead of, whatever it does: it may never see a packet.
    pub(crate) for_good: bool,
    /// What stands is the very program that is loaded, and not a former load of the same.
    pub(crate) is_loaded: bool,
}

/// The hooks at which others' programs stand ahead of ours.
pub(crate) fn ahead_of_us(
    context: &mut Context<'_>,
    desired: &BTreeMap<Hook, &'static str>,
    programs: &Programs,
    kind: AttachKind,
) -> anyhow::Result<BTreeMap<Hook, Behind>> {
    let devices: BTreeMap<_, _> = context.links()?.iter().map(|link| (link.name.clone(), link.index)).collect();
    let qdiscs = qdisc::dump(context.netns.netlink())?;
    let mut ahead = BTreeMap::new();
    for hook in desired.keys() {
        let Some(index) = devices.get(&hook.device).copied() else { continue };
        let list = list(context, hook, index, kind)?;
        let is_loaded = list.iter().any(|program| programs.iter().any(|(_, known)| known.id == program.id()));
        let mut others = by_tcx(&list, programs);
        // No filter is ever ahead of those.
        let mut for_good = kind == AttachKind::Clsact && !others.is_empty();
        if kind == AttachKind::Clsact && qdiscs.contains_key(&index) {
            let filters = filter::dump(context.netns.netlink(), index, hook.direction)?;
            let foreign = by_filter(&filters);
            for_good |= !foreign.is_empty() && !can_be_first(&filters);
            others.extend(foreign);
        }
        if !others.is_empty() {
            ahead.insert(hook.clone(), Behind { others, for_good, is_loaded });
        }
    }
    Ok(ahead)
}

/// Whether others' programs, filters or qdisc on a device still keep a filter of ours from being there, and first. In iptables mode, so no
/// program there is ours. Where it `may_be_a_link` and the kernel has TCX, nothing keeps it behind: only why TCX was not taken did.
pub(crate) fn is_in_the_way(netns: &mut Netns, hook: &Hook, may_be_a_link: bool) -> anyhow::Result<bool> {
    let links = links::dump(netns.netlink())?;
    let Some(index) = links.iter().find(|link| link.name == hook.device).map(|link| link.index) else {
        return Ok(false);
    };
    // An error is that of a kernel without TCX.
    match netns.run(|| tcx::query(&hook.device, hook.direction))? {
        Ok(_) if may_be_a_link => return Ok(false),
        Ok(list) if !list.is_empty() => return Ok(true),
        _ => {}
    }
    match (qdisc::dump(netns.netlink())?.get(&index), hook.direction) {
        (None, _) => Ok(false),
        (Some(Qdisc::Ingress), Direction::Egress) => Ok(true),
        _ => Ok(!can_be_first(&filter::dump(netns.netlink(), index, hook.direction)?)),
    }
}

/// Programs attached by TCX run before those of a qdisc (`tc_run`, `net/core/dev.c`).
fn list(context: &mut Context<'_>, hook: &Hook, index: u32, kind: AttachKind) -> anyhow::Result<Vec<ProgramInfo>> {
    match context.netns.run(|| tcx::query(&hook.device, hook.direction))? {
        // A kernel without TCX has none of them.
        Err(_) if kind == AttachKind::Clsact => Ok(Vec::new()),
        Err(error) => {
            context.links_changed();
            if name_of(context.links()?, index).is_none() { Ok(Vec::new()) } else { Err(error) }
        }
        list => list,
    }
}

fn by_tcx(list: &[ProgramInfo], programs: &Programs) -> Vec<String> {
    let ours = |tag| programs.iter().any(|(_, known)| known.tag == tag);
    let foreign = list.iter().take_while(|program| !ours(program.tag()));
    foreign
        .map(|program| format!("tcx program {} (id {})", String::from_utf8_lossy(program.name()), program.id()))
        .collect()
}

/// Filters of the first chain ahead of ours. Handle 0 is the head of a list, not a filter.
pub(super) fn by_filter(filters: &[Filter]) -> Vec<String> {
    let filters = filters.iter().filter(|filter| filter.chain == 0 && filter.handle != 0);
    filters
        .take_while(|filter| !is_ours(filter))
        .map(|filter| {
            let name = filter.program.as_ref().map(|program| format!(" {}", program.name)).unwrap_or_default();
            format!("{} filter{name} of priority {}", filter.kind, filter.priority)
        })
        .collect()
}
