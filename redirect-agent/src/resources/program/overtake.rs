//! Puts a program of ours ahead of others' that came later and were put first. It stands there before it goes from where it was, so
//! for a moment a packet may meet it twice, and never not at all.

use std::os::fd::AsFd as _;

use anyhow::Context as _;

use super::apply::{is_gone, slot};
use super::diff::way_ahead;
use super::observe::pin_path;
use super::{Attach, AttachKind, Context, Hook, Place, Programs};
use crate::kernel::tc::{filter, tcx};
use crate::resources::ledger::Kind;

/// What is found where ours is to be.
const OTHERS: &str = "others' programs ahead of it";

/// Has the program called `name`, which stands at `hook`, be the first there, as far as that can be.
pub(crate) fn overtake(
    context: &mut Context<'_>,
    hook: &Hook,
    name: &'static str,
    attach: &Attach<'_>,
) -> anyhow::Result<()> {
    let Some(index) = context.links()?.iter().find(|link| link.name == hook.device).map(|link| link.index) else {
        return Ok(());
    };
    let place = Place { index, direction: hook.direction };
    let programs = attach.programs.context("no programs are loaded")?;
    let outcome = match attach.kind {
        AttachKind::Tcx => {
            let pin = pin_path(attach.links, place);
            let write = || programs.with(name, |program| tcx::overtake(program, &hook.device, hook.direction, &pin));
            context.netns.run(write)?
        }
        AttachKind::Clsact => {
            let way = way_ahead(&filter::dump(context.netns.netlink(), index, hook.direction)?);
            if way.len() < 2 {
                return Ok(());
            }
            by_filter(context, place, name, &way, programs)
        }
    };
    if outcome.is_err() && is_gone(context, index)? {
        return Ok(());
    }
    let object = format!("{name} on {hook} ({})", attach.kind);
    context.ledger.mend(Kind::Program, &object, OTHERS, "put first", outcome);
    Ok(())
}

/// From one priority of `way` to the next.
fn by_filter(
    context: &mut Context<'_>,
    place: Place,
    name: &'static str,
    way: &[u16],
    programs: &Programs,
) -> anyhow::Result<()> {
    let netlink = context.netns.netlink();
    for step in way.windows(2) {
        let (from, to) = (slot(place, step[0]), slot(place, step[1]));
        programs.with(name, |program| Ok(filter::add(netlink, to, name, program.fd()?.as_fd())?))?;
        filter::delete(netlink, from)?;
    }
    Ok(())
}
