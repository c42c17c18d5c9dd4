//! The judge for escapes is judged: where all is as it must be it sees every connection and no escape, and an escape that somebody
//! plants, while no agent can repair it, is seen. Nothing that other suites say of escapes is worth more than this.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

mod plant;

use anyhow::{Context, Result, ensure};
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::harness::{Checks, options, start, watchful};
use redirect_lab::judge::{Escape, Judge, Sign, Tap, Verdict};
use redirect_lab::lab::Lab;
use redirect_lab::layout::{NODE, REMOTE, UPLINK};
use redirect_lab::mode::Mode;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::table;
use redirect_lab::traffic::{Class, Report, Traffic};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::Signal;

/// Connections of each stream in each phase.
const ENOUGH: usize = 6;
/// What must pass the proxy on its way into the mesh.
const INBOUND: [&str; 2] = ["remote to meshed", "unmeshed to meshed"];

#[test]
fn escapes_are_seen() -> Result<()> {
    let mut lab = ScopedLab::up(options("judge")?)?;
    start(&mut lab, &watchful())?;
    let mut checks = Checks::default();
    checks.check("where all is well no escape is seen, and all else is", || is_clean(&mut lab));
    checks.check("a tap without room says so", || drops_are_told(&lab));
    checks.check("an escape on the way out is seen", || on_the_way_out(&mut lab));
    checks.check("the next agent has put an end to it", || repaired(&mut lab));
    checks.check("without the rule of the way in all is blocked", || way_in_is_blocked(&mut lab));
    checks.check("an escape on the way in is seen", || on_the_way_in(&mut lab));
    checks.check("the next agent has put an end to that too", || repaired(&mut lab));
    checks.finish()
}

fn is_clean(lab: &mut Lab) -> Result<()> {
    let (report, verdict) = judged(lab, is_any, |_, traffic| traffic.wait_for_more(2 * ENOUGH))?;
    report.all_is_well()?;
    ensure!(report.standing.len() == 7, "long connections: {:?}", report.standing);
    let direct = report.standing.iter().filter(|(_, proxy)| proxy.is_none()).count();
    ensure!(direct == 2, "not by the proxy are {direct}: {:?}", report.standing);
    verdict.nothing_escaped()
}

fn repaired(lab: &mut Lab) -> Result<()> {
    start(lab, &watchful())?;
    is_clean(lab)?;
    table::check(lab, ZTUNNEL)
}

/// A tap that is not read while the lab is busy, and has no more room than the kernel gives at least.
fn drops_are_told(lab: &Lab) -> Result<()> {
    let tap = Tap::open(NODE, &lab.node(), 1)?;
    let traffic = Traffic::start(lab, ZTUNNEL)?;
    traffic.wait_for_more(ENOUGH)?;
    drop(traffic);
    let stop = eventfd(1, EventfdFlags::CLOEXEC)?;
    let mut seen = 0;
    let counts = tap.run(&stop, |_, _, _| seen += 1)?;
    ensure!(counts.drops > 0, "{counts:?}, and {seen} segments");
    Ok(())
}

/// The pod's own packets get no mark any more: its connections leave by the wire, from their first segment on. In iptables mode those of
/// the proxy get none either, and what it sends to meshed pods comes back to it, over and over: so nobody connects to meshed pods.
fn on_the_way_out(lab: &mut Lab) -> Result<()> {
    let is_out = |stream: &str| ["meshed to remote", "meshed to a service", "unmeshed to remote"].contains(&stream);
    let (_, verdict) = judged(lab, is_out, |lab, traffic| {
        traffic.wait_for_more(ENOUGH)?;
        lab.stop_agent(Signal::KILL)?;
        traffic.wait_for_more(ENOUGH)?;
        plant::outbound(lab)?;
        traffic.wait_for_more(ENOUGH)
    })?;
    verdict.is_sound()?;
    let escaped = verdict.escaped();
    ensure!(escaped.get("meshed to remote").is_some_and(|count| *count > 1), "too few of the planted: {escaped:?}");
    ensure!(!escaped.contains_key("unmeshed to remote"), "what need not pass the proxy is there: {escaped:?}");
    for (host, link) in [(NODE, UPLINK), (REMOTE, UPLINK)] {
        let here = |escape: &&Escape| escape.first.spot.host == host && escape.first.spot.link == link;
        let first = verdict.escapes.iter().filter(here).find(|escape| escape.first.flags.opens());
        let first = first.with_context(|| format!("no first segment on {link} of {host}"))?;
        ensure!(first.sign == Sign::Ends, "{first}");
    }
    // Data of its client, or a reset in the client's name: the answer that the proxy had for it comes back to the proxy.
    let of_open = verdict.escapes.iter().any(|escape| !escape.first.flags.opens());
    ensure!(of_open, "nothing of what was open has escaped");
    Ok(())
}

/// Behind the rule there is a second line: what would pass the proxy by is dropped.
fn way_in_is_blocked(lab: &mut Lab) -> Result<()> {
    let (report, verdict) = judged(lab, is_any, |lab, traffic| {
        traffic.wait_for_more(ENOUGH)?;
        lab.stop_agent(Signal::KILL)?;
        plant::no_rule_inbound(lab)?;
        traffic.wait_for_more(ENOUGH)
    })?;
    verdict.nothing_escaped()?;
    // In ebpf mode what answers the proxy from behind a service's address comes by that rule too: it is known again only once
    // translated back.
    let ebpf = lab.mode() == Mode::Ebpf;
    let translated = |stream: &str| ebpf && stream == "meshed to a service";
    let may_fail = |stream: &str| INBOUND.contains(&stream) || translated(stream);
    ensure!(report.failed.iter().all(|failure| may_fail(failure.stream)), "{:?}", report.failed);
    for stream in INBOUND {
        let failed: Vec<_> = report.failed.iter().filter(|failure| failure.stream == stream).collect();
        ensure!(failed.len() >= ENOUGH - 1, "of {stream} only {} failed", failed.len());
        ensure!(failed.iter().all(|failure| failure.class == Class::Timeout), "{failed:?}");
    }
    ensure!(report.broken.iter().all(|failure| translated(failure.stream)), "{:?}", report.broken);
    Ok(())
}

/// Both lines are gone, and the agent with them.
fn on_the_way_in(lab: &mut Lab) -> Result<()> {
    start(lab, &watchful())?;
    let (_, verdict) = judged(lab, is_any, |lab, traffic| {
        traffic.wait_for_more(ENOUGH)?;
        lab.stop_agent(Signal::KILL)?;
        plant::no_rule_inbound(lab)?;
        plant::no_drop_inbound(lab)?;
        traffic.wait_for_more(ENOUGH)
    })?;
    verdict.is_sound()?;
    let escaped = verdict.escaped();
    ensure!(escaped.contains_key(INBOUND[0]), "of the planted there is none: {escaped:?}");
    ensure!(escaped.keys().all(|stream| INBOUND.contains(stream)), "of others there are some: {escaped:?}");
    let at_server = |escape: &&Escape| escape.first.spot.host == "app-a" && escape.first.flags.opens();
    ensure!(verdict.escapes.iter().any(|escape| at_server(&escape)), "no first segment at the server");
    Ok(())
}

fn is_any(_: &str) -> bool {
    true
}

/// Connections of the wanted kinds go on while `work` is done, and a judge watches.
fn judged(
    lab: &mut Lab,
    wanted: impl Fn(&str) -> bool,
    work: impl FnOnce(&mut Lab, &Traffic) -> Result<()>,
) -> Result<(Report, Verdict)> {
    let judge = Judge::watch(lab)?;
    let traffic = Traffic::judged_if(lab, &judge, wanted)?;
    let done = work(lab, &traffic);
    let report = traffic.stop()?;
    let verdict = judge.finish(lab)?;
    println!("        {verdict}; {:?} escaped; failed: {:?}", verdict.escaped(), report.classes());
    let of_open = verdict.escapes.iter().filter(|escape| !escape.first.flags.opens());
    for escape in verdict.escapes.iter().take(4).chain(of_open.take(8)) {
        println!("        {escape}");
    }
    for broken in &report.broken {
        println!("        broken: {broken}");
    }
    done?;
    Ok((report, verdict))
}
