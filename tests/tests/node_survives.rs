//! The agent dies, in each way in which a program can, under traffic: no packet's fate changes, neither while there is no
//! agent nor while the next one takes over.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use anyhow::{Result, ensure};
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::harness::{Checks, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::mode::Mode;
use redirect_lab::programs::{Hung, hung};
use redirect_lab::scoped::ScopedLab;
use redirect_lab::table;
use redirect_lab::traffic::Traffic;
use rustix::process::Signal;

/// Connections of each stream in each phase.
const ENOUGH: usize = 8;
/// Killed, told to end, and what a failed assertion of the C library or an abort does.
const WAYS: [Signal; 3] = [Signal::KILL, Signal::TERM, Signal::ABORT];

#[test]
fn no_packets_fate_changes() -> Result<()> {
    let mut lab = ScopedLab::up(options("survive")?)?;
    start(&mut lab, &watchful().in_mode(Mode::Ebpf))?;
    let before = places(&lab)?;
    let mut checks = Checks::default();
    for signal in WAYS {
        checks.check(&format!("the agent ends by {signal:?}"), || dies_under_traffic(&mut lab, signal));
    }
    checks.check("the agent panics", || panics_under_traffic(&mut lab));
    checks.check("the next agent panics while it takes over", || panics_again_under_traffic(&mut lab));
    checks.check("programs are where they were", || {
        let after = places(&lab)?;
        ensure!(before == after, "before: {before:?}, after: {after:?}");
        Ok(())
    });
    checks.check("the table, after all of it", || table::check(&lab, ZTUNNEL));
    checks.finish()
}

fn dies_under_traffic(lab: &mut Lab, signal: Signal) -> Result<()> {
    let traffic = Traffic::start(lab, ZTUNNEL)?;
    traffic.wait_for_more(ENOUGH)?;
    lab.stop_agent(signal)?;
    ensure!(!hung(&lab.node())?.is_empty(), "with the agent went its programs");
    traffic.wait_for_more(ENOUGH)?;
    next_takes_over(lab, traffic)
}

/// An agent that has settled: its loop ends with the wrong kind of exit, and nothing of what it holds is put away in order.
fn panics_under_traffic(lab: &mut Lab) -> Result<()> {
    let traffic = Traffic::start(lab, ZTUNNEL)?;
    traffic.wait_for_more(ENOUGH)?;
    let before = hung(&lab.node())?;
    lab.want_panic("program")?;
    lab.agent_has_panicked()?;
    ensure!(hung(&lab.node())? == before, "with the agent went its programs");
    traffic.wait_for_more(ENOUGH)?;
    next_takes_over(lab, traffic)
}

/// One that has loaded its programs, and not looked at those that stand.
fn panics_again_under_traffic(lab: &mut Lab) -> Result<()> {
    let traffic = Traffic::start(lab, ZTUNNEL)?;
    traffic.wait_for_more(ENOUGH)?;
    let before = hung(&lab.node())?;
    lab.stop_agent(Signal::TERM)?;
    lab.want_panic("program")?;
    lab.start_agent(&watchful().in_mode(Mode::Ebpf))?;
    lab.agent_has_panicked()?;
    ensure!(hung(&lab.node())? == before, "with the agent went its programs");
    traffic.wait_for_more(ENOUGH)?;
    next_takes_over(lab, traffic)
}

fn next_takes_over(lab: &mut Lab, traffic: Traffic) -> Result<()> {
    start(lab, &watchful().in_mode(Mode::Ebpf))?;
    traffic.wait_for_more(ENOUGH)?;
    let report = traffic.stop()?;
    println!("{} connections", report.tried);
    report.all_is_well()
}

fn places(lab: &Lab) -> Result<Vec<String>> {
    let all = hung(&lab.node())?;
    ensure!(all.iter().any(Hung::is_ours), "no program is attached");
    Ok(all.iter().map(ToString::to_string).collect())
}
