//! Returns the node to what it was: everything of ours goes, in every namespace where something of ours is found, and
//! every setting that was changed is put back.

use std::fs::File;
use std::path::Path;

use redirect_common::names::TUNNELS;
use serde::{Deserialize, Serialize};

use crate::cni::store;
use crate::install::Removed;
use crate::kernel::links;
use crate::kernel::netns::{Netns, NetnsId};
use crate::plan::Plan;
use crate::proxy;
use crate::record::Record;
use crate::resources::chain::backend::{self, Backend};
use crate::resources::ledger::Ledger;

use super::apply::{self, Place, Task};
use super::scope::Scope;

/// What a cleanup did.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// How many objects were removed or put back.
    pub(crate) writes: u64,
    /// What could not be: object and reason. Run it again when the reason is gone.
    pub(crate) problems: Vec<(String, String)>,
}

impl Outcome {
    /// With what was done about the CNI plugin.
    pub(crate) fn with(mut self, removed: Removed) -> Self {
        self.writes += removed.writes;
        self.problems.extend(removed.problems);
        self
    }
}

/// Cleans up without a running agent.
pub(crate) fn offline(state_dir: &Path, bpf_dir: &Path) -> anyhow::Result<Outcome> {
    let mut node = Netns::current()?;
    let record = Record::open(state_dir, node.id())?;
    Ok(everything(&mut node, record, None, bpf_dir))
}

/// Takes everything of ours away. The record goes last, and only when nothing is left.
pub(crate) fn everything(node: &mut Netns, mut record: Record, programmed: Option<Netns>, bpf_dir: &Path) -> Outcome {
    let mut ledger = Ledger::default();
    let backends = backends(&record);
    // The node's side first: it is what sends packets into the others.
    remove(node, &mut record, &mut ledger, Place::Node, &backends, bpf_dir);
    let held = programmed.as_ref().map(Netns::id);
    let others = proxy::namespaces(node.id()).map(|file| ours(file?, held, &record)).filter_map(Result::transpose);
    for netns in programmed.into_iter().map(Ok).chain(others.collect::<Vec<_>>()) {
        match netns {
            Ok(mut netns) => remove(&mut netns, &mut record, &mut ledger, Place::Proxy, &backends, bpf_dir),
            Err(error) => ledger.problem("a network namespace", format!("{error:#}")),
        }
    }
    let directory = record.directory().to_owned();
    let unread = record.note();
    if ledger.problems.is_empty()
        && let Err(error) = store::remove(&directory).and_then(|()| record.remove())
    {
        ledger.problem("record", format!("{error:#}"));
    }
    // Only the other version knows what it made, and only its cleanup takes that away.
    ledger.problems.extend(unread);
    let problems = ledger.problems.into_iter().map(|problem| (problem.object, problem.message)).collect();
    Outcome { writes: ledger.writes.total(), problems }
}

/// Takes everything of ours out of one namespace.
pub(super) fn remove(
    netns: &mut Netns,
    record: &mut Record,
    ledger: &mut Ledger,
    place: Place,
    backends: &[Backend],
    bpf_dir: &Path,
) {
    // The set is removed with the chains of the last, and those of the others look into it.
    let Some((last, others)) = backends.split_last() else { return };
    for other in others {
        apply::remove_chains(netns, record, ledger, place, *other);
    }
    let plan = Plan::default();
    let task = Task { plan: &plan, place, backend: *last, bpf: None, bpf_dir, seen: None, scope: Scope::EVERYTHING };
    apply::settle(netns, record, ledger, task);
}

/// The backends on record; without any, every one that this host uses. Where none can be asked it is a problem that chains may be left.
fn backends(record: &Record) -> Vec<Backend> {
    let known = if record.backends().is_empty() { backend::in_use() } else { record.backends().to_vec() };
    if known.is_empty() { vec![Backend::Nft] } else { known }
}

/// The namespace, if something of ours may be in it and it is not the one that is held open anyway.
fn ours(file: File, held: Option<NetnsId>, record: &Record) -> anyhow::Result<Option<Netns>> {
    let id = NetnsId::of(&file)?;
    if held == Some(id) {
        return Ok(None);
    }
    if record.touched(id) {
        return Netns::open(file).map(Some);
    }
    // A pod may make it hard to look into its own.
    match Netns::open(file).and_then(|mut netns| Ok(has_tunnel(&mut netns)?.then_some(netns))) {
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "a network namespace that is not on record stays unseen");
            Ok(None)
        }
        looked => looked,
    }
}

fn has_tunnel(netns: &mut Netns) -> anyhow::Result<bool> {
    let links = links::dump(netns.netlink())?;
    Ok(TUNNELS.iter().any(|tunnel| {
        links.iter().any(|link| {
            link.name == tunnel.proxy_link && link.geneve.is_some_and(|geneve| geneve.vni == Some(tunnel.vni.get()))
        })
    }))
}
