//! Applying the plan to a node that has it changes nothing: not on resync, not on a repeated event, not on a restart.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::time::Duration;

use anyhow::{Result, ensure};
use redirect_lab::harness::{Checks, settled, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::snapshot::Snapshot;
use rustix::process::Signal;

#[test]
fn a_second_time_changes_nothing() -> Result<()> {
    let (mut lab, first) = settled("same")?;
    let before = both(&lab)?;
    let mut checks = Checks::default();
    checks.check("three resyncs", || no_writes_after(&lab, first.total_writes(), 3));
    checks.check("a manifest written again as it was", || {
        lab.change_pod("app-a", |_| {})?;
        no_writes_after(&lab, first.total_writes(), 2)
    });
    for signal in [Signal::TERM, Signal::KILL] {
        checks.check(&format!("restart after {signal:?}"), || {
            lab.stop_agent(signal)?;
            let status = start(&mut lab, &watchful())?;
            ensure!(status.total_writes() == 0, "writes: {:?}", status.writes);
            no_writes_after(&lab, 0, 2)
        });
    }
    checks.check("kernel state is untouched", || {
        let changes =
            before.iter().zip(&both(&lab)?).filter_map(|(before, after)| before.diff(after)).collect::<String>();
        ensure!(changes.is_empty(), "{changes}");
        Ok(())
    });
    checks.finish()
}

fn no_writes_after(lab: &Lab, writes: u64, reconciles: u64) -> Result<()> {
    let enough = lab.status()?.reconciles + reconciles;
    let what = format!("settled after {reconciles} more reconciles");
    let status =
        lab.wait_until(Duration::from_secs(30), &what, |status| status.settled && status.reconciles >= enough)?;
    ensure!(status.total_writes() == writes, "{writes} writes before, now {:?}", status.writes);
    Ok(())
}

/// Both namespaces, without processes: the agent has a new pid.
fn both(lab: &Lab) -> Result<[Snapshot; 2]> {
    let take = |netns| Ok::<_, anyhow::Error>(Snapshot::exact(netns)?.without_processes());
    Ok([take(&lab.node())?, take(&lab.pod_netns("ztunnel"))?])
}
