//! Applying the plan to a node that has it changes nothing: not on resync, not on a repeated event, not on a restart.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use redirect_common::names::RULE_PROXY_RETURN;
use redirect_lab::agent::AgentOptions;
use redirect_lab::backend::Backend;
use redirect_lab::command::Cmd;
use redirect_lab::harness::{Checks, eventually, settled, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::mode::Mode;
use redirect_lab::snapshot::Snapshot;
use redirect_lab::status::Status;
use rustix::process::Signal;

const DEADLINE: Duration = Duration::from_secs(30);
/// What the agent says when it has looked at its neighbours, once.
const NEIGHBOURS: &str = "neighbours have been looked at";

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
    checks.check("it puts back by few tools, and does not read it again for having written it", || {
        puts_back_by_few_tools(&mut lab)
    });
    checks.finish()
}

fn no_writes_after(lab: &Lab, writes: u64, reconciles: u64) -> Result<()> {
    let enough = lab.status()?.reconciles + reconciles;
    let what = format!("settled after {reconciles} more reconciles");
    let status = lab.wait_until(DEADLINE, &what, |status| status.settled && status.reconciles >= enough)?;
    ensure!(status.total_writes() == writes, "{writes} writes before, now {:?}", status.writes);
    Ok(())
}

/// That all is well again the kernel says without a tool. nftables tells the agent of the agent's own writes too.
fn puts_back_by_few_tools(lab: &mut Lab) -> Result<()> {
    lab.stop_agent(Signal::TERM)?;
    // What the timer reads takes tools as well, and so does the look at neighbours.
    let before = looks_at_neighbours(lab)?;
    start(lab, &AgentOptions::default().arg("--resync=3600"))?;
    eventually(DEADLINE, || {
        ensure!(looks_at_neighbours(lab)? > before, "neighbours have not been looked at");
        Ok(())
    })?;
    for (kind, command, tools) in changes(lab) {
        let before = lab.status()?.processes;
        let put_back = breaks(lab, kind, &command)?;
        let took = put_back.processes - before;
        ensure!(took == tools, "after `{command}` it took {took} tools");
        // It comes after what nftables tells of that write.
        let later = breaks(lab, "rule", &format!("ip rule del priority {}", RULE_PROXY_RETURN.0))?;
        let more = later.processes - put_back.processes;
        ensure!(more == 0, "after `{command}` was put back, {more} tools looked at it again");
    }
    Ok(())
}

fn looks_at_neighbours(lab: &Lab) -> Result<usize> {
    Ok(fs::read_to_string(lab.agent_log())?.matches(NEIGHBOURS).count())
}

/// Of each kind that nftables tells of, one; and how many tools it takes to put it back. Of chains one says what is wrong with them.
fn changes(lab: &Lab) -> Vec<(&'static str, String, u64)> {
    let mut all = vec![("guard", "nft flush chain ip ztunnel destination".to_owned(), 1)];
    if lab.mode() == Mode::Iptables && lab.options().backend == Backend::Nft {
        all.push(("chain", "iptables-nft -t mangle -F ztunnel-PREROUTING".to_owned(), 2));
    }
    all
}

/// Breaks it, and waits until it was put back.
fn breaks(lab: &Lab, kind: &str, command: &str) -> Result<Status> {
    let of_kind = |status: &Status| status.repairs.get(kind).copied().unwrap_or_default();
    let before = of_kind(&lab.status()?);
    Cmd::line(command).netns(&lab.node()).run()?;
    lab.wait_until(DEADLINE, command, |status| status.settled && of_kind(status) > before)
}

/// Both namespaces, without processes: the agent has a new pid.
fn both(lab: &Lab) -> Result<[Snapshot; 2]> {
    let take = |netns| Ok::<_, anyhow::Error>(Snapshot::exact(netns)?.without_processes());
    Ok([take(&lab.node())?, take(&lab.pod_netns("ztunnel"))?])
}
