//! `cleanup` leaves both namespaces as they were before `run`, compared as text; also beside foreign objects that look
//! like the agent's, and when no agent runs any more.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use anyhow::{Context, Result, ensure};
use redirect_common::names::{TUNNEL_PORT, TUNNELS};
use redirect_lab::command::Cmd;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::foreign;
use redirect_lab::harness::{Checks, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::mode::Mode;
use redirect_lab::pinned;
use redirect_lab::restored::Before;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::status::Status;
use redirect_lab::table;
use rustix::process::Signal;

#[test]
fn nothing_stays_and_nothing_foreign_goes() -> Result<()> {
    let mut lab = ScopedLab::up(options("clean")?)?;
    let mut checks = Checks::default();
    checks.check("an agent that runs is asked", || same_after(&mut lab, |_| Ok(())));
    checks.check("an agent that was killed is not needed", || same_after(&mut lab, |lab| lab.stop_agent(Signal::KILL)));
    checks.check("a second cleanup finds nothing to do", || {
        let before = Before::of(&lab)?;
        before.is_back_after_cleanup(&mut lab)
    });
    checks.check("foreign objects are put in place", || foreign::put(&lab));
    checks.check("foreign objects stay", || same_after(&mut lab, |lab| table::check(lab, ZTUNNEL)));
    checks.check("a foreign tunnel owner is put in place", || foreign::tunnel(&lab.node(), TUNNEL_PORT));
    checks.check("a foreign owner of the tunnel port stays", || {
        same_after(&mut lab, |lab| {
            let port = lab.status()?.tunnel_port.context("no port")?;
            ensure!(port != TUNNEL_PORT, "the port is another's, and the agent still uses it");
            all_use(lab, port)?;
            table::check(lab, ZTUNNEL)
        })
    });
    checks.finish()
}

/// Runs the agent, does `meanwhile`, cleans up, and compares.
fn same_after(lab: &mut Lab, meanwhile: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let before = Before::of(lab)?;
    let status = start(lab, &watchful());
    let outcome = status.and_then(|status: Status| {
        ensure!(status.total_writes() > 0, "nothing was written, nothing can be cleaned up");
        ensure!(before.is_back(lab).is_err(), "a settled agent shows nowhere");
        meanwhile(lab)
    });
    let back = before.is_back_after_cleanup(lab);
    outcome.and(back)
}

/// Both ends of both tunnels, and what leaves the tunnels' own packets as they are.
fn all_use(lab: &Lab, port: u16) -> Result<()> {
    for tunnel in &TUNNELS {
        for (netns, link) in [(lab.node(), tunnel.node_link), (lab.pod_netns(ZTUNNEL), tunnel.proxy_link)] {
            let text = Cmd::line(&format!("ip -d link show {link}")).netns(&netns).run()?;
            ensure!(text.contains(&format!(" dstport {port} ")), "not on port {port}: {text}");
        }
    }
    if lab.mode() == Mode::Ebpf {
        let exempt = pinned::tunnel_port(lab)?;
        ensure!(exempt == u32::from(port), "the programs leave out port {exempt}");
        return Ok(());
    }
    let rules = Cmd::line(lab.options().backend.save()).netns(&lab.node()).run()?;
    for chain in ["ztunnel-PREROUTING", "ztunnel-OUTPUT"] {
        let exempt = format!("-A {chain} -p udp -m udp --dport {port} -j RETURN");
        ensure!(rules.lines().any(|rule| rule == exempt), "no rule {exempt:?} in\n{rules}");
    }
    Ok(())
}
