//! Where BPF cannot be used, the agent goes on in iptables mode, says why, and everything goes the way it must; with
//! `--no-fallback` it ends with the same reason.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redirect_lab::agent::AgentOptions;
use redirect_lab::command::Cmd;
use redirect_lab::demo::{SETTLE, ZTUNNEL};
use redirect_lab::faults::{How, Point};
use redirect_lab::foreign::{Foreign, Place, Verdict};
use redirect_lab::harness::{Checks, is_settled, options, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::lack::Lack;
use redirect_lab::mode::{Attach, Mode};
use redirect_lab::operator::{Facts, look};
use redirect_lab::programs::{Hook, Hung, has_tcx, hung};
use redirect_lab::scoped::ScopedLab;
use redirect_lab::table::{self, CASES};
use rustix::process::Signal;

const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";
/// What the agent's warning says, beside the reason.
const WARNING: &str = "BPF cannot be used";

/// How long the agent may take to see that an obstacle is gone: it looks again some seconds after it fell back, and rarely at first.
const AGAIN: Duration = Duration::from_secs(40);

/// What others may have on a pod's device that a filter of ours cannot get past.
struct Obstacle {
    what: &'static str,
    made: Made,
    /// What the agent says of it.
    reason: &'static str,
}

/// How it comes to be there.
#[derive(PartialEq, Eq)]
enum Made {
    /// By `tc` with these arguments, of which the first make the qdisc that all goes with; the device is `DEV`.
    ByTc(&'static [&'static str]),
    /// A program that ends the chain, attached by TCX.
    ByTcx,
}

/// The first two are of the kinds that the `bandwidth` plugin of the CNI project leaves.
const OBSTACLES: [Obstacle; 3] = [
    Obstacle {
        what: "an ingress qdisc in the place of clsact",
        made: Made::ByTc(&["qdisc add dev DEV ingress"]),
        reason: "ingress qdisc of somebody's",
    },
    Obstacle {
        what: "a filter of another kind at the first priority",
        made: Made::ByTc(&[
            "qdisc add dev DEV clsact",
            "filter add dev DEV ingress protocol all pref 1 matchall action ok",
        ]),
        reason: "matchall filter",
    },
    Obstacle { what: "a program that is attached by TCX", made: Made::ByTcx, reason: "tcx program" },
];

#[test]
fn without_bpf_it_is_iptables_mode_and_says_why() -> Result<()> {
    let mut lab = ScopedLab::up(options("fallback")?)?;
    let mut checks = Checks::default();
    let without = |lack| AgentOptions { without: Some(lack), ..watchful().in_mode(Mode::Ebpf) };
    checks.check("bpf(2) is not permitted", || falls_back(&mut lab, &without(Lack::Bpf), "not permitted"));
    checks.check("the same with --no-fallback", || ends(&mut lab, &without(Lack::Bpf), "not permitted"));
    checks.check("there is no file system for pins", || falls_back(&mut lab, &without(Lack::Bpffs), "bpf file system"));
    checks.check("the same with --no-fallback", || ends(&mut lab, &without(Lack::Bpffs), "bpf file system"));
    checks.check("what is to have the pins is a whole bpf file system, and others' stay", || whole(&mut lab));
    match JitOff::set()? {
        Some(off) => {
            let usual = watchful().in_mode(Mode::Ebpf);
            checks.check("the compiler is switched off", || falls_back(&mut lab, &usual, "bpf_jit_enable"));
            checks.check("the same with --no-fallback", || ends(&mut lab, &usual, "bpf_jit_enable"));
            checks.check("it is switched on again, and the agent changes over", || changes_over(&mut lab, &usual, off));
        }
        None => println!("this kernel always compiles (CONFIG_BPF_JIT_ALWAYS_ON): its compiler cannot be switched off"),
    }
    let by_filter = watchful().in_mode(Mode::Ebpf).arg("--tc-attach").arg("clsact");
    let has_tcx = has_tcx(&lab.node())?;
    for obstacle in OBSTACLES.iter().filter(|obstacle| has_tcx || obstacle.made != Made::ByTcx) {
        checks.check(&format!("a pod's device has {}, and then not", obstacle.what), || {
            obstructed(&mut lab, &by_filter, obstacle)
        });
    }
    if has_tcx {
        checks.check("attaching by TCX fails once, where others have programs", || fails_once(&mut lab));
    }
    checks.check("an agent that lacks nothing is in ebpf mode", || {
        lab.start_agent(&watchful().in_mode(Mode::Ebpf))?;
        let status = lab.wait_until(SETTLE, "settled", is_settled)?;
        ensure!(status.mode == "ebpf", "mode {}: {:?}", status.mode, status.fallback_reason);
        ensure!(status.fallback_reason.is_none(), "it gives a reason: {:?}", status.fallback_reason);
        table::check(&lab, ZTUNNEL)
    });
    checks.finish()
}

fn falls_back(lab: &mut Lab, options: &AgentOptions, reason: &str) -> Result<()> {
    let begin = fs::metadata(lab.agent_log()).map_or(0, |log| log.len());
    lab.start_agent(options)?;
    let outcome = has_fallen_back(lab, usize::try_from(begin)?, reason);
    lab.stop_agent(Signal::TERM)?;
    outcome
}

/// In one that others pin in as well nothing of theirs goes, whatever it is called, and the agent pins nothing.
fn whole(lab: &mut Lab) -> Result<()> {
    let dir = lab.bpf_dir();
    fs::create_dir(&dir)?;
    Cmd::line(&format!("mount -t bpf bpf {}", dir.display())).run()?;
    let others = ["tc/globals", "links/cilium", "v0/theirs", "v0/maps/theirs"].map(|name| dir.join(name));
    others.iter().try_for_each(fs::create_dir_all)?;
    let fallen = falls_back(lab, &watchful().in_mode(Mode::Ebpf), "whole bpf file system");
    let cleaned = lab.cleanup_agent();
    let gone: Vec<_> = others.iter().filter(|path| !path.is_dir()).collect();
    Cmd::line(&format!("umount {}", dir.display())).run()?;
    fs::remove_dir(&dir)?;
    ensure!(gone.is_empty(), "{gone:?} are gone");
    cleaned?;
    fallen
}

/// The pod is redirected by rules as long as the obstacle is there, and by programs when it is gone.
fn obstructed(lab: &mut Lab, options: &AgentOptions, obstacle: &Obstacle) -> Result<()> {
    // An agent that ended leaves its own qdisc.
    lab.cleanup_agent()?;
    let device = lab.pod("app-a")?.host_link.clone().context("app-a is not plumbed")?;
    let node = lab.node();
    let tc = |line: &str| Cmd::line(&format!("tc {}", line.replace("DEV", &device))).netns(&node).run().map(drop);
    let attach = || Foreign::attach(&node, &device, Hook::Ingress, Attach::Tcx, Place::Early, Verdict::Final);
    let program = match obstacle.made {
        Made::ByTc(lines) => lines.iter().try_for_each(|line| tc(line)).map(|()| None)?,
        Made::ByTcx => Some(attach()?),
    };
    let begin = fs::metadata(lab.agent_log()).map_or(0, |log| log.len());
    lab.start_agent(options)?;
    has_fallen_back(lab, usize::try_from(begin)?, obstacle.reason)?;
    match obstacle.made {
        Made::ByTc(lines) => tc(&lines[0].replace("add", "del"))?,
        Made::ByTcx => program.map_or(Ok(()), Foreign::detach)?,
    }
    let status = lab.wait_until(AGAIN, "in ebpf mode", |status| is_settled(status) && status.mode == "ebpf")?;
    ensure!(status.fallback_reason.is_none(), "it gives a reason: {:?}", status.fallback_reason);
    let wrong = table::run_case(lab, ZTUNNEL, CASES[0])?.wrong;
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    lab.cleanup_agent().map(drop)
}

/// By filters ours would be behind theirs, and the node would stay in iptables mode as long as they have any.
fn fails_once(lab: &mut Lab) -> Result<()> {
    lab.cleanup_agent()?;
    let device = lab.pod("app-a")?.host_link.clone().context("app-a is not plumbed")?;
    let program = Foreign::attach(&lab.node(), &device, Hook::Ingress, Attach::Tcx, Place::Early, Verdict::Final)?;
    // The first is that of the agent's trial.
    lab.want_fault(How::Error, &Point { what: "bpf swap a program".to_owned(), skip: 0 })?;
    lab.start_agent(&watchful().in_mode(Mode::Ebpf))?;
    let status = lab.wait_until(SETTLE, "settled", is_settled)?;
    let fired = lab.fault_has_fired();
    lab.end_faults()?;
    let wrong = table::run_case(lab, ZTUNNEL, CASES[0])?.wrong;
    program.detach()?;
    lab.cleanup_agent()?;
    ensure!(fired, "nothing failed");
    ensure!(status.tc_attach.as_deref() == Some("tcx"), "{}: {:?}", status.mode, status.fallback_reason);
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

/// What stood against BPF passes while the agent runs.
fn changes_over(lab: &mut Lab, options: &AgentOptions, off: JitOff) -> Result<()> {
    lab.start_agent(options)?;
    lab.wait_until(SETTLE, "settled in iptables mode", |status| is_settled(status) && status.mode == "iptables")?;
    drop(off);
    let status = lab.wait_until(SETTLE, "in ebpf mode", |status| is_settled(status) && status.mode == "ebpf")?;
    ensure!(status.fallback_reason.is_none(), "it gives a reason: {:?}", status.fallback_reason);
    let outcome = table::check(lab, ZTUNNEL);
    lab.stop_agent(Signal::TERM)?;
    outcome
}

/// The agent that writes its log from byte `begin` on.
fn has_fallen_back(lab: &Lab, begin: usize, reason: &str) -> Result<()> {
    let status = lab.wait_until(SETTLE, "settled", is_settled)?;
    let said = status.fallback_reason.clone().unwrap_or_default();
    ensure!(status.mode == "iptables", "mode {}", status.mode);
    ensure!(status.requested_mode.as_deref() == Some("ebpf"), "requested mode {:?}", status.requested_mode);
    ensure!(status.tc_attach.is_none(), "attached by {:?}", status.tc_attach);
    ensure!(said.contains(reason), "the reason is {said:?}, expected one about {reason:?}");
    println!("reason: {said}");
    one_warning(lab, begin)?;
    let ours: Vec<_> = hung(&lab.node())?.into_iter().filter(Hung::is_ours).collect();
    ensure!(ours.is_empty(), "programs in iptables mode: {ours:?}");
    for view in look(lab, &Facts::of(lab, ZTUNNEL, &["app-a", "app-b"])?)? {
        ensure!(view.wrong.is_empty(), "{}: {}", view.command, view.wrong.join("; "));
    }
    table::check(lab, ZTUNNEL)
}

fn one_warning(lab: &Lab, begin: usize) -> Result<()> {
    let log = fs::read_to_string(lab.agent_log())?;
    let log = log.get(begin..).context("the log has become shorter")?;
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN") && line.contains(WARNING)).collect();
    ensure!(warnings.len() == 1, "{} warnings: {warnings:?}", warnings.len());
    Ok(())
}

fn ends(lab: &mut Lab, options: &AgentOptions, reason: &str) -> Result<()> {
    let output = lab.run_agent(&options.clone().arg("--no-fallback"))?;
    let said = output.stdout + &output.stderr;
    ensure!(!output.status.success(), "it ends well: {said}");
    ensure!(said.contains(reason), "it says {said:?}, nothing about {reason:?}");
    Ok(())
}

/// The kernel's compiler of BPF, off until the value goes.
struct JitOff(String);

impl JitOff {
    /// `None` where it cannot be switched off.
    fn set() -> Result<Option<Self>> {
        let before = fs::read_to_string(JIT).with_context(|| format!("cannot read {JIT}"))?;
        let is_off = fs::write(JIT, "0").is_ok() && fs::read_to_string(JIT)?.trim() == "0";
        Ok(is_off.then_some(Self(before)))
    }
}

impl Drop for JitOff {
    fn drop(&mut self) {
        if let Err(error) = fs::write(JIT, &self.0) {
            eprintln!("{JIT} stays 0: {error}");
        }
    }
}
