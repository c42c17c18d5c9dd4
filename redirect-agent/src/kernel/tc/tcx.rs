//! TCX: lists of programs that a device keeps without a qdisc (Linux 6.6). What attaches a program is a BPF link, and what
//! keeps the link beyond the process is its pin.
//!
//! Devices go by name here and in the calling thread's network namespace, as `aya` takes them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramInfo, SchedClassifier, TcAttachType};

use super::Direction;
use crate::kernel::{bpf, file};

/// A list is read program by program; one may go while it is.
const QUERY_TRIES: usize = 4;
/// How the pin of a link ends that has not taken its place yet.
const NEXT: &str = "-next";

impl From<Direction> for TcAttachType {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self::Ingress,
            Direction::Egress => Self::Egress,
        }
    }
}

/// The programs of one direction of a device, in the order in which packets meet them.
pub(crate) fn query(device: &str, direction: Direction) -> anyhow::Result<Vec<ProgramInfo>> {
    let mut tries = 1;
    loop {
        match SchedClassifier::query_tcx(device, direction.into()) {
            Ok((_, programs)) => return Ok(programs),
            Err(_) if tries < QUERY_TRIES => tries += 1,
            Err(error) => return Err(error).with_context(|| format!("list the {direction} programs of {device}")),
        }
    }
}

/// Attaches `program` ahead of all others and pins the link.
pub(crate) fn attach(
    program: &mut SchedClassifier,
    device: &str,
    direction: Direction,
    pin: &Path,
) -> anyhow::Result<()> {
    if let Some(directory) = pin.parent() {
        file::make_directory(directory).context("create the links' directory")?;
    }
    let link = attach_first(program, device, direction)?;
    // The pin keeps it; ours is closed.
    let link = FdLink::try_from(link)?;
    bpf::write("pin a link", || Ok(link.pin(pin).map(drop)?)).with_context(|| format!("pin {}", pin.display()))
}

/// Attaches `program`, a copy of the one that the pinned link attaches, ahead of all others, and has the new link take the place of that
/// one: there is no moment without either.
pub(crate) fn overtake(
    program: &mut SchedClassifier,
    device: &str,
    direction: Direction,
    pin: &Path,
) -> anyhow::Result<()> {
    let next = next_pin(pin);
    unlink(&next)?;
    attach(program, device, direction, &next)?;
    // With its pin goes the former link.
    file::rename(&next, pin).with_context(|| format!("rename {}", next.display()))
}

/// Where a link is pinned until it takes the place of the one in `pin`.
fn next_pin(pin: &Path) -> PathBuf {
    let mut name = pin.as_os_str().to_owned();
    name.push(NEXT);
    name.into()
}

/// The name of the pin in whose place a link of this name is to be put, if it is such a one.
pub(crate) fn before_next(name: &str) -> Option<&str> {
    name.strip_suffix(NEXT)
}

/// Attaches `program` ahead of all others for as long as the link lives.
pub(crate) fn attach_first(
    program: &mut SchedClassifier,
    device: &str,
    direction: Direction,
) -> anyhow::Result<SchedClassifierLink> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    bpf::write("attach a program", || {
        let id = program.attach_with_options(device, direction.into(), options)?;
        take(program, id)
    })
}

/// Puts `program` in the place of the one that the pinned link attaches; every packet meets either the old or the new one.
pub(crate) fn swap(program: &mut SchedClassifier, pin: &Path) -> anyhow::Result<()> {
    let pinned = PinnedLink::from_pin(pin).with_context(|| format!("open {}", pin.display()))?;
    swap_link(program, FdLink::from(pinned).try_into()?).map(drop)
}

/// The same with a link in hand.
pub(crate) fn swap_link(
    program: &mut SchedClassifier,
    link: SchedClassifierLink,
) -> anyhow::Result<SchedClassifierLink> {
    bpf::write("swap a program", || {
        let id = program.attach_to_link(link)?;
        take(program, id)
    })
}

/// A link that stayed with `program` would outlive the removal of its pin.
fn take(program: &mut SchedClassifier, id: SchedClassifierLinkId) -> anyhow::Result<SchedClassifierLink> {
    Ok(program.take_link(id)?)
}

/// The id of the program in the pinned link, which may no longer be attached to anything; `None` without a pin.
pub(crate) fn pinned_program(pin: &Path) -> anyhow::Result<Option<u32>> {
    match PinnedLink::from_pin(pin) {
        Ok(link) => Ok(Some(FdLink::from(link).info()?.program_id())),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("open {}", pin.display())),
    }
}

/// Removes a pin, and with it the link: the program is no longer attached. Needs no BPF.
pub(crate) fn unlink(pin: &Path) -> anyhow::Result<()> {
    file::remove(pin).with_context(|| format!("remove {}", pin.display()))
}
