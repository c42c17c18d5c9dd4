//! There is no ztunnel: it has ended, with the agent there to see it or without, and its address may be another pod's. Nothing meshed
//! comes about, nothing leaves the node past the proxy, in a tunnel or without, and what does not need a proxy goes on. Where an operator wants
//! it otherwise, pods pass without a proxy, and no longer than there is none.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

mod bypass;
mod counted;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use redirect_lab::demo::{SETTLE, ZTUNNEL};
use redirect_lab::harness::{Checks, options, start, watchful};
use redirect_lab::judge::{Judge, Verdict};
use redirect_lab::lab::Lab;
use redirect_lab::layout::{PLAIN_NAMESPACE, PROXY_NAMESPACE};
use redirect_lab::mode::Mode;
use redirect_lab::neighbours::Neighbours;
use redirect_lab::pod::Pod;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::share::Share;
use redirect_lab::status::Status;
use redirect_lab::table;
use redirect_lab::tally::Tally;
use redirect_lab::traffic::{DIRECT, Report, Traffic};
use rustix::process::Signal;

/// Connections of each stream in each phase.
const ENOUGH: usize = 4;
const PROXIED: [&str; 5] =
    ["meshed to remote", "remote to meshed", "meshed to meshed", "meshed to a service", "unmeshed to meshed"];
const SECOND: &str = "ztunnel-2";
const THIRD: &str = "ztunnel-3";
const FOURTH: &str = "ztunnel-4";
const FIFTH: &str = "ztunnel-5";
const SIXTH: &str = "ztunnel-6";

#[test]
fn without_a_proxy_nothing_passes() -> Result<()> {
    let mut lab = ScopedLab::up(options("loss")?)?;
    let neighbours = Neighbours::move_in(&lab)?;
    start(&mut lab, &watchful())?;
    let mut checks = Checks::default();
    checks.check("ztunnel goes, and the agent sees it", || seen(&mut lab));
    checks.check("the next goes while no agent runs, and another pod gets its address", || unseen(&mut lab));
    checks.check("the table, beside that pod", || table::check(&lab, THIRD));
    checks.check("what is blocked then is counted by why", || counted::counted(&mut lab, THIRD, FOURTH));
    checks.check("ztunnel is Ready again, and the node's part of the way to it cannot be made", || {
        bypass::no_way_yet(&mut lab, FOURTH)
    });
    // The short form has one of these two in each mode.
    let (is_long, mut last) = (Share::wanted().is_some(), FOURTH);
    if is_long || lab.mode() == Mode::Iptables {
        checks.check("ztunnel goes, and all may pass but one namespace", || bypass::by_flag(&mut lab, last, FIFTH));
        last = FIFTH;
    }
    if is_long || lab.mode() == Mode::Ebpf {
        checks.check("ztunnel goes, and one namespace may pass", || bypass::by_namespace(&mut lab, last, SIXTH));
        last = SIXTH;
    }
    checks.check("the table after that", || table::check(&lab, last));
    // In iptables mode the agent that runs lets pods pass then, in ebpf mode it blocks them.
    checks.check("a cleanup without a ztunnel leaves nothing, and of others everything", || {
        lab.remove_pod(last)?;
        lab.wait_until(SETTLE, "without a proxy", is_without)?;
        neighbours.outlive_cleanup(&mut lab)
    });
    checks.finish()
}

fn seen(lab: &mut Lab) -> Result<()> {
    let mut scene = Scene::begin(lab, Traffic::judged)?;
    scene.goes_on()?;
    scene.lost(|lab| {
        lab.remove_pod(ZTUNNEL)?;
        lab.wait_until(SETTLE, "without a proxy", is_without).map(drop)
    })?;
    scene.goes_on()?;
    scene.comes(SECOND)?;
    scene.goes_on()?;
    scene.end("ztunnel is gone")
}

fn unseen(lab: &mut Lab) -> Result<()> {
    let former = lab.pod(SECOND)?.ip()?;
    let mut scene = Scene::begin(lab, Traffic::judged)?;
    scene.goes_on()?;
    scene.lost(|lab| {
        lab.stop_agent(Signal::KILL)?;
        lab.remove_pod(SECOND)
    })?;
    scene.goes_on()?;
    scene.lab.free_address_next(former)?;
    scene.lab.add_pod(Pod::app(PLAIN_NAMESPACE, "heir")?)?;
    scene.judge.follow(scene.lab)?;
    ensure!(scene.lab.pod("heir")?.ip()? == former, "{former} went to nobody");
    scene.goes_on()?;
    scene.lab.start_agent(&watchful())?;
    scene.lab.wait_until(SETTLE, "without a proxy", is_without)?;
    scene.goes_on()?;
    scene.comes(THIRD)?;
    scene.goes_on()?;
    scene.end("ztunnel and agent are gone")
}

fn is_without(status: &Status) -> bool {
    status.settled && status.proxy.state == "absent"
}

/// Connections of every kind, before a judge, while there is a proxy, none, and another.
struct Scene<'a> {
    lab: &'a mut Lab,
    judge: Judge,
    traffic: Traffic,
    lost: Option<Instant>,
    back: Option<Instant>,
}

impl<'a> Scene<'a> {
    /// By [`Traffic::judged`] where connections are to be blocked, or else by one whose clients wait for longer.
    fn begin(lab: &'a mut Lab, traffic: fn(&Lab, &Judge) -> Result<Traffic>) -> Result<Self> {
        let judge = Judge::watch(lab)?;
        let traffic = traffic(lab, &judge)?;
        Ok(Self { lab, judge, traffic, lost: None, back: None })
    }

    fn goes_on(&self) -> Result<()> {
        self.traffic.wait_for_more(ENOUGH)
    }

    fn lost(&mut self, loss: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
        self.lost = Some(Instant::now());
        loss(self.lab)
    }

    /// Shown to the judge before anything is sent to it.
    fn comes(&mut self, name: &str) -> Result<()> {
        let mut pod = Pod::proxy(PROXY_NAMESPACE, name)?;
        pod.ready = false;
        self.lab.add_pod(pod)?;
        self.judge.follow(self.lab)?;
        self.lab.change_pod(name, |pod| pod.ready = true)?;
        self.lab.wait_until(SETTLE, "programmed", |status| status.proxied_by(name))?;
        self.back = Some(Instant::now());
        Ok(())
    }

    /// What was seen, and between which moments there was no proxy.
    fn finish(self, what: &str) -> Result<(Report, Verdict, Instant, Instant)> {
        let (report, verdict) = (self.traffic.stop()?, self.judge.finish(self.lab)?);
        let mut tally = Tally::default();
        tally.add(what, 1, &report, &verdict);
        tally.print();
        let (lost, back) = self.lost.zip(self.back).context("nothing was lost, or nothing came")?;
        Ok((report, verdict, lost, back))
    }

    fn end(self, what: &str) -> Result<()> {
        let (report, verdict, lost, back) = self.finish(what)?;
        verdict.nothing_escaped()?;
        ensure!(report.astray.is_empty() && report.gave_up.is_empty(), "{:?}, {:?}", report.astray, report.gave_up);
        for failure in report.failed.iter().chain(&report.broken) {
            ensure!(!DIRECT.contains(&failure.stream), "this needs no proxy: {failure}");
            ensure!(failure.ended >= lost && failure.begun <= back, "there was a proxy: {failure}");
        }
        for stream in PROXIED {
            let failed = report.failed.iter().filter(|failure| failure.stream == stream).count();
            ensure!(failed >= ENOUGH - 1, "of {stream} only {failed} failed");
        }
        Ok(())
    }
}
