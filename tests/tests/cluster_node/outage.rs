//! The API server answers nobody; it goes, for a while, and comes back without its history.

use std::env;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::harness::{eventually, is_settled};
use redirect_lab::kubernetes::cluster::Cluster;
use redirect_lab::layout::MESH_NAMESPACE;
use redirect_lab::operator::meshed;
use redirect_lab::pod::Pod;
use redirect_lab::status::Status;
use redirect_lab::table;
use redirect_lab::traffic::Traffic;
use rustix::process::Signal;

use crate::{ENABLED, FOLLOW, MODE, annotated, only_meshed};

/// How long the API server stays away; `cargo xtask test kubernetes --outage` sets it.
const SECONDS: &str = "REDIRECT_OUTAGE_SECONDS";
/// The agent waits up to 15 s between two tries.
const CONVERGE: Duration = Duration::from_mins(1);
/// Connections of each stream that are waited for.
const ENOUGH: usize = 4;

/// Meanwhile nothing changes for pods that stay, whatever comes and goes on the node. Afterwards the agent learns of everything:
/// of what happened meanwhile, and of what it had missed before.
pub(crate) fn away(cluster: &mut Cluster) -> Result<()> {
    let seconds = env::var(SECONDS).unwrap_or_else(|_| "15".to_owned());
    let outage = Duration::from_secs(seconds.parse().with_context(|| format!("{SECONDS}={seconds}"))?);
    let traffic = Traffic::start_lasting(&cluster.lab, ZTUNNEL)?;
    traffic.wait_for_more(ENOUGH)?;
    let before = meshed(&cluster.lab)?;

    // The agent does not hear of this; afterwards it asks for what comes after the version that it knows.
    cluster.lab.agent().context("no agent")?.signal(Signal::STOP)?;
    cluster.label_pod("plain", MODE, Some("ambient"))?;
    cluster.control_plane.stop_api_server()?;
    cluster.control_plane.pass_time()?;
    cluster.lab.agent().context("no agent")?.signal(Signal::CONT)?;

    let turns = churn(cluster, outage)?;
    traffic.wait_for_more(ENOUGH)?;
    let status = cluster.lab.status()?;
    ensure!(status.ready && is_settled(&status), "not ready, or forgetful: {status:#?}");
    ensure!(status.complains("source pods", "what was known stays in force"), "it does not complain: {status:#?}");
    let heard: Vec<_> = meshed(&cluster.lab)?.difference(&before).copied().collect();
    let plain = cluster.lab.pod("plain")?.ip()?;
    ensure!(heard.is_empty() || heard == [plain], "new in the datapath: {heard:?}");
    ensure!(before.is_subset(&meshed(&cluster.lab)?), "gone from the datapath: not all of {before:?} is there");
    ensure!(status.pod("churn").is_none(), "it knows of a pod that nobody has told it of");

    cluster.control_plane.start_api_server()?;
    cluster.admin.put_pod(cluster.lab.pod("churn")?)?;
    let converged = |status: &redirect_lab::status::Status| {
        is_settled(status) && status.meshed("churn") && status.meshed("plain") && !status.complains("source", "")
    };
    cluster.lab.wait_until(CONVERGE, "as the API server has it", converged)?;
    let notes = [("app-a", ENABLED), ("app-b", ENABLED), ("churn", ENABLED), ("plain", ENABLED), ("plain-b", None)];
    eventually(FOLLOW, || annotated(cluster, &notes))?;
    only_meshed(&cluster.lab, &["app-a", "app-b", "churn", "plain"])?;
    traffic.wait_for_more(ENOUGH)?;
    let report = traffic.stop()?;
    println!("        {turns} turns in {seconds} s without an API server, {} connections", report.tried);
    report.all_is_well()?;
    was_forgotten(cluster)?;

    cluster.admin.remove_pod(cluster.lab.pod("churn")?)?;
    cluster.lab.remove_pod("churn")?;
    cluster.label_pod("plain", MODE, None)?;
    let former = |status: &redirect_lab::status::Status| is_settled(status) && !status.meshed("plain");
    cluster.lab.wait_until(FOLLOW, "as before", |status| former(status) && status.pod("churn").is_none())?;
    table::check(&cluster.lab, ZTUNNEL)
}

/// It takes what is sent to it and says nothing, as one that is overloaded. An agent that starts meanwhile leaves everything as it is, and
/// when it is heard of again, what stands was right.
pub(crate) fn silent(cluster: &mut Cluster) -> Result<()> {
    let options = cluster.agent_options();
    let traffic = Traffic::start_lasting(&cluster.lab, ZTUNNEL)?;
    traffic.wait_for_more(ENOUGH)?;
    cluster.control_plane.api_server()?.signal(Signal::STOP)?;
    let waits = |status: &Status| status.reconciles > 1 && status.complains("source", "first complete list");
    let held = cluster.lab.stop_agent(Signal::KILL).and_then(|()| {
        cluster.lab.start_agent(&options)?;
        let status = cluster.lab.wait_until(CONVERGE, "without a list", waits)?;
        traffic.wait_for_more(ENOUGH)?;
        Ok(status)
    });
    cluster.control_plane.api_server()?.signal(Signal::CONT)?;
    ensure!(held?.total_writes() == 0, "it has written without having heard of any pod");
    let status = cluster.lab.wait_until(CONVERGE, "settled", |status| status.settled && is_settled(status))?;
    ensure!(status.total_writes() == 0, "it writes anew: {:?}", status.writes);
    traffic.wait_for_more(ENOUGH)?;
    traffic.stop()?.all_is_well()
}

/// A pod comes, gets a new sandbox with another address, and goes, for as long as the outage lasts. At the end it is there.
fn churn(cluster: &mut Cluster, outage: Duration) -> Result<usize> {
    let since = Instant::now();
    let mut turns = 0;
    loop {
        cluster.lab.add_pod(Pod::app(MESH_NAMESPACE, "churn")?)?;
        cluster.lab.restart_pod("churn")?;
        turns += 1;
        if since.elapsed() >= outage {
            return Ok(turns);
        }
        cluster.lab.remove_pod("churn")?;
    }
}

/// The watch could not be resumed.
fn was_forgotten(cluster: &Cluster) -> Result<()> {
    let log = fs::read_to_string(cluster.lab.agent_log())?;
    ensure!(log.contains("has forgotten what the watch of pods had seen (410)"), "the agent has met no 410");
    Ok(())
}
