//! Brings one namespace to its plan, kind by kind, and reads back until nothing is left to do.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use redirect_common::names::{SET_PODS, TUNNELS, Tunnel};

use super::scope::Scope;
use super::seen::{self, Seen};
use super::{heart, programs, rehearsal};
use crate::bpf::Bpf;
use crate::datapaths::iptables;
use crate::kernel::netns::Netns;
use crate::plan::{PROXY_RULES, Plan, node_rules};
use crate::record::Record;
use crate::resources::chain::backend::Backend;
use crate::resources::ledger::{Kind, Ledger};
use crate::resources::{Context, address, chain, guard, link, neighbour, route, rule, set, sysctl};

/// Which of the two namespaces is worked on: what may be ours differs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Place {
    Node,
    Proxy,
}

impl Place {
    /// In sentences.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Node => "the node's namespace",
            Self::Proxy => "ztunnel's namespace",
        }
    }

    /// As `status` names it.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Proxy => "ztunnel",
        }
    }
}

/// A kind may need what another has just made, and the kernel drops routes with links: more than these passes would mean
/// that somebody undoes what we do.
const PASSES: usize = 4;

/// In this order things come to stand; in the reverse they go.
pub(super) const ORDER: [Kind; 12] = [
    Kind::Link,
    Kind::Address,
    Kind::Neighbour,
    Kind::Sysctl,
    Kind::Route,
    Kind::Set,
    Kind::Guard,
    Kind::Map,
    Kind::Pin,
    Kind::Program,
    Kind::Rule,
    Kind::Chain,
];

/// What is to be brought to a plan, and how.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) place: Place,
    pub(crate) backend: Backend,
    /// Programs and maps; none in ztunnel's namespace, in iptables mode, and where BPF cannot be used.
    pub(crate) bpf: Option<&'a RefCell<Bpf>>,
    /// Where they are pinned.
    pub(crate) bpf_dir: &'a Path,
    /// What of nftables has been found as planned; for whoever looks once, nothing.
    pub(crate) seen: Option<&'a Seen>,
    /// Which kinds are looked at.
    pub(crate) scope: Scope,
}

/// Applies a plan until a pass finds nothing to do, which is the read-back. What a pass did not write, and what does not
/// hang on what it wrote, has been read back by it already.
pub(crate) fn settle(netns: &mut Netns, record: &mut Record, ledger: &mut Ledger, task: Task<'_>) {
    let mut kinds: Vec<Kind> = ORDER.into_iter().filter(|kind| task.scope.covers(*kind)).collect();
    for pass in 0..PASSES {
        let (writes, problems) = (ledger.writes.clone(), ledger.problems.len());
        self::pass(&mut Context::new(netns, record, ledger), task, &kinds, pass > 0);
        let wrote = |kind| ledger.writes.of(kind) > writes.of(kind);
        kinds.retain(|kind| {
            let on_links = matches!(kind, Kind::Address | Kind::Neighbour | Kind::Sysctl | Kind::Route | Kind::Program);
            wrote(*kind) || on_links && wrote(Kind::Link)
        });
        if kinds.is_empty() || ledger.problems.len() > problems {
            return;
        }
    }
    let message = format!("is still not as planned after {PASSES} passes; somebody else changes it too");
    ledger.problem(task.place.name(), message);
}

/// `reads_back` is whether it is for what an earlier pass has written.
fn pass(context: &mut Context<'_>, task: Task<'_>, kinds: &[Kind], reads_back: bool) {
    let down = *task.plan == Plan::default();
    let mut kinds = kinds.to_vec();
    if down {
        kinds.reverse();
    } else {
        kinds.sort_by_key(|kind| goes(task.plan, *kind));
    }
    let before = seen::Before::ask(context, task, &kinds);
    kinds.retain(|kind| !before.knows(*kind));
    let mut carried = Carried { maps_are_full: true, looks: false, guards: None, chains: None };
    for (at, kind) in kinds.iter().copied().enumerate() {
        if matches!(kind, Kind::Guard | Kind::Chain) && !std::mem::replace(&mut carried.looks, true) {
            carried.look(context, task, &kinds[at..], reads_back);
        }
        let (writes, problems) = (context.ledger.writes.of(kind), context.ledger.problems.len());
        if let Err(error) = converge(context, task, kind, &mut carried) {
            context.ledger.problem(format!("{} in {}", kind.name(), task.place.name()), format!("{error:#}"));
        }
        let good = context.ledger.problems.len() == problems;
        carried.maps_are_full &= kind != Kind::Map || good;
        if good && context.ledger.writes.of(kind) == writes {
            before.note(kind);
        }
    }
}

/// What a pass carries from kind to kind.
struct Carried<'a> {
    maps_are_full: bool,
    /// Whether the looks at nftables and iptables have been begun: as tools take longest, all are when the first is wanted, and what needs
    /// none does not wait for them.
    looks: bool,
    guards: Option<anyhow::Result<guard::Look<'a>>>,
    /// None also where they are known to stand.
    chains: Option<anyhow::Result<chain::Look<'a>>>,
}

impl<'a> Carried<'a> {
    fn look(&mut self, context: &Context<'_>, task: Task<'a>, kinds: &[Kind], reads_back: bool) {
        let known = task.seen.map(|seen| &seen.known);
        if task.place == Place::Node && kinds.contains(&Kind::Guard) {
            let is_told = !reads_back && task.scope.is_told_of(Kind::Guard);
            self.guards = Some(guard::look(context, &task.plan.guards, known, is_told));
        }
        if kinds.contains(&Kind::Chain) {
            // The timer's look is at whatever may be wrong, and at what has been counted.
            let known_suffices = known.filter(|_| reads_back || task.scope.is_told_of(Kind::Chain));
            let stands = |known| chain::stand(context, task.backend, &task.plan.chains, known);
            self.chains = match known_suffices.map_or(Ok(false), stands) {
                Ok(true) => None,
                Ok(false) => Some(chain::look(context, task.backend, known)),
                Err(error) => Some(Err(error)),
            };
        }
    }
}

/// What a mode leaves behind goes when the other's things stand: programs after the chains that mark in their place, and a set
/// after the rules that speak of it.
fn goes(plan: &Plan, kind: Kind) -> bool {
    match kind {
        Kind::Set => plan.set.is_none(),
        Kind::Map | Kind::Pin | Kind::Program => plan.hooks.is_empty(),
        _ => false,
    }
}

fn converge(context: &mut Context<'_>, task: Task<'_>, kind: Kind, carried: &mut Carried<'_>) -> anyhow::Result<()> {
    let Task { plan, place, .. } = task;
    heart::at(kind, place);
    if place == Place::Node {
        rehearsal::perhaps_panic(kind);
    }
    match kind {
        Kind::Link => link::converge(context, &plan.links, &owned_links(place)),
        Kind::Address => address::converge(context, &plan.addresses),
        Kind::Neighbour => neighbour::converge(context, &plan.neighbours),
        Kind::Sysctl => sysctl::converge(context, &plan.sysctls),
        Kind::Route => {
            programs::judge_ahead(context, task)?;
            route::converge(context, &plan.routes)
        }
        Kind::Rule => rule::converge(context, &plan.rules, &owned_rules(place)),
        Kind::Chain => {
            let owned = owned_chains(place);
            carried.chains.take().map_or(Ok(()), |look| chain::converge(context, look?, &plan.chains, &owned))
        }
        Kind::Set if place == Place::Node => set::converge(context, SET_PODS, plan.set.as_ref()),
        Kind::Guard => carried.guards.take().map_or(Ok(()), |look| guard::converge(context, look?)),
        Kind::Map if place == Place::Node => programs::maps(context, task),
        Kind::Pin if place == Place::Node => programs::pins(context, task),
        Kind::Program | Kind::Qdisc if place == Place::Node => programs::converge(context, task, carried.maps_are_full),
        Kind::Set | Kind::Map | Kind::Pin | Kind::Program | Kind::Qdisc => Ok(()),
    }
}

fn owned_links(place: Place) -> Vec<(&'static str, u32)> {
    let link = |tunnel: &Tunnel| match place {
        Place::Node => (tunnel.node_link, tunnel.vni.get()),
        Place::Proxy => (tunnel.proxy_link, tunnel.vni.get()),
    };
    TUNNELS.iter().map(link).collect()
}

fn owned_rules(place: Place) -> Vec<rule::Rule> {
    match place {
        Place::Node => node_rules(),
        Place::Proxy => PROXY_RULES.to_vec(),
    }
}

fn owned_chains(place: Place) -> Vec<chain::Chain> {
    match place {
        Place::Node => iptables::owned_on_node(),
        Place::Proxy => iptables::owned_at_proxy(),
    }
}

/// Removes our chains from a backend.
pub(crate) fn remove_chains(
    netns: &mut Netns,
    record: &mut Record,
    ledger: &mut Ledger,
    place: Place,
    backend: Backend,
) {
    let mut context = Context::new(netns, record, ledger);
    let removed = chain::look(&context, backend, None)
        .and_then(|look| chain::converge(&mut context, look, &[], &owned_chains(place)));
    if let Err(error) = removed {
        context.ledger.problem(format!("{backend} chains in {}", place.name()), format!("{error:#}"));
    }
}

/// `net.ipv4.conf.all.rp_filter` of the namespace.
pub(crate) fn all_rp_filter(netns: &Netns) -> anyhow::Result<u8> {
    let path = "/proc/sys/net/ipv4/conf/all/rp_filter";
    let text = netns.run(|| fs::read_to_string(path))?.with_context(|| format!("read {path}"))?;
    text.trim().parse().with_context(|| format!("{path} reads {text:?}"))
}
