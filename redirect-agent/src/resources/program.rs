//! BPF programs on the node's devices. A program is ours by its link's pin in our directory, or as a filter with our handle
//! and a name of ours; everybody else's run on, where they are.
//!
//! aya attaches by `&mut SchedClassifier`, so [`Programs`] holds such handles of its own, beside those of the loaded object.
//! Closing either detaches nothing: pins keep the links, and filters keep their programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use aya::programs::SchedClassifier;
use serde::{Deserialize, Serialize};

use super::Context;

mod ahead;
mod apply;
mod diff;
mod observe;
mod overtake;
mod probe;
#[cfg(test)]
mod tests;

pub(crate) use crate::kernel::tc::Direction;
pub(crate) use ahead::{Behind, ahead_of_us, is_in_the_way};
pub(crate) use observe::is_pin;
pub(crate) use overtake::overtake;
pub(crate) use probe::probe;

/// Every program of ours has a name that begins so.
pub(crate) const NAME_PREFIX: &str = "redirect_";

/// How programs get onto devices.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AttachKind {
    /// By links, without a qdisc; from Linux 6.6 on.
    Tcx,
    /// As filters of a `clsact` qdisc.
    Clsact,
}

impl fmt::Display for AttachKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// Where a program runs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Hook {
    pub(crate) device: String,
    pub(crate) direction: Direction,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.device, self.direction)
    }
}

/// What others have on a device keeps ours from doing its work there, and only they can take it away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Obstacle {
    pub(crate) hook: Hook,
    pub(crate) why: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.hook, self.why)
    }
}

/// What tells whether a program that stands is the loaded one.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) id: u32,
    /// Of its instructions: the same for every load of the same object.
    pub(crate) tag: u64,
    /// The maps that it uses: equal instructions on other maps are another program.
    pub(crate) maps: BTreeSet<u32>,
}

/// The loaded programs by name.
#[derive(Default, Debug)]
pub(crate) struct Programs(BTreeMap<&'static str, Loaded>);

#[derive(Debug)]
struct Loaded {
    identity: Identity,
    program: Mutex<SchedClassifier>,
}

impl Programs {
    /// Adds a program that is loaded. All its maps should be pinned and reused: by them it is known again after a restart.
    pub(crate) fn add(&mut self, name: &'static str, program: &SchedClassifier) -> anyhow::Result<()> {
        let info = program.info().with_context(|| format!("look at program {name}"))?;
        let maps = info.map_ids().with_context(|| format!("list the maps of program {name}"))?;
        let maps = maps.unwrap_or_default().into_iter().collect();
        let identity = Identity { id: info.id(), tag: info.tag(), maps };
        let program = Mutex::new(SchedClassifier::from_program_info(info, name.into())?);
        self.0.insert(name, Loaded { identity, program });
        Ok(())
    }

    /// What the program called `name` is known by.
    pub(crate) fn get(&self, name: &str) -> Option<&Identity> {
        self.0.get(name).map(|loaded| &loaded.identity)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &Identity)> {
        self.0.iter().map(|(name, loaded)| (*name, &loaded.identity))
    }

    /// Runs `work` on one program.
    fn with<T>(&self, name: &str, work: impl FnOnce(&mut SchedClassifier) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let loaded = self.0.get(name).with_context(|| format!("program {name} is not loaded"))?;
        // Half of an attach that panicked is a link that went with it.
        work(&mut loaded.program.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What programs are attached with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attach<'a> {
    /// `None` when there are none to attach, and those that stand are only removed.
    pub(crate) programs: Option<&'a Programs>,
    pub(crate) kind: AttachKind,
    /// The directory, on a BPF file system, of the pinned TCX links.
    pub(crate) links: &'a Path,
    /// Whether programs may take the place of those that stand; where none stands they are attached in any case.
    pub(crate) swap: bool,
}

/// Makes exactly the `desired` programs of ours stand on the node's devices; names are those of [`Attach::programs`]. Hooks of
/// devices that are not there are passed over.
pub(crate) fn converge(
    context: &mut Context<'_>,
    desired: &BTreeMap<Hook, &'static str>,
    attach: &Attach<'_>,
) -> anyhow::Result<()> {
    let desired = places(context, desired)?;
    let observed = observe::observe(context, &desired, attach)?;
    apply::apply(context, &desired, attach, observed)
}

/// As [`converge`], but leaves what stands elsewhere.
pub(crate) fn add(
    context: &mut Context<'_>,
    desired: &BTreeMap<Hook, &'static str>,
    attach: &Attach<'_>,
) -> anyhow::Result<()> {
    let desired = places(context, desired)?;
    let mut observed = observe::observe(context, &desired, attach)?;
    desired.iter().try_for_each(|(place, name)| apply::stand(context, *place, Some(name), attach, &mut observed))
}

fn places(
    context: &mut Context<'_>,
    hooks: &BTreeMap<Hook, &'static str>,
) -> anyhow::Result<BTreeMap<Place, &'static str>> {
    let devices: BTreeMap<_, _> = context.links()?.iter().map(|link| (link.name.clone(), link.index)).collect();
    let place = |hook: &Hook| Some(Place { index: *devices.get(&hook.device)?, direction: hook.direction });
    Ok(hooks.iter().filter_map(|(hook, name)| Some((place(hook)?, *name))).collect())
}

/// A hook by its device's index, which outlives a change of name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    index: u32,
    direction: Direction,
}
