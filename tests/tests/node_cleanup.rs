//! `cleanup` leaves both namespaces as they were before `run`, compared as text; also beside foreign objects that look
//! like the agent's, and when no agent runs any more.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use anyhow::{Context, Result, ensure};
use redirect_common::names::TUNNEL_PORT;
use redirect_lab::command::Cmd;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::harness::{Checks, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::netns::Netns;
use redirect_lab::node::ip_batch;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::snapshot::Snapshot;
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
        let before = both(&lab)?;
        lab.cleanup_agent()?;
        compare(&before, &both(&lab)?)
    });
    checks.check("foreign objects are put in place", || foreign(&lab));
    checks.check("foreign objects stay", || same_after(&mut lab, |lab| table::check(lab, ZTUNNEL)));
    checks.check("a foreign tunnel owner is put in place", || foreign_tunnel(&lab.node(), TUNNEL_PORT));
    checks.check("a foreign owner of the tunnel port stays", || {
        same_after(&mut lab, |lab| {
            let port = lab.status()?.tunnel_port;
            ensure!(port.is_some_and(|port| port != TUNNEL_PORT), "the port is another's, and the agent still uses it");
            table::check(lab, ZTUNNEL)
        })
    });
    checks.finish()
}

/// Runs the agent, does `meanwhile`, cleans up, and compares.
fn same_after(lab: &mut Lab, meanwhile: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let before = both(lab)?;
    let status = start(lab, &watchful());
    let outcome = status.and_then(|status: Status| {
        ensure!(status.total_writes() > 0, "nothing was written, nothing can be cleaned up");
        ensure!(compare(&before, &both(lab)?).is_err(), "a settled agent shows nowhere");
        meanwhile(lab)
    });
    lab.cleanup_agent()?;
    ensure!(!lab.bpf_dir().exists(), "{} is still there", lab.bpf_dir().display());
    outcome.and(compare(&before, &both(lab)?))
}

fn both(lab: &Lab) -> Result<[Snapshot; 2]> {
    Ok([Snapshot::exact(&lab.node())?, Snapshot::exact(&lab.pod_netns(ZTUNNEL))?])
}

fn compare(before: &[Snapshot; 2], after: &[Snapshot; 2]) -> Result<()> {
    let changes: String = before.iter().zip(after).filter_map(|(before, after)| before.diff(after)).collect();
    ensure!(changes.is_empty(), "{changes}");
    Ok(())
}

/// Things of others that have our priorities, tables and name prefixes, but not our content.
fn foreign(lab: &Lab) -> Result<()> {
    let (node, proxy) = (lab.node(), lab.pod_netns(ZTUNNEL));
    ip_batch(
        &node,
        &[
            "rule add priority 101 from 198.51.100.7 lookup main",
            "rule add priority 100 fwmark 0x1000/0x1000 lookup 7",
            "route add 198.51.100.0/25 via 172.18.0.1 table 100",
            "route add 198.51.100.128/25 via 172.18.0.1 table 101",
            "route add 198.51.100.128/25 via 172.18.0.1 table 102",
        ],
    )?;
    ip_batch(
        &proxy,
        &["rule add priority 20000 from 198.51.100.7 lookup main", "route add 198.51.100.0/25 dev eth0 table 100"],
    )?;
    for netns in [&node, &proxy] {
        chain(lab, netns)?;
        foreign_tunnel(netns, 7777)?;
    }
    Cmd::line("ipset restore")
        .netns(&node)
        .stdin("create ztunnel-other hash:ip\nadd ztunnel-other 198.51.100.7\n")
        .run()
        .map(drop)
}

fn chain(lab: &Lab, netns: &Netns) -> Result<()> {
    let rules = "*mangle\n:ztunnel-OTHER - [0:0]\n-A PREROUTING -s 198.51.100.7/32 -j ztunnel-OTHER\n\
                 -A ztunnel-OTHER -j MARK --set-xmark 0x1000/0x1000\nCOMMIT\n";
    let restore = Cmd::line(lab.options().backend.restore()).args(["--wait", "10", "--noflush"]);
    restore.netns(netns).stdin(rules).run().map(drop).context("cannot write a foreign chain")
}

/// A tunnel that takes every VNI on its port, as OVN's does: the port is then no one else's.
fn foreign_tunnel(netns: &Netns, port: u16) -> Result<()> {
    let name = format!("genev_{port}");
    let add = format!("link add {name} type geneve dstport {port} external");
    ip_batch(netns, &[&add, &format!("link set {name} up")])
}
