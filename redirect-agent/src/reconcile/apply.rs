//! Brings one namespace to its plan, kind by kind, and reads back until nothing is left to do.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use redirect_common::names::{SET_PODS, TUNNELS};

use super::cause::Classes;
use super::{heart, rehearsal};
use crate::bpf::{self, Bpf};
use crate::config::Mode;
use crate::datapaths::iptables;
use crate::kernel::netns::Netns;
use crate::plan::{PROXY_RULES, Plan, node_rules};
use crate::record::Record;
use crate::resources::chain::backend::Backend;
use crate::resources::ledger::{Kind, Ledger, Problem};
use crate::resources::program::{Attach, AttachKind, Programs};
use crate::resources::{Context, address, chain, guard, link, map, neighbour, pin, program, route, rule, set, sysctl};

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
const ORDER: [Kind; 12] = [
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
    /// Which kinds are looked at.
    pub(crate) scope: Scope,
}

/// Which kinds a run looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scope(u16);

impl Scope {
    pub(crate) const EVERYTHING: Self = Self(u16::MAX);

    fn covers(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u16 != 0
    }

    /// What has to be looked at because of `classes` when this plan comes after that one, which stands: what may have changed, and
    /// what must become another. Those of rtnetlink and bpf(2) are cheap, those that cost a process each are not.
    pub(crate) fn of(classes: Classes, backend: Backend, plan: &Plan, standing: &Plan) -> Self {
        if classes == Classes::ALL {
            return Self::EVERYTHING;
        }
        let routing = classes.any(Classes::ROUTING) || routing_differs(plan, standing);
        let wanted = |kind| match kind {
            Kind::Link | Kind::Address | Kind::Neighbour | Kind::Sysctl | Kind::Route | Kind::Rule => routing,
            // They stand on links.
            Kind::Program => routing || classes.any(Classes::PROGRAMS) || plan.hooks != standing.hooks,
            // And who stands ahead of them; see `programs`.
            Kind::Qdisc => classes.any(Classes::AHEAD),
            Kind::Map | Kind::Pin => classes.any(Classes::PROGRAMS) || plan.maps != standing.maps,
            Kind::Set => classes.any(Classes::SET) || plan.set != standing.set,
            Kind::Guard => classes.any(Classes::GUARD | Classes::NFTABLES) || plan.guards != standing.guards,
            Kind::Chain => {
                let told = backend == Backend::Nft && !plan.chains.is_empty() && classes.any(Classes::NFTABLES);
                told || classes.any(Classes::CHAIN) || plan.chains != standing.chains
            }
        };
        Self(Kind::ALL.into_iter().filter(|kind| wanted(*kind)).fold(0, |all, kind| all | 1 << kind as u16))
    }
}

fn routing_differs(plan: &Plan, standing: &Plan) -> bool {
    let routing = |plan: &Plan| {
        let Plan { links, addresses, neighbours, sysctls, routes, rules, .. } = plan.clone();
        (links, addresses, neighbours, sysctls, routes, rules)
    };
    routing(plan) != routing(standing)
}

/// Applies a plan until a pass finds nothing to do, which is the read-back. What a pass did not write, and what does not
/// hang on what it wrote, has been read back by it already.
pub(crate) fn settle(netns: &mut Netns, record: &mut Record, ledger: &mut Ledger, task: Task<'_>) {
    let mut kinds: Vec<Kind> = ORDER.into_iter().filter(|kind| task.scope.covers(*kind)).collect();
    for _ in 0..PASSES {
        let (writes, problems) = (ledger.writes.clone(), ledger.problems.len());
        pass(&mut Context::new(netns, record, ledger), task, &kinds);
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

fn pass(context: &mut Context<'_>, task: Task<'_>, kinds: &[Kind]) {
    let down = *task.plan == Plan::default();
    let mut kinds = kinds.to_vec();
    if down {
        kinds.reverse();
    } else {
        kinds.sort_by_key(|kind| goes(task.plan, *kind));
    }
    let mut maps_are_full = true;
    for kind in kinds {
        let problems = context.ledger.problems.len();
        if let Err(error) = converge(context, task, kind, maps_are_full) {
            context.ledger.problem(format!("{} in {}", kind.name(), task.place.name()), format!("{error:#}"));
        }
        maps_are_full &= kind != Kind::Map || context.ledger.problems.len() == problems;
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

fn converge(context: &mut Context<'_>, task: Task<'_>, kind: Kind, maps_are_full: bool) -> anyhow::Result<()> {
    let Task { plan, place, backend, .. } = task;
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
            judge_ahead(context, task)?;
            route::converge(context, &plan.routes)
        }
        Kind::Rule => rule::converge(context, &plan.rules, &owned_rules(place)),
        Kind::Chain => chain::converge(context, backend, &plan.chains, &owned_chains(place)),
        Kind::Set if place == Place::Node => set::converge(context, SET_PODS, plan.set.as_ref()),
        Kind::Guard if place == Place::Node => guard::converge(context, &plan.guards),
        Kind::Map if place == Place::Node => maps(context, task),
        Kind::Pin if place == Place::Node => pins(context, task),
        Kind::Program | Kind::Qdisc if place == Place::Node => programs(context, task, maps_are_full),
        Kind::Set | Kind::Guard | Kind::Map | Kind::Pin | Kind::Program | Kind::Qdisc => Ok(()),
    }
}

fn maps(context: &mut Context<'_>, task: Task<'_>) -> anyhow::Result<()> {
    match (&task.plan.maps, task.bpf) {
        (Some(desired), Some(bpf)) => {
            let mut bpf = bpf.try_borrow_mut().context("the programs are in use")?;
            map::converge(context, &mut bpf.ebpf, desired)
        }
        _ => Ok(()),
    }
}

fn pins(context: &mut Context<'_>, task: Task<'_>) -> anyhow::Result<()> {
    match task.bpf.filter(|_| task.plan.maps.is_some()) {
        Some(bpf) => pin::converge(context, &bpf.borrow().pins),
        None => Ok(()),
    }
}

/// Where a tunnel has just been made, its programs stand before a route leads into it: they let the node's probes pass to pods, which
/// would be ztunnel's otherwise.
fn judge_ahead(context: &mut Context<'_>, task: Task<'_>) -> anyhow::Result<()> {
    if task.place == Place::Proxy || task.bpf.is_none() || context.ledger.writes.of(Kind::Link) == 0 {
        return Ok(());
    }
    let is_tunnel = |device: &str| TUNNELS.iter().any(|tunnel| tunnel.node_link == device);
    let mut hooks = task.plan.hooks.clone();
    hooks.retain(|hook, _| is_tunnel(&hook.device));
    if hooks.is_empty() {
        return Ok(());
    }
    maps(context, task)?;
    with_programs(task, true, |attach| program::add(context, &hooks, attach))
}

/// What programs are attached with. Pins go last: what is pinned is attached. While the maps are not full, programs that stand do not
/// make way for those that look into them: they may know pods that these do not.
fn with_programs<T>(task: Task<'_>, maps_are_full: bool, work: impl FnOnce(&Attach<'_>) -> T) -> T {
    let links = bpf::links_dir(task.bpf_dir);
    let bpf = task.bpf.map(RefCell::borrow);
    work(&Attach {
        programs: bpf.as_ref().map(|bpf| &bpf.programs),
        kind: bpf.as_ref().map_or(AttachKind::Clsact, |bpf| bpf.kind),
        links: &links,
        swap: maps_are_full,
    })
}

fn programs(context: &mut Context<'_>, task: Task<'_>, maps_are_full: bool) -> anyhow::Result<()> {
    if task.plan.hooks.is_empty() && !context.record.modes().contains(&Mode::Ebpf) && !task.bpf_dir.exists() {
        return Ok(());
    }
    let down = *task.plan == Plan::default();
    if task.plan.hooks.is_empty() && !down && !context.ledger.problems.is_empty() {
        // What is to mark in their place may not stand.
        return Ok(());
    }
    with_programs(task, maps_are_full, |attach| {
        program::converge(context, &task.plan.hooks, attach)?;
        match attach.programs {
            Some(programs) if task.scope.covers(Kind::Qdisc) => look_ahead(context, task.plan, programs, attach.kind),
            _ => Ok(()),
        }
    })?;
    if task.plan.hooks.is_empty() && task.bpf_dir.exists() {
        let outcome = bpf::unpin_all(task.bpf_dir);
        context.ledger.book(Kind::Map, "pins", "removed", outcome);
    }
    Ok(())
}

/// Notes whose programs run ahead of ours.
fn look_ahead(context: &mut Context<'_>, plan: &Plan, programs: &Programs, kind: AttachKind) -> anyhow::Result<()> {
    let ahead = program::ahead_of_us(context, &plan.hooks, programs, kind)?;
    let note = |(hook, others): (program::Hook, Vec<String>)| {
        let others = others.join(", ");
        let message = format!("runs after others' ({others}); a final verdict of theirs ends the chain before it");
        Problem::new(format!("program on {hook}"), message)
    };
    context.ledger.notes = Some(ahead.into_iter().map(note).collect());
    Ok(())
}

fn owned_links(place: Place) -> Vec<(&'static str, u32)> {
    let link = |tunnel: &redirect_common::names::Tunnel| match place {
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
    if let Err(error) = chain::converge(&mut context, backend, &[], &owned_chains(place)) {
        context.ledger.problem(format!("{backend} chains in {}", place.name()), format!("{error:#}"));
    }
}

/// `net.ipv4.conf.all.rp_filter` of the namespace.
pub(crate) fn all_rp_filter(netns: &Netns) -> anyhow::Result<u8> {
    let path = "/proc/sys/net/ipv4/conf/all/rp_filter";
    let text = netns.run(|| fs::read_to_string(path))?.with_context(|| format!("read {path}"))?;
    text.trim().parse().with_context(|| format!("{path} reads {text:?}"))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::cause::Cause;
    use super::*;

    fn looks(classes: Classes, plan: &Plan, standing: &Plan) -> Vec<Kind> {
        let scope = Scope::of(classes, Backend::Nft, plan, standing);
        ORDER.into_iter().filter(|kind| scope.covers(*kind)).collect()
    }

    #[test]
    fn a_pod_that_comes_costs_no_look_at_the_rules() {
        let meshed = |ips: &[Ipv4Addr]| Plan { set: Some(ips.iter().copied().collect()), ..Plan::default() };
        let (none, one) = (meshed(&[]), meshed(&[Ipv4Addr::LOCALHOST]));
        let wanted = Cause::WANTED.node;
        let costly = |looked: Vec<Kind>| {
            let costly = [Kind::Set, Kind::Guard, Kind::Chain];
            looked.into_iter().filter(|kind| costly.contains(kind)).collect::<Vec<_>>()
        };
        assert_eq!(costly(looks(wanted, &one, &none)), [Kind::Set]);
        assert_eq!(costly(looks(wanted, &one, &one)), []);
        assert_eq!(looks(Classes::ALL, &one, &one), ORDER);
        let mut guarded = one.clone();
        guarded.guards.destination = Some(guard::Destination::default());
        assert_eq!(costly(looks(wanted, &guarded, &one)), [Kind::Guard]);
    }

    #[test]
    fn who_tells_decides_what_is_read() {
        let bare = Plan::default();
        let chained = Plan { chains: iptables::owned_at_proxy(), ..Plan::default() };
        assert_eq!(looks(Classes::NONE, &bare, &bare), []);
        assert_eq!(looks(Classes::PROGRAMS, &bare, &bare), [Kind::Map, Kind::Pin, Kind::Program]);
        assert_eq!(looks(Classes::NFTABLES, &bare, &bare), [Kind::Guard], "there are no chains");
        assert_eq!(looks(Classes::NFTABLES, &chained, &chained), [Kind::Guard, Kind::Chain]);
        let legacy = Scope::of(Classes::NFTABLES, Backend::Legacy, &chained, &chained);
        assert!(!legacy.covers(Kind::Chain), "nftables knows nothing of them");
        // A link that is made anew takes with it what hangs on it.
        let linked = Plan { addresses: Vec::new(), rules: PROXY_RULES.to_vec(), ..Plan::default() };
        let routing = looks(Classes::NONE, &linked, &bare);
        assert_eq!(routing, looks(Classes::ROUTING, &bare, &bare));
        assert!(routing.contains(&Kind::Program) && !routing.contains(&Kind::Guard), "{routing:?}");
    }
}
