//! A second agent on the node, as when a daemon set of another name is applied as well.

use anyhow::{Result, ensure};
use redirect_lab::harness::{eventually, is_settled};
use redirect_lab::kubernetes::cluster::Cluster;
use rustix::process::Signal;

use crate::{ENABLED, FOLLOW, annotated, only_meshed};

/// Runs of the first agent beside the second.
const RUNS: u64 = 5;

/// It waits, and says for what; when the first ends it goes on, and finds everything as it must be.
pub(crate) fn one_at_a_time(cluster: &mut Cluster) -> Result<()> {
    let before = cluster.lab.status()?;
    let rival = cluster.lab.start_rival()?;
    eventually(FOLLOW, || {
        let said = rival.said()?;
        ensure!(said.contains("another agent runs here; waiting for it to end"), "it says: {said}");
        Ok(())
    })?;
    let after = cluster.lab.wait_until(FOLLOW, "running on", |status| status.reconciles >= before.reconciles + RUNS)?;
    ensure!(after.writes == before.writes, "written: {:?}, before: {:?}", after.writes, before.writes);
    ensure!(rival.alive(), "the second agent has ended: {}", rival.said()?);

    cluster.lab.stop_agent(Signal::TERM)?;
    cluster.lab.adopt_rival(rival)?;
    let taken_over = cluster.lab.wait_until(FOLLOW, "taken over", |status| status.settled && is_settled(status))?;
    ensure!(taken_over.total_writes() == 0, "it writes anew: {:?}", taken_over.writes);
    only_meshed(&cluster.lab, &["app-a", "app-b"])?;
    annotated(cluster, &[("app-a", ENABLED), ("app-b", ENABLED), ("plain", None)])?;
    // What follows looks for the agent's words in its own log.
    cluster.lab.stop_agent(Signal::TERM)?;
    cluster.start_agent()
}
