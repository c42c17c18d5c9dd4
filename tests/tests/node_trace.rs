//! One pod is traced: the agent's log says what the programs decided about its packets and about nobody else's, no program is
//! loaded for it, and no pod makes the log grow without end.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::fs;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redirect_lab::client::{Session, TIMEOUT};
use redirect_lab::harness::{Checks, eventually, settled, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::mode::Mode;
use redirect_lab::programs::{Hung, hung};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(30);
/// What lines of the log about packets contain.
const TARGET: &str = "redirect_agent::trace: ";
/// Lines that the agent shows in a second.
const MOST: u64 = 100;
/// Enough to be too many, also where everything is slow.
const ECHOES: usize = 500;

#[test]
fn one_pod_is_traced() -> Result<()> {
    let (mut lab, _) = settled("trace")?;
    let (a, b) = (lab.pod("app-a")?.ip()?, lab.pod("app-b")?.ip()?);
    let (before, remote) = (ours(&lab)?, lab.target("remote")?);
    let mut checks = Checks::default();
    connect(&lab, "app-a", 30001)?;
    checks.check("lines of one pod, with the rows of the law", || {
        lab.trace_pod(&["mesh/app-a"])?;
        ensure!(lab.status()?.trace.is_some_and(|pod| pod.name == "app-a"), "status does not say so");
        connect(&lab, "app-b", 30002)?;
        shown(&lab, "row 9 outbound, mark 0x100, ", &|| connect(&lab, "app-a", port()))?;
        let answers = format!("row 5 proxy-as-client, mark 0x210, {}:{} -> {a}:", remote.ip(), remote.port());
        shown(&lab, &answers, &|| connect(&lab, "app-a", port()))?;
        for words in ["row 10 rest, mark 0x0, ", "row 4 known-proxy, mark 0x40, "] {
            shown(&lab, words, &|| Session::open(&lab.place("remote")?, lab.target("app-a")?, None)?.echo())?;
        }
        for words in ["output istioin: row 8 node-probe, mark 0x220, ", "row 3 known-skip, mark 0x200, "] {
            shown(&lab, words, &|| Session::open(&lab.place("node")?, lab.target("app-a")?, None)?.echo())?;
        }
        all_about(&lines(&lab)?, &format!("{a}:"))?;
        ensure!(!lines(&lab)?.iter().any(|line| line.contains(":30001")), "packets from before are shown");
        Ok(())
    });
    checks.check("another takes its place", || {
        lab.trace_pod(&["mesh/app-b"])?;
        connect(&lab, "app-a", 30004)?;
        let end = format!("{b}:");
        shown(&lab, &format!("row 9 outbound, mark 0x100, {end}"), &|| connect(&lab, "app-b", port()))?;
        // Lines come in the order of packets; those of the former pod may have waited to be read.
        let lines: Vec<_> = lines(&lab)?.into_iter().skip_while(|line| !line.contains(&end)).collect();
        all_about(&lines, &end)
    });
    checks.check("off", || {
        lab.trace_pod(&["--off"])?;
        ensure!(lab.status()?.trace.is_none(), "status still names a pod");
        connect(&lab, "app-b", 30006)?;
        // Lines come in the order of packets: what is not there when a later one is, does not come.
        lab.trace_pod(&["mesh/app-b"])?;
        eventually(SOON, || {
            let port = port();
            connect(&lab, "app-b", port)?;
            has_line(&lab, &format!("{b}:{port} -> "))
        })?;
        ensure!(!lines(&lab)?.iter().any(|line| line.contains(":30006")), "there are lines of while it was off");
        Ok(())
    });
    checks.check("a flood is counted, and not shown", || {
        let (known, begun) = (lines(&lab)?.len(), Instant::now());
        let mut session = Session::open(&lab.place("app-b")?, lab.target("remote")?, None)?;
        (0..ECHOES).try_for_each(|_| session.echo())?;
        let status = lab.wait_until(SOON, "with lines lost", |status| lost(status.trace.as_ref()) > 0)?;
        let (shown, seconds) = (lines(&lab)?.len() - known, begun.elapsed().as_secs() + 2);
        println!("{shown} lines in {seconds} s, {} too many", lost(status.trace.as_ref()));
        ensure!(shown as u64 <= seconds * MOST, "{shown} lines in {seconds} s");
        eventually(SOON, || has_line(&lab, "more lines were too many to be shown"))
    });
    checks.check("no program was loaded for it", || same(&before, &ours(&lab)?));
    checks.check("the next agent traces nothing, and reads from the programs that stand", || {
        lab.stop_agent(Signal::KILL)?;
        let status = start(&mut lab, &watchful())?;
        ensure!(status.trace.is_none(), "it traces {:?}", status.trace);
        lab.trace_pod(&["mesh/app-a"])?;
        shown(&lab, &format!("row 9 outbound, mark 0x100, {a}:"), &|| connect(&lab, "app-a", port()))?;
        same(&before, &ours(&lab)?)
    });
    checks.check("what cannot be traced is said", || {
        refused(&lab, "mesh/app-x", "no pod mesh/app-x")?;
        refused(&lab, "default/plain", "is not meshed")?;
        lab.stop_agent(Signal::TERM)?;
        start(&mut lab, &watchful().in_mode(Mode::Iptables))?;
        refused(&lab, "mesh/app-a", "the agent is in iptables mode")
    });
    checks.finish()
}

/// The agent's programs: where they are, and their numbers in the kernel.
fn ours(lab: &Lab) -> Result<Vec<Hung>> {
    Ok(hung(&lab.node())?.into_iter().filter(Hung::is_ours).collect())
}

fn same(before: &[Hung], after: &[Hung]) -> Result<()> {
    ensure!(!before.is_empty() && before == after, "other programs stand: {before:#?}\nnow {after:#?}");
    Ok(())
}

/// A connection to the remote server, from this port.
fn connect(lab: &Lab, from: &str, port: u16) -> Result<()> {
    let source = SocketAddrV4::new(lab.address(from)?, port);
    Session::open_from(&lab.place(from)?, lab.target("remote")?, source, TIMEOUT)?.echo()
}

fn lines(lab: &Lab) -> Result<Vec<String>> {
    let log = fs::read_to_string(lab.agent_log())?;
    let line = |line: &str| Some(line.split_once(TARGET)?.1.to_owned());
    Ok(log.lines().filter_map(line).collect())
}

/// Has `traffic` happen until a new line has these words. More than once, because only so many lines are shown in a second, and
/// where everything is quick earlier packets may have used them up.
fn shown(lab: &Lab, words: &str, traffic: &dyn Fn() -> Result<()>) -> Result<()> {
    let known = lines(lab)?.len();
    eventually(SOON, || {
        traffic()?;
        let lines = lines(lab)?;
        let new = lines.get(known..).unwrap_or_default();
        ensure!(new.iter().any(|line| line.contains(words)), "no line has {words:?}:\n{}", new.join("\n"));
        Ok(())
    })
}

fn has_line(lab: &Lab, words: &str) -> Result<()> {
    let lines = lines(lab)?;
    ensure!(lines.iter().any(|line| line.contains(words)), "no line has {words:?}:\n{}", lines.join("\n"));
    Ok(())
}

/// A source port that no connection had.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(30100);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn all_about(lines: &[String], end: &str) -> Result<()> {
    // A line that says how many are missing is about no packet.
    let others: Vec<_> = lines.iter().filter(|line| line.contains(" -> ") && !line.contains(end)).collect();
    ensure!(others.is_empty(), "not about {end}: {others:#?}");
    Ok(())
}

fn lost(traced: Option<&redirect_lab::status::Traced>) -> u64 {
    traced.map_or(0, |traced| traced.lost)
}

fn refused(lab: &Lab, pod: &str, why: &str) -> Result<()> {
    match lab.trace_pod(&[pod]) {
        Ok(said) => anyhow::bail!("{pod} is traced: {said}"),
        Err(error) => ensure!(format!("{error:#}").contains(why), "{pod}: not {why:?}: {error:#}"),
    }
    Ok(())
}
