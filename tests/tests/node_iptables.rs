//! The host's iptables is not the agent's alone: which of the two it is may show only after the agent has started, and others hold the
//! lock of the legacy one. In ebpf mode the chains are in ztunnel's namespace only, and the same holds there.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use redirect_lab::backend::Backend;
use redirect_lab::command::Cmd;
use redirect_lab::demo::{SETTLE, ZTUNNEL};
use redirect_lab::harness::{Checks, eventually, is_settled, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::layout::{MESH_NAMESPACE, PROXY_NAMESPACE};
use redirect_lab::mode::Mode;
use redirect_lab::netns::Netns;
use redirect_lab::pod::Pod;
use redirect_lab::process::Process;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::services;
use redirect_lab::status::Status;
use redirect_lab::table::{self, CASES};
use redirect_lab::xtables::{self, Lock};
use rustix::process::Signal;

/// Where the agent has guessed, it looks again every ten runs, a second each.
const LOOK: Duration = Duration::from_mins(1);
/// A rule of nobody in particular, by which the host seems to use the iptables that it is in.
const RULE: &str = "-A INPUT -s 198.51.100.7 -j RETURN";
/// For how long another holds the xtables lock.
const HELD: Duration = Duration::from_secs(20);
/// After a failure the next run is late, and later each time.
const RUNS: u64 = 3;
/// The ztunnel that follows.
const NEXT: &str = "ztunnel-next";
/// How the names of the agent's chains begin.
const OURS: &str = "ztunnel-";

#[test]
fn rules_end_where_the_hosts_are() -> Result<()> {
    let mut lab = ScopedLab::up(options("later")?)?;
    let host = lab.options().backend;
    let guess = host.other();
    let (node, services) = (lab.node(), lab.services()?);
    services::uninstall(&node, host, &services)?;
    Cmd::line(&format!("{} --wait 10 {RULE}", guess.iptables())).netns(&node).run()?;
    let mut checks = Checks::default();
    checks.check("before Kubernetes has shown itself, the one with rules is taken", || {
        let status = start(&mut lab, &watchful())?;
        ensure!(is_in(&status, guess), "it is {:?}", status.backend);
        stand_in(&lab, guess)?;
        works(&lab)
    });
    checks.check("kubelet and kube-proxy start with the other, and the agent moves over", || {
        services::install(&node, host, &services)?;
        lab.wait_until(LOOK, "moved over", |status| is_settled(status) && is_in(status, host))?;
        eventually(SETTLE, || stand_in(&lab, host))?;
        table::check(&lab, ZTUNNEL)
    });
    checks.check("while a ztunnel drains both stand, and one cleanup takes both away", || {
        lab.add_pod(Pod::proxy(PROXY_NAMESPACE, NEXT)?)?;
        let drains = |status: &Status| status.settled && status.proxied_by(NEXT) && status.draining.is_some();
        lab.wait_until(SETTLE, "followed", drains)?;
        services::uninstall(&node, host, &services)?;
        lab.stop_agent(Signal::TERM)?;
        lab.start_agent(&watchful())?;
        lab.wait_until(SETTLE, "moved over", |status| drains(status) && is_in(status, guess))?;
        for backend in [host, guess] {
            ensure!(has_chains(&lab.pod_netns(NEXT), backend)?, "of {backend} there are none");
        }
        lab.cleanup_agent()?;
        for netns in [lab.node(), lab.pod_netns(ZTUNNEL), lab.pod_netns(NEXT)] {
            for backend in [host, guess] {
                ensure!(!has_chains(&netns, backend)?, "{} still has some by {backend}", netns.name());
            }
        }
        Ok(())
    });
    checks.finish()
}

fn is_in(status: &Status, backend: Backend) -> bool {
    status.backend.as_deref() == Some(&backend.to_string())
}

/// Chains of the agent are in this iptables, and none in the other: in ztunnel's namespace, and in iptables mode on the node.
fn stand_in(lab: &Lab, backend: Backend) -> Result<()> {
    for (netns, wanted) in places(lab) {
        ensure!(has_chains(&netns, backend)? == wanted, "{} has none by {backend}, or should have none", netns.name());
        ensure!(!has_chains(&netns, backend.other())?, "{} still has some by {}", netns.name(), backend.other());
    }
    Ok(())
}

/// The network namespaces, and whether chains of the agent belong there.
fn places(lab: &Lab) -> [(Netns, bool); 2] {
    [(lab.node(), lab.mode() == Mode::Iptables), (lab.pod_netns(ZTUNNEL), true)]
}

fn has_chains(netns: &Netns, backend: Backend) -> Result<bool> {
    Ok(Cmd::line(backend.save()).netns(netns).run()?.contains(OURS))
}

fn works(lab: &Lab) -> Result<()> {
    let wrong = table::run_case(lab, ZTUNNEL, CASES[0])?.wrong;
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

/// `iptables-nft-save` leaves out a table that holds what iptables has no words for.
#[test]
fn a_table_that_iptables_does_not_show_is_not_taken_for_an_empty_one() -> Result<()> {
    let nft = redirect_lab::state::Options { backend: Backend::Nft, ..options("hidden")? };
    let mut lab = ScopedLab::up(nft)?;
    start(&mut lab, &watchful())?;
    let mut checks = Checks::default();
    for (netns, table, hook, is_ours) in [
        (lab.node(), "filter", "FORWARD", lab.mode() == Mode::Iptables),
        (lab.pod_netns(ZTUNNEL), "mangle", "PREROUTING", true),
    ] {
        let name = format!("a rule of nft's in table {table} of {}", netns.name());
        checks.check(&name, || goes_on_beside(&mut lab, &netns, table, hook, is_ours));
    }
    checks.finish()
}

fn goes_on_beside(lab: &mut Lab, netns: &Netns, table: &str, hook: &str, is_ours: bool) -> Result<()> {
    let nft = |text: &str| Cmd::line("nft -f -").netns(netns).stdin(text).run();
    let foreign = format!("ip {table} others");
    nft(&format!("add table ip {table}\nadd chain {foreign}\nadd rule {foreign} ct state established accept\n"))?;
    let shown = Cmd::line(Backend::Nft.save()).netns(netns).run()?;
    ensure!(shown.contains("is incompatible"), "it is shown, and the check is worth nothing:\n{shown}");
    if is_ours {
        lab.wait_until(SETTLE, "complaining about the table", |status| status.complains("chain", table))?;
        let runs = lab.status()?.reconciles;
        lab.wait_until(SETTLE, "through some runs more", |status| status.reconciles > runs + RUNS)?;
        let chain = Cmd::line(&format!("nft list chain ip {table} {hook}")).netns(netns).run()?;
        let jumps = chain.lines().filter(|line| line.contains(&format!("jump {OURS}"))).count();
        ensure!(jumps == 1, "{jumps} jumps: {chain}");
        let cleaned = lab.cleanup_agent();
        ensure!(cleaned.is_err(), "it takes what it does not see for taken away");
        nft(&format!("delete chain {foreign}\n"))?;
        lab.cleanup_agent()?;
        ensure!(!has_chains(netns, Backend::Nft)?, "chains are left");
        start(lab, &watchful()).map(drop)?;
    } else {
        let runs = lab.status()?.reconciles;
        lab.wait_until(SETTLE, "settled", |status| is_settled(status) && status.reconciles > runs + RUNS)?;
        nft(&format!("delete chain {foreign}\n"))?;
    }
    lab.wait_until(SETTLE, "settled", is_settled)?;
    works(lab)
}

#[test]
fn a_lock_that_others_hold_halves_nothing() -> Result<()> {
    let mut lab = ScopedLab::up(redirect_lab::state::Options { backend: Backend::Legacy, ..options("lock")? })?;
    let mut checks = Checks::default();
    checks.check("an agent that starts meanwhile waits, and nothing is there before all is", || {
        starts_under_lock(&mut lab)?;
        table::check(&lab, ZTUNNEL)
    });
    checks.check("a pod that comes meanwhile does not wait", || {
        let lock = Lock::take()?;
        lab.add_pod(Pod::app(MESH_NAMESPACE, "app-c")?)?;
        lab.wait_until(SETTLE, "app-c meshed", |status| status.settled && status.meshed("app-c"))?;
        let case = table::Case { from: "app-c", ..CASES[0] };
        let wrong = table::run_case(&lab, ZTUNNEL, case)?.wrong;
        drop(lock);
        ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        Ok(())
    });
    checks.finish()
}

fn starts_under_lock(lab: &mut Lab) -> Result<()> {
    let lock = Lock::take()?;
    lab.start_agent(&watchful())?;
    let waiting = |lab: &Lab| {
        let tools = xtables::writers(lab)?;
        ensure!(!tools.is_empty(), "no tool waits for the lock");
        Ok(tools)
    };
    let first = eventually(SETTLE, || waiting(lab))?;
    sleep(HELD);
    let pids = |tools: &[Process]| tools.iter().map(|tool| tool.pid).collect::<Vec<_>>();
    let now = waiting(lab)?;
    ensure!(pids(&now) == pids(&first), "{first:?} has given up: {now:?}");
    for (netns, _) in places(lab) {
        ensure!(!has_chains(&netns, Backend::Legacy)?, "{} has chains in spite of the lock", netns.name());
    }
    drop(lock);
    lab.wait_until(SETTLE, "settled", is_settled).map(drop)
}
