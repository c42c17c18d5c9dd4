//! A node changes from one mode to the other and back, by a restart of the agent with the other flag, under traffic: nothing
//! escapes, no answer is lost, and nothing of the mode before is left.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::fs;

use anyhow::{Context as _, Result, ensure};
use redirect_lab::capture::Capture;
use redirect_lab::command::Cmd;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::drift::sections;
use redirect_lab::harness::{Checks, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::layout::UPLINK;
use redirect_lab::mode::Mode;
use redirect_lab::programs::{Hung, clsact_devices, hung};
use redirect_lab::scoped::ScopedLab;
use redirect_lab::snapshot::Snapshot;
use redirect_lab::table;
use redirect_lab::traffic::{CLIENT_PORTS, Traffic};
use rustix::process::Signal;

/// Connections of each stream before and after a change.
const ENOUGH: usize = 8;

#[test]
fn modes_change_without_an_escape_and_leave_nothing() -> Result<()> {
    let mut lab = ScopedLab::up(options("modes")?)?;
    let untouched = Snapshot::exact(&lab.node())?;
    start(&mut lab, &watchful().in_mode(Mode::Iptables))?;
    let before = shape(&lab)?;
    let mut checks = Checks::default();
    checks.check("from iptables to ebpf", || changes_to(&mut lab, Mode::Ebpf));
    checks.check("the table in ebpf mode", || table::check(&lab, ZTUNNEL));
    checks.check("nothing of iptables mode is left", || nothing_of_iptables(&lab));
    checks.check("from ebpf to iptables", || changes_to(&mut lab, Mode::Iptables));
    checks.check("the table in iptables mode", || table::check(&lab, ZTUNNEL));
    checks.check("nothing of ebpf mode is left", || nothing_of_ebpf(&lab));
    checks.check("the node is as it was in iptables mode before", || same(&before, &shape(&lab)?));
    checks.check("after cleanup the node is as it was before any", || {
        lab.cleanup_agent()?;
        same(&untouched, &Snapshot::exact(&lab.node())?)
    });
    checks.finish()
}

fn changes_to(lab: &mut Lab, mode: Mode) -> Result<()> {
    let (from, to) = (CLIENT_PORTS.start, CLIENT_PORTS.end - 1);
    // Onward from the proxy a connection has another port: what leaves from one of these has passed it by.
    let filter = format!("tcp and src host {} and src portrange {from}-{to}", lab.pod("app-a")?.ip()?);
    let capture = Capture::start(&lab.node(), UPLINK, &filter)?;
    let traffic = Traffic::start(lab, ZTUNNEL)?;
    traffic.wait_for_more(ENOUGH)?;
    let lost_before = answers_lost(lab)?;
    lab.stop_agent(Signal::TERM)?;
    start(lab, &watchful().in_mode(mode))?;
    traffic.wait_for_more(ENOUGH)?;
    let lost = answers_lost(lab)?.saturating_sub(lost_before);
    let report = traffic.stop()?;
    println!(
        "{} connections, of which {} were blocked: {:?}",
        report.tried,
        report.failed.len(),
        report.failed.first()
    );
    let escaped = capture.finish()?;
    if !escaped.is_empty() {
        // When they left is to be compared with what the agent did.
        println!("{}", fs::read_to_string(lab.agent_log())?);
    }
    ensure!(escaped.is_empty(), "{} packets left unproxied:\n{}", escaped.len(), escaped.join("\n"));
    report.nothing_escaped()?;
    ensure!(lost == 0, "{lost} answers to ztunnel were dropped");
    Ok(())
}

/// Packets that the guard has dropped because they were on their way back to ztunnel, by another device than leads there.
fn answers_lost(lab: &Lab) -> Result<u64> {
    let table = Cmd::line("nft list table ip ztunnel").netns(&lab.node()).run()?;
    let (_, counted) = table
        .lines()
        .find(|line| line.ends_with("comment \"answer\""))
        .and_then(|line| line.split_once("counter packets "))
        .with_context(|| format!("no answers are counted in\n{table}"))?;
    let packets = counted.split(' ').next().unwrap_or_default();
    packets.parse().with_context(|| format!("a count of {packets:?}"))
}

fn shape(lab: &Lab) -> Result<Snapshot> {
    Snapshot::shape(&lab.node(), &sections(lab.options().backend))
}

fn same(before: &Snapshot, after: &Snapshot) -> Result<()> {
    let changes = before.diff(after).unwrap_or_default();
    ensure!(changes.is_empty(), "{changes}");
    Ok(())
}

fn nothing_of_iptables(lab: &Lab) -> Result<()> {
    let sets = Cmd::line("ipset list -n").netns(&lab.node()).run()?;
    ensure!(!sets.contains("ztunnel-"), "sets: {sets}");
    let rules = Cmd::line(lab.options().backend.save()).netns(&lab.node()).run()?;
    for chain in ["SKIP", "CONN-SKIP", "PROXY", "PROXY-B", "PROXY-RETURN", "PROXY-RETURN-B", "OUTBOUND"]
        .map(|verdict| format!(":ztunnel-{verdict} "))
    {
        ensure!(!rules.contains(&chain), "there is still {chain}\n{rules}");
    }
    ensure!(!rules.contains("--match-set ztunnel-"), "a rule asks a set\n{rules}");
    let guard = Cmd::line("nft list ruleset bridge").netns(&lab.node()).run()?;
    ensure!(!guard.contains("hook prerouting"), "the bridge guard looks at what arrives: {guard}");
    Ok(())
}

fn nothing_of_ebpf(lab: &Lab) -> Result<()> {
    let ours: Vec<_> = hung(&lab.node())?.into_iter().filter(Hung::is_ours).collect();
    ensure!(ours.is_empty(), "programs: {ours:?}");
    let qdiscs = clsact_devices(&lab.node())?;
    ensure!(qdiscs.is_empty(), "qdiscs on {qdiscs:?}");
    ensure!(!lab.bpf_dir().exists(), "{} is still there", lab.bpf_dir().display());
    Ok(())
}
