//! Pods come and go by the hundred, take addresses that others still have or have just given up, and what is said of them comes late
//! and in another order; among them is one now and then that has an interface, so that programs are attached, and go with it. In the end
//! the datapath holds exactly those that it must, and the agent no more than before.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

mod held;
mod world;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use redirect_common::names::LABEL_MODE;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::drift::sections;
use redirect_lab::harness::{Checks, eventually, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::layout::MESH_NAMESPACE;
use redirect_lab::neighbours::Neighbours;
use redirect_lab::operator::meshed;
use redirect_lab::pod::Pod;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::share::often;
use redirect_lab::snapshot::Snapshot;
use redirect_lab::status::Status;
use redirect_lab::table;

use held::Held;
use world::World;

/// Changes in the short form, and in the long one.
const CHANGES: usize = 500;
const CHANGES_LONG: usize = 20_000;
/// After so many of them all that was said has come, and the datapath is looked at.
const ROUND: usize = 100;
const SEED: u64 = 20_000;
/// A pod with an interface, and for how many rounds it is there, less one.
const VISITOR: &str = "visitor";
const VISIT: usize = 4;
const DEADLINE: Duration = Duration::from_mins(2);

#[test]
fn what_comes_and_goes_leaves_nothing_behind() -> Result<()> {
    let mut lab = ScopedLab::up(options("churn")?)?;
    let neighbours = Neighbours::move_in(&lab)?;
    start(&mut lab, &watchful())?;
    let mut residents = meshed(&lab)?;
    let mut world = World::new(SEED);
    let mut checks = Checks::default();
    // What is needed once is had after that, buffers that grow with the number of pods too.
    round(&lab, &mut world, &residents)?;
    empty(&lab, &mut world, &residents)?;
    let (held, stood) = (Held::by(&lab)?, stands(&lab)?);
    println!("@columns churn | when | changes | {}", Held::COLUMNS);
    println!("@figure churn | before | 0 | {held}");
    for turn in 1..=changes() / ROUND {
        checks.check(&format!("{} changes", turn * ROUND), || {
            visitor(&mut lab, turn, &mut residents)?;
            round(&lab, &mut world, &residents)
        });
    }
    checks.check("the last with an interface goes", || visitor_goes(&mut lab, &mut residents));
    println!("{}", world.tally());
    checks.check("when all have gone, the node is as it was", || {
        empty(&lab, &mut world, &residents)?;
        let changes: String =
            stood.iter().zip(&stands(&lab)?).filter_map(|(before, after)| before.diff(after)).collect();
        ensure!(changes.is_empty(), "{changes}");
        table::check(&lab, ZTUNNEL)
    });
    checks.check("the agent holds no more than before", || {
        // The last answer of its socket may still be on its way.
        let after = eventually(DEADLINE, || {
            let after = Held::by(&lab)?;
            held.is_no_less_than(&after)?;
            Ok(after)
        })?;
        println!("@figure churn | after | {} | {after}", changes());
        Ok(())
    });
    checks.check("a cleanup leaves nothing, and of others everything", || neighbours.outlive_cleanup(&mut lab));
    checks.finish()
}

fn changes() -> usize {
    often(CHANGES, CHANGES_LONG)
}

/// Changes, of which some are not heard of before others; then all are.
fn round(lab: &Lab, world: &mut World, residents: &BTreeSet<Ipv4Addr>) -> Result<()> {
    let manifests = lab.manifests();
    for _ in 0..ROUND {
        world.change()?;
        world.tell_some(&manifests)?;
    }
    world.tell_all(&manifests)?;
    holds(lab, world, residents)
}

/// A pod with an interface comes, or the one that came last joins the mesh or leaves it, or it goes. The next one gets its address.
fn visitor(lab: &mut Lab, turn: usize, residents: &mut BTreeSet<Ipv4Addr>) -> Result<()> {
    match turn % VISIT {
        1 => {
            let ip = lab.add_pod(Pod::app(MESH_NAMESPACE, VISITOR)?)?.ip()?;
            residents.insert(ip);
        }
        0 => visitor_goes(lab, residents)?,
        step => {
            let (ip, leaves) = (lab.pod(VISITOR)?.ip()?, step % 2 == 0);
            lab.label_pod(VISITOR, LABEL_MODE, leaves.then_some("none"))?;
            if leaves {
                residents.remove(&ip)
            } else {
                residents.insert(ip)
            };
        }
    }
    Ok(())
}

fn visitor_goes(lab: &mut Lab, residents: &mut BTreeSet<Ipv4Addr>) -> Result<()> {
    let Ok(pod) = lab.pod(VISITOR) else { return Ok(()) };
    let ip = pod.ip()?;
    lab.remove_pod(VISITOR)?;
    residents.remove(&ip);
    lab.free_address_next(ip)
}

fn empty(lab: &Lab, world: &mut World, residents: &BTreeSet<Ipv4Addr>) -> Result<()> {
    world.all_go();
    world.tell_all(&lab.manifests())?;
    holds(lab, world, residents)
}

/// The datapath and the agent agree with the plan.
fn holds(lab: &Lab, world: &World, residents: &BTreeSet<Ipv4Addr>) -> Result<()> {
    let wanted: BTreeSet<_> = residents | &world.meshed();
    eventually(DEADLINE, || {
        let found = meshed(lab)?;
        let (missing, wrong): (Vec<_>, Vec<_>) =
            (wanted.difference(&found).collect(), found.difference(&wanted).collect());
        ensure!(missing.is_empty() && wrong.is_empty(), "missing: {missing:?}; too much: {wrong:?}");
        Ok(())
    })?;
    let all = format!("settled with {} in the mesh", wanted.len());
    lab.wait_until(DEADLINE, &all, |status| status.settled && told(status) == wanted.len())?;
    ensure!(meshed(lab)? == wanted, "it was as it must be, and is not any more");
    Ok(())
}

/// Pods that nobody plumbs are in the datapath, and pending because no interface leads to them.
fn told(status: &Status) -> usize {
    status.pods.iter().filter(|pod| ["meshed", "pending"].contains(&pod.state.as_str())).count()
}

/// The node and ztunnel's namespace.
fn stands(lab: &Lab) -> Result<[Snapshot; 2]> {
    let sections = sections(lab.options().backend);
    Ok([Snapshot::shape(&lab.node(), &sections)?, Snapshot::shape(&lab.pod_netns(ZTUNNEL), &sections)?])
}
