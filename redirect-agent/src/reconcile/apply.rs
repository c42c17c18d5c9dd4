//! Brings one namespace to its plan, kind by kind, and reads back until nothing is left to do.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use redirect_common::names::{SET_PODS, TUNNELS};

use super::doorbell::Cause;
use super::rehearsal;
use crate::bpf::{self, Bpf};
use crate::config::Mode;
use crate::datapaths::iptables;
use crate::kernel::netns::Netns;
use crate::plan::{NODE_RULES, PROXY_RULES, Plan};
use crate::record::Record;
use crate::resources::chain::backend::Backend;
use crate::resources::ledger::{Kind, Ledger, Problem};
use crate::resources::program::{Attach, AttachKind};
use crate::resources::{Context, address, chain, guard, link, map, neighbour, program, route, rule, set, sysctl};

/// Which of the two namespaces is worked on: what may be ours differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Node,
    Proxy,
}

/// A kind may need what another has just made, and the kernel drops routes with links: more than these passes would mean
/// that somebody undoes what we do.
const PASSES: usize = 4;

/// In this order things come to stand; in the reverse they go.
const ORDER: [Kind; 11] = [
    Kind::Link,
    Kind::Address,
    Kind::Neighbour,
    Kind::Sysctl,
    Kind::Route,
    Kind::Set,
    Kind::Guard,
    Kind::Map,
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

/// Which kinds a run looks at: always those of rtnetlink and bpf(2), and of those that cost a process each what is said here. They
/// have events of their own, or the timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scope {
    set: bool,
    guards: bool,
    /// Read among all rules of the node, which takes seconds where there are many.
    chains: bool,
}

impl Scope {
    pub(crate) const EVERYTHING: Self = Self { set: true, guards: true, chains: true };

    fn covers(self, kind: Kind) -> bool {
        match kind {
            Kind::Set => self.set,
            Kind::Guard => self.guards,
            Kind::Chain => self.chains,
            _ => true,
        }
    }

    /// What has to be looked at for `cause` when this plan comes after that one, which stands: what must become another.
    pub(crate) fn of(cause: Cause, plan: &Plan, standing: &Plan) -> Self {
        match cause {
            Cause::Anything => Self::EVERYTHING,
            Cause::Nothing | Cause::Routing => Self {
                set: plan.set != standing.set,
                guards: plan.guards != standing.guards,
                chains: plan.chains != standing.chains,
            },
        }
    }
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
    ledger.problem(name(task.place), message);
}

fn name(place: Place) -> &'static str {
    match place {
        Place::Node => "the node's namespace",
        Place::Proxy => "ztunnel's namespace",
    }
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
            context.ledger.problem(format!("{} in {}", kind.name(), name(task.place)), format!("{error:#}"));
        }
        maps_are_full &= kind != Kind::Map || context.ledger.problems.len() == problems;
    }
}

/// What a mode leaves behind goes when the other's things stand: programs after the chains that mark in their place, and a set
/// after the rules that speak of it.
fn goes(plan: &Plan, kind: Kind) -> bool {
    match kind {
        Kind::Set => plan.set.is_none(),
        Kind::Map | Kind::Program => plan.hooks.is_empty(),
        _ => false,
    }
}

fn converge(context: &mut Context<'_>, task: Task<'_>, kind: Kind, maps_are_full: bool) -> anyhow::Result<()> {
    let Task { plan, place, backend, .. } = task;
    if place == Place::Node {
        rehearsal::perhaps_panic(kind);
    }
    match kind {
        Kind::Link => link::converge(context, &plan.links, &owned_links(place)),
        Kind::Address => address::converge(context, &plan.addresses),
        Kind::Neighbour => neighbour::converge(context, &plan.neighbours),
        Kind::Sysctl => sysctl::converge(context, &plan.sysctls),
        Kind::Route => route::converge(context, &plan.routes),
        Kind::Rule => rule::converge(context, &plan.rules, owned_rules(place)),
        Kind::Chain => chain::converge(context, backend, &plan.chains, &owned_chains(place)),
        Kind::Set if place == Place::Node => set::converge(context, SET_PODS, plan.set.as_ref()),
        Kind::Guard if place == Place::Node => guard::converge(context, &plan.guards),
        Kind::Map if place == Place::Node => maps(context, task),
        Kind::Program | Kind::Qdisc if place == Place::Node => programs(context, task, maps_are_full),
        Kind::Set | Kind::Guard | Kind::Map | Kind::Program | Kind::Qdisc => Ok(()),
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

/// Pins go last: what is pinned is attached. While the maps are not full, programs that stand do not make way for those that
/// look into them: they may know pods that these do not.
fn programs(context: &mut Context<'_>, task: Task<'_>, maps_are_full: bool) -> anyhow::Result<()> {
    let links = bpf::links_dir(task.bpf_dir);
    let bpf = task.bpf.map(RefCell::borrow);
    let attach = Attach {
        programs: bpf.as_ref().map(|bpf| &bpf.programs),
        kind: bpf.as_ref().map_or(AttachKind::Clsact, |bpf| bpf.kind),
        links: &links,
        swap: maps_are_full,
    };
    if task.plan.hooks.is_empty() && !context.record.modes().contains(&Mode::Ebpf) && !task.bpf_dir.exists() {
        return Ok(());
    }
    let down = *task.plan == Plan::default();
    if task.plan.hooks.is_empty() && !down && !context.ledger.problems.is_empty() {
        // What is to mark in their place may not stand.
        return Ok(());
    }
    program::converge(context, &task.plan.hooks, &attach)?;
    if let Some(programs) = attach.programs.filter(|_| task.scope == Scope::EVERYTHING) {
        let ahead = program::ahead_of_us(context, &task.plan.hooks, programs, attach.kind)?;
        let note = |(hook, others): (program::Hook, Vec<String>)| {
            let message = format!(
                "runs after others' ({}); a final verdict of theirs ends the chain before it",
                others.join(", ")
            );
            Problem::new(format!("program on {hook}"), message)
        };
        context.ledger.notes = Some(ahead.into_iter().map(note).collect());
    }
    if task.plan.hooks.is_empty() && task.bpf_dir.exists() {
        let outcome = bpf::unpin_all(task.bpf_dir);
        context.ledger.book(Kind::Map, "pins", "removed", outcome);
    }
    Ok(())
}

fn owned_links(place: Place) -> Vec<(&'static str, u32)> {
    let link = |tunnel: &redirect_common::names::Tunnel| match place {
        Place::Node => (tunnel.node_link, tunnel.vni.get()),
        Place::Proxy => (tunnel.proxy_link, tunnel.vni.get()),
    };
    TUNNELS.iter().map(link).collect()
}

fn owned_rules(place: Place) -> &'static [rule::Rule] {
    match place {
        Place::Node => &NODE_RULES,
        Place::Proxy => &PROXY_RULES,
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
        context.ledger.problem(format!("{backend} chains in {}", name(place)), format!("{error:#}"));
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

    use super::*;

    #[test]
    fn a_pod_that_comes_costs_no_look_at_the_rules() {
        let meshed = |ips: &[Ipv4Addr]| Plan { set: Some(ips.iter().copied().collect()), ..Plan::default() };
        let (none, one) = (meshed(&[]), meshed(&[Ipv4Addr::LOCALHOST]));
        let looks = |cause, plan: &Plan, standing: &Plan| {
            let scope = Scope::of(cause, plan, standing);
            [Kind::Set, Kind::Guard, Kind::Chain, Kind::Route].map(|kind| scope.covers(kind))
        };
        assert_eq!(looks(Cause::Routing, &one, &none), [true, false, false, true]);
        assert_eq!(looks(Cause::Routing, &one, &one), [false, false, false, true]);
        assert_eq!(looks(Cause::Anything, &one, &one), [true; 4]);
        let mut guarded = one.clone();
        guarded.guards.destination = Some(guard::Destination::default());
        assert_eq!(looks(Cause::Routing, &guarded, &one), [false, true, false, true]);
    }
}
