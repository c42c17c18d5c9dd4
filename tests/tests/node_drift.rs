//! Whatever single thing of the datapath someone removes, on the node or inside ztunnel's netns, comes back.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::time::Duration;

use anyhow::{Result, ensure};
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::drift::{Removal, pinned_links, removals, sections};
use redirect_lab::harness::{Checks, eventually, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::netns::Netns;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::snapshot::{Section, Snapshot};
use redirect_lab::table;

/// Long for the agent's one second, short for a person who waits: emulated processors are slow.
const REPAIR: Duration = Duration::from_secs(20);

#[test]
fn any_single_thing_comes_back() -> Result<()> {
    let mut lab = ScopedLab::up(options("drift")?)?;
    let places = [lab.node(), lab.pod_netns(ZTUNNEL)];
    let before = shapes(&lab, &places)?;
    start(&mut lab, &watchful())?;
    let golden = shapes(&lab, &places)?;

    let mut checks = Checks::default();
    for ((netns, before), golden) in places.iter().zip(&before).zip(&golden) {
        // First: pins are named by the indices of devices, some of which are made again below.
        let mut all = if *netns == lab.node() { pinned_links(&lab.bpf_dir().join("links"))? } else { Vec::new() };
        all.extend(removals(before, golden, lab.options().backend));
        println!("{} things in {}", all.len(), netns.name());
        checks.check(&format!("{} holds things of the agent", netns.name()), || {
            ensure!(all.len() > 10, "found only {all:#?}");
            Ok(())
        });
        for removal in all {
            checks.check(&format!("{}: {}", netns.name(), removal.what), || comes_back(&lab, netns, golden, &removal));
        }
    }
    checks.check("in the end everything is as in the beginning", || {
        let changes =
            golden.iter().zip(&shapes(&lab, &places)?).filter_map(|(golden, now)| golden.diff(now)).collect::<String>();
        ensure!(changes.is_empty(), "{changes}");
        Ok(())
    });
    checks.check("the table, after all of it", || table::check(&lab, ZTUNNEL));
    checks.finish()
}

fn comes_back(lab: &Lab, netns: &Netns, golden: &Snapshot, removal: &Removal) -> Result<()> {
    let repairs = lab.status()?.total_repairs();
    removal.apply(netns)?;
    // With a link go its addresses, routes and settings. Of all the rest one section shows it; the others are looked at
    // in the end.
    let whole = sections(lab.options().backend);
    let affected = if removal.section == Section::LINKS { &whole[..] } else { &[removal.section] };
    let golden = golden.part(affected);
    eventually(REPAIR, || {
        let difference = golden.diff(&Snapshot::shape(netns, affected)?).unwrap_or_default();
        ensure!(difference.is_empty(), "{difference}");
        Ok(())
    })?;
    let counted = |status: &redirect_lab::status::Status| status.settled && status.total_repairs() > repairs;
    lab.wait_until(REPAIR, "settled with a repair more", counted).map(drop)
}

fn shapes(lab: &Lab, places: &[Netns]) -> Result<Vec<Snapshot>> {
    places.iter().map(|netns| shape(lab, netns)).collect()
}

fn shape(lab: &Lab, netns: &Netns) -> Result<Snapshot> {
    Snapshot::shape(netns, &sections(lab.options().backend))
}
