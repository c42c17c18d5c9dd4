//! What stands: qdiscs, filters, and pinned links. Reads everything or fails.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use aya::programs::{ProgramError, ProgramInfo, loaded_programs};

use super::diff::{Observed, Pin, Standing};
use super::{Attach, AttachKind, Context, Place, Programs};
use crate::kernel::file;
use crate::kernel::links::Link;
use crate::kernel::tc::{Direction, filter, qdisc, tcx};

/// Reads what has to do with the programs of ours, standing or `desired`.
pub(super) fn observe(
    context: &mut Context<'_>,
    desired: &BTreeMap<Place, &'static str>,
    attach: &Attach<'_>,
) -> anyhow::Result<Observed> {
    let mut observed = Observed { qdiscs: qdisc::dump(context.netns.netlink())?, ..Observed::default() };
    for index in observed.qdiscs.keys().copied() {
        for direction in Direction::ALL {
            let filters = filter::dump(context.netns.netlink(), index, direction)?;
            observed.filters.insert(Place { index, direction }, filters);
        }
    }
    for place in pinned_places(attach.links)? {
        // What is not wanted is unlinked unseen: cleaning up works where BPF does not.
        let pin = match attach.programs {
            Some(_) if attach.kind == AttachKind::Tcx && desired.contains_key(&place) => {
                look(context, place, &pin_path(attach.links, place))?
            }
            _ => Some(Pin::Unseen),
        };
        observed.pins.extend(pin.map(|pin| (place, pin)));
    }
    if let Some(programs) = attach.programs {
        observed.maps = maps(programs, &observed)?;
    }
    Ok(observed)
}

/// Where the link of `place` is pinned.
pub(super) fn pin_path(links: &Path, place: Place) -> PathBuf {
    links.join(format!("{}-{}", place.index, place.direction))
}

/// The places that pins are named after; a file with another kind of name is not ours.
fn pinned_places(links: &Path) -> anyhow::Result<BTreeSet<Place>> {
    Ok(names(links)?.iter().filter_map(|name| parse_pin(name)).collect())
}

/// Removes the links of which an agent that was killed meant to put another in its place: that one stands.
pub(super) fn sweep(links: &Path) -> anyhow::Result<()> {
    for name in names(links)? {
        if tcx::before_next(&name).and_then(parse_pin).is_some() {
            tcx::unlink(&links.join(name))?;
        }
    }
    Ok(())
}

/// What there is in the folder of the links. A name that is no text is none of ours.
fn names(links: &Path) -> anyhow::Result<Vec<String>> {
    let names = file::names(links).with_context(|| format!("list {}", links.display()))?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// Whether this is what a link of ours is pinned as, be it for the moment in which it takes another's place.
pub(crate) fn is_pin(name: &str) -> bool {
    parse_pin(tcx::before_next(name).unwrap_or(name)).is_some()
}

pub(super) fn parse_pin(name: &str) -> Option<Place> {
    let (index, direction) = name.split_once('-')?;
    let direction = Direction::ALL.into_iter().find(|known| known.name() == direction)?;
    let place = Place { index: index.parse().ok()?, direction };
    (pin_path(Path::new(""), place).to_str() == Some(name)).then_some(place)
}

/// Whether the pinned link is at work on the device it is named after. A device runs a program at most once
/// (`bpf_mprog_exists`, `kernel/bpf/mprog.c`), so a program of ours in the device's list is there by this link.
fn look(context: &mut Context<'_>, place: Place, pin: &Path) -> anyhow::Result<Option<Pin>> {
    let Some(id) = tcx::pinned_program(pin)? else { return Ok(None) };
    let Some(device) = name_of(context.links()?, place.index) else { return Ok(Some(Pin::Dead)) };
    let outcome = context.netns.run(|| tcx::query(&device, place.direction))?;
    match outcome {
        Ok(programs) => Ok(Some(find(&programs, id).map_or(Pin::Dead, Pin::Live))),
        Err(error) => {
            context.links_changed();
            if name_of(context.links()?, place.index).is_none() { Ok(Some(Pin::Dead)) } else { Err(error) }
        }
    }
}

fn find(programs: &[ProgramInfo], id: u32) -> Option<Standing> {
    programs.iter().find(|program| program.id() == id).map(|program| Standing { id, tag: program.tag() })
}

pub(super) fn name_of(links: &[Link], index: u32) -> Option<String> {
    links.iter().find(|link| link.index == index).map(|link| link.name.clone())
}

/// The maps of the standing programs for which the tag alone does not say whether they are the loaded ones.
fn maps(programs: &Programs, observed: &Observed) -> anyhow::Result<BTreeMap<u32, BTreeSet<u32>>> {
    let unsure: BTreeSet<u32> = observed
        .standing()
        .filter(|standing| {
            programs.iter().any(|(_, known)| known.tag == standing.tag)
                && programs.iter().all(|(_, known)| known.id != standing.id)
        })
        .map(|standing| standing.id)
        .collect();
    let mut maps = BTreeMap::new();
    if unsure.is_empty() {
        return Ok(maps);
    }
    for info in loaded_programs() {
        let info = match info {
            Err(error) if is_gone(&error) => continue,
            info => info.context("list the loaded programs")?,
        };
        if unsure.contains(&info.id()) {
            match info.map_ids() {
                Err(error) if is_gone(&error) => {}
                ids => drop(maps.insert(info.id(), ids?.unwrap_or_default().into_iter().collect())),
            }
        }
    }
    Ok(maps)
}

/// A program may go between being listed and being looked at.
fn is_gone(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.kind() == ErrorKind::NotFound)
}
