//! One module per kind of thing on a node: observe it all, diff against the plan, apply the difference.
//!
//! Each has the same three steps. `observe` reads the kernel and fails when it could not read everything; `diff` is pure,
//! decides what is ours and what is another's, and is where the tests are; applying writes one object at a time and books it.

pub(crate) mod address;
pub(crate) mod blocked;
pub(crate) mod chain;
pub(crate) mod guard;
pub(crate) mod known;
pub(crate) mod ledger;
pub(crate) mod link;
pub(crate) mod map;
pub(crate) mod neighbour;
pub(crate) mod pin;
pub(crate) mod program;
pub(crate) mod route;
pub(crate) mod rule;
pub(crate) mod set;
pub(crate) mod sysctl;

use crate::kernel::links::{self, Link};
use crate::kernel::netns::Netns;
use crate::record::Record;
use ledger::Ledger;

/// What a resource works on: one namespace, what is remembered of it, and where writes and failures are booked.
pub(crate) struct Context<'a> {
    /// The namespace.
    pub(crate) netns: &'a mut Netns,
    /// What the agent found and made earlier.
    pub(crate) record: &'a mut Record,
    /// Writes and problems of this run.
    pub(crate) ledger: &'a mut Ledger,
    links: Option<Vec<Link>>,
}

impl<'a> Context<'a> {
    /// A context that has observed nothing yet.
    pub(crate) fn new(netns: &'a mut Netns, record: &'a mut Record, ledger: &'a mut Ledger) -> Self {
        ledger.netns = Some(netns.id());
        Self { netns, record, ledger, links: None }
    }

    /// The namespace's links, read once until [`Self::links_changed`].
    pub(crate) fn links(&mut self) -> anyhow::Result<&[Link]> {
        if self.links.is_none() {
            self.links = Some(links::dump(self.netns.netlink())?);
        }
        Ok(self.links.as_deref().unwrap_or_default())
    }

    /// Forgets the links: one has been written.
    pub(crate) fn links_changed(&mut self) {
        self.links = None;
    }

    /// The link named `name`, if it is there.
    pub(crate) fn link(&mut self, name: &str) -> anyhow::Result<Option<Link>> {
        Ok(self.links()?.iter().find(|link| link.name == name).cloned())
    }
}
