//! Pods start through a chain of real plugins and ours, as a runtime runs it: the first packet of each goes to the proxy, what does
//! not hold is refused, and what ends leaves nothing. In both topologies.
//!
//! `REDIRECT_CNI_PODS` says how many pods start and end (24 if it does not, half of them in either topology).
#![allow(unused_crate_dependencies, reason = "they are the library's")]

mod agent;
mod refusals;

use std::env;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use redirect_lab::cni::Topology;
use redirect_lab::cni_bench::chain;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::harness::{Checks, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::runtime::Chain;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::starter::Starter;
use redirect_lab::state::Options;

const NOTICE: Duration = Duration::from_secs(30);
/// Pods that start without our plugin, to see that an escape is seen.
const CONTROL: usize = 6;

#[test]
fn no_packet_leaves_before_the_datapath_stands() -> Result<()> {
    let pods = match env::var("REDIRECT_CNI_PODS") {
        Ok(number) => number.parse().with_context(|| format!("REDIRECT_CNI_PODS={number}"))?,
        Err(_) => 24_usize,
    };
    let mut checks = Checks::default();
    for topology in Topology::ALL {
        let mut lab = ScopedLab::up(Options { topology, ..options("cni")? })?;
        start(&mut lab, &watchful())?;
        let named = |text: &str| format!("{topology}: {text}");
        checks.check(&named("first packets go to the proxy"), || starts(&lab, pods / 2));
        checks.check(&named("without the plugin they escape, and it is seen"), || escapes(&lab));
        refusals::all(&mut checks, &lab, &named)?;
        agent::all(&mut checks, &mut lab, &named)?;
    }
    checks.finish()
}

fn starts(lab: &Lab, count: usize) -> Result<()> {
    let report = Starter::new(lab, chain(lab), ZTUNNEL).run(count)?;
    let (escapes, reused, again) = (report.escapes.len(), report.reused(), report.again);
    println!(
        "{count} pods, {reused} with an address of an earlier one, {again} held back once more: {escapes} escapes"
    );
    report.nothing_escaped(count)?;
    ensure!(count <= 20 || reused > 0, "no address was used twice");
    lab.wait_until(NOTICE, "without attachments", |status| status.cni.attachments.is_empty()).map(drop)
}

fn escapes(lab: &Lab) -> Result<()> {
    let report = Starter::new(lab, Chain { redirects: false, ..chain(lab) }, ZTUNNEL).run(CONTROL)?;
    let (escapes, astray) = (report.escapes.len(), report.astray.len());
    let all = escapes >= CONTROL && astray == CONTROL;
    ensure!(all, "{escapes} escapes and {astray} unseen by the proxy of {CONTROL}; {:?}", report.failed);
    Ok(())
}
