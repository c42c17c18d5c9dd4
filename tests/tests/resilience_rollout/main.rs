//! ztunnel is replaced while the old one still runs, comes back, dies: under short and long connections, and before a judge. What was
//! begun with the former goes on with it as long as it may, and nothing that is new fails for it.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

mod scene;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redirect_lab::agent::AgentOptions;
use redirect_lab::command::Cmd;
use redirect_lab::demo::{SETTLE, ZTUNNEL};
use redirect_lab::faults::{How, Point};
use redirect_lab::harness::{Checks, eventually, options, start, watchful};
use redirect_lab::judge::Judge;
use redirect_lab::lab::Lab;
use redirect_lab::layout::PROXY_NAMESPACE;
use redirect_lab::neighbours::Neighbours;
use redirect_lab::pod::Pod;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::share::often;
use redirect_lab::table;
use redirect_lab::tally::Tally;
use redirect_lab::traffic::{Class, DIRECT, Failure, Report};
use rustix::process::Signal;

use scene::{by_proxy, come, follows, judged, ports_differ, seen_by};

/// Connections of each stream in each phase.
const ENOUGH: usize = 4;
/// Rollouts side by side, and kills, where there is time for them.
const OFTEN: usize = 20;
/// Longer than any of this takes.
const LONG_DRAIN: &str = "--drain-timeout=3600";
/// A short one, and longer than a run takes that ends it, on a slow machine too.
const DRAIN: Duration = Duration::from_secs(4);
/// A write of the node's turn to the next ztunnel, after it is on record that the former drains.
const OF_THE_TURN: &str = "netlink delete route";

#[test]
fn one_ztunnel_follows_another() -> Result<()> {
    let mut lab = ScopedLab::up(options("rollout")?)?;
    let neighbours = Neighbours::move_in(&lab)?;
    start(&mut lab, &patient())?;
    let times = often(1, OFTEN);
    let mut checks = Checks::default();
    let mut tally = Tally::default();
    let mut current = ZTUNNEL.to_owned();
    for turn in 1..=times {
        let next = format!("ztunnel-{turn}");
        checks.check(&format!("{next} follows {current}, which still runs"), || {
            side_by_side(&mut tally, &mut lab, &current, &next)
        });
        current = next;
    }
    checks.check("an agent that is killed meanwhile leaves the next one a drain", || {
        handed_over(&mut tally, &mut lab, &current, "ztunnel-kept")
    });
    checks.check("the new one is Ready no more, and the former takes over again", || {
        back_again(&mut tally, &mut lab, "ztunnel-kept", "ztunnel-unready")
    });
    checks.check("a third one comes while the first still drains", || third(&mut tally, &mut lab, "ztunnel-kept"));
    checks.check("the time of a drain is over", || time_is_over(&mut tally, &mut lab, "ztunnel-third", "ztunnel-last"));
    for turn in 1..=times {
        checks.check(&format!("the proxy is killed ({turn})"), || killed(&mut tally, &mut lab, "ztunnel-last"));
    }
    tally.print();
    checks.check("the table, after all of it", || table::check(&lab, "ztunnel-last"));
    checks.check("a cleanup in the middle of a drain leaves nothing, and of others everything", || {
        drains(&mut lab, "ztunnel-last", "ztunnel-after")?;
        neighbours.outlive_cleanup(&mut lab)
    });
    checks.finish()
}

fn patient() -> AgentOptions {
    watchful().arg(LONG_DRAIN)
}

fn side_by_side(tally: &mut Tally, lab: &mut Lab, former: &str, next: &str) -> Result<()> {
    let outcome = judged(tally, "a ztunnel follows one that still runs", lab, |lab, judge, traffic| {
        traffic.wait_for_more(ENOUGH)?;
        come(lab, judge, next)?;
        lab.wait_until(SETTLE, "followed", |status| follows(status, next, Some(former)))?;
        let (good, said) = lab.check_node()?;
        ensure!(good, "what stands for two is taken for others': {said}");
        let begun = seen_by(lab, next)?;
        let old = seen_by(lab, former)?;
        traffic.wait_for_more(ENOUGH)?;
        ensure!(seen_by(lab, next)? > begun, "{next} has seen no new connection");
        // One that was on its way meanwhile may still be the former's.
        let late = seen_by(lab, former)? - old;
        ensure!(late <= ENOUGH, "{former} has still seen {late} new connections");
        ports_differ(lab, former, next)
    });
    // Whatever came of it, the next check begins with one ztunnel.
    let ended = gone(lab, former, next);
    let (report, verdict) = outcome?;
    report.all_is_well()?;
    verdict.nothing_escaped()?;
    let standing = by_proxy(&report.standing);
    ensure!(standing.keys().eq([former]), "long connections are not all with {former}: {:?}", report.standing);
    ended
}

/// The former ends, and with it the drain.
fn gone(lab: &mut Lab, former: &str, next: &str) -> Result<()> {
    lab.remove_pod(former)?;
    lab.wait_until(SETTLE, "without a drain", |status| follows(status, next, None)).map(drop)
}

/// `next` has come, and `former` drains for long.
fn drains(lab: &mut Lab, former: &str, next: &str) -> Result<()> {
    lab.stop_agent(Signal::TERM)?;
    lab.start_agent(&patient())?;
    lab.wait_until(SETTLE, "settled", |status| follows(status, former, None))?;
    lab.add_pod(Pod::proxy(PROXY_NAMESPACE, next)?)?;
    lab.wait_until(SETTLE, "followed", |status| follows(status, next, Some(former))).map(drop)
}

fn handed_over(tally: &mut Tally, lab: &mut Lab, former: &str, next: &str) -> Result<()> {
    let (report, verdict) = judged(tally, "the agent is killed while a ztunnel drains", lab, |lab, judge, traffic| {
        come(lab, judge, next)?;
        lab.wait_until(SETTLE, "followed", |status| follows(status, next, Some(former)))?;
        traffic.wait_for_more(ENOUGH)?;
        lab.stop_agent(Signal::KILL)?;
        traffic.wait_for_more(ENOUGH)?;
        lab.start_agent(&patient())?;
        lab.wait_until(SETTLE, "draining still", |status| follows(status, next, Some(former)))?;
        traffic.wait_for_more(ENOUGH)
    })?;
    report.all_is_well()?;
    verdict.nothing_escaped()?;
    ensure!(by_proxy(&report.standing).keys().eq([former]), "{:?}", report.standing);
    gone(lab, former, next)
}

fn back_again(tally: &mut Tally, lab: &mut Lab, former: &str, next: &str) -> Result<()> {
    let (report, verdict) = judged(tally, "the former ztunnel takes over again", lab, |lab, judge, traffic| {
        come(lab, judge, next)?;
        lab.wait_until(SETTLE, "followed", |status| follows(status, next, Some(former)))?;
        traffic.wait_for_more(ENOUGH)?;
        lab.change_pod(next, |pod| pod.ready = false)?;
        lab.wait_until(SETTLE, "back again", |status| follows(status, former, Some(next)))?;
        traffic.wait_for_more(ENOUGH)
    })?;
    report.all_is_well()?;
    verdict.nothing_escaped()?;
    ensure!(by_proxy(&report.standing).keys().eq([former]), "{:?}", report.standing);
    gone(lab, next, former)
}

/// Its seat is the first one's, whose connections are reset: nobody waits for them in vain. Those of the second stay.
fn third(tally: &mut Tally, lab: &mut Lab, first: &str) -> Result<()> {
    let (second, third) = ("ztunnel-second", "ztunnel-third");
    let (report, verdict) = judged(tally, "a third ztunnel comes", lab, |lab, judge, traffic| {
        come(lab, judge, second)?;
        lab.wait_until(SETTLE, "followed", |status| follows(status, second, Some(first)))?;
        traffic.wait_for_more(ENOUGH)?;
        come(lab, judge, third)?;
        lab.wait_until(SETTLE, "followed again", |status| follows(status, third, Some(second)))?;
        traffic.wait_for_more(ENOUGH)
    })?;
    only_resets_of(&report, first)?;
    verdict.nothing_escaped()?;
    gone(lab, second, third)?;
    lab.remove_pod(first)
}

fn time_is_over(tally: &mut Tally, lab: &mut Lab, former: &str, next: &str) -> Result<()> {
    lab.stop_agent(Signal::TERM)?;
    lab.start_agent(&watchful().arg(&format!("--drain-timeout={}", DRAIN.as_secs())))?;
    lab.wait_until(SETTLE, "settled", |status| follows(status, former, None))?;
    let mut turned = None;
    let (report, verdict) = judged(tally, "the time of a drain is over", lab, |lab, judge, traffic| {
        traffic.wait_for_more(ENOUGH)?;
        turned = Some(turns_slowly(lab, judge, next)?);
        lab.wait_until(SETTLE, "followed, and drained", |status| follows(status, next, None))?;
        traffic.wait_for_more(2 * ENOUGH)
    })?;
    had_their_time(&report, former, turned.context("the node has not turned")?)?;
    verdict.nothing_escaped()?;
    let netns = lab.pod_netns(former);
    for (what, ours) in
        [("ip rule list", "lookup 100"), ("ip link show", "pistio"), ("ip route show table 100", "local")]
    {
        let left = Cmd::line(what).netns(&netns).run()?;
        ensure!(!left.contains(ours), "{former} still has in `{what}`: {left}");
    }
    lab.remove_pod(former)
}

/// `next` comes, and one of the writes by which the node turns to it takes longer than a drain may. When that is over.
fn turns_slowly(lab: &mut Lab, judge: &mut Judge, next: &str) -> Result<Instant> {
    lab.want_fault(How::Hang, &Point { what: OF_THE_TURN.to_owned(), skip: 0 })?;
    come(lab, judge, next)?;
    eventually(SETTLE, || {
        ensure!(lab.points()?.iter().any(|point| point.what == OF_THE_TURN), "no such write: {OF_THE_TURN}");
        Ok(())
    })?;
    let hangs = Instant::now();
    eventually(SETTLE, || {
        ensure!(hangs.elapsed() > DRAIN + Duration::from_secs(1), "it has to hang for longer");
        Ok(())
    })?;
    let turned = Instant::now();
    lab.end_faults()?;
    Ok(turned)
}

/// What broke is of the former ztunnel, and had all the time that a drain has; on a slow machine that may be a short connection too.
fn had_their_time(report: &Report, former: &str, turned: Instant) -> Result<()> {
    ensure!(!report.broken.is_empty(), "nothing has ended: {:?}", report.standing);
    ensure!(report.astray.is_empty() && report.gave_up.is_empty(), "{:?}, {:?}", report.astray, report.gave_up);
    for failure in report.broken.iter().chain(&report.failed) {
        ensure!(is_told_by(failure, former), "{failure}");
        let had = since(failure.ended, turned);
        ensure!(had >= DRAIN, "{failure}, {had:.1?} after the node had turned");
    }
    Ok(())
}

/// Everything that is new comes about. What breaks is of this one, and is told so at once, whether or not it was waiting for an answer.
fn only_resets_of(report: &Report, proxy: &str) -> Result<()> {
    ensure!(report.failed.is_empty(), "{:?}", report.failed);
    ensure!(report.astray.is_empty(), "{:?}", report.astray);
    ensure!(report.gave_up.is_empty(), "{:?}", report.gave_up);
    for broken in &report.broken {
        ensure!(is_told_by(broken, proxy), "{broken}");
    }
    Ok(())
}

fn is_told_by(broken: &Failure, proxy: &str) -> bool {
    matches!(broken.class, Class::Reset | Class::ClosedEarly) && broken.proxy.as_deref() == Some(proxy)
}

/// Nothing is new as long as there is none, and what never was by it goes on.
fn killed(tally: &mut Tally, lab: &mut Lab, proxy: &str) -> Result<()> {
    let (mut lost, mut again) = (None, None);
    let (report, verdict) = judged(tally, "the proxy is killed", lab, |lab, _, traffic| {
        traffic.wait_for_more(ENOUGH)?;
        lost = Some(Instant::now());
        lab.kill_proxy(proxy)?;
        traffic.wait_for_more(2)?;
        lab.start_proxy(proxy)?;
        again = Some(Instant::now());
        traffic.wait_for_more(ENOUGH)
    })?;
    verdict.nothing_escaped()?;
    let (lost, again) = lost.zip(again).context("it was not killed, and started again")?;
    ensure!(report.astray.is_empty() && report.gave_up.is_empty(), "{:?}, {:?}", report.astray, report.gave_up);
    for failure in &report.failed {
        ensure!(!DIRECT.contains(&failure.stream), "this needs no proxy: {failure}");
        ensure!(failure.ended >= lost, "{failure}, before it was killed");
        ensure!(failure.begun < again, "{failure}, {:.1?} after it was there again", since(failure.begun, again));
    }
    for broken in &report.broken {
        ensure!(broken.ended >= lost, "{broken}, before it was killed");
        ensure!(broken.proxy.as_deref() == Some(proxy), "{broken}");
    }
    Ok(())
}

fn since(moment: Instant, earlier: Instant) -> Duration {
    moment.saturating_duration_since(earlier)
}
