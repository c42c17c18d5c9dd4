//! Writes of the agent fail, one after the other, while pods join and leave, at the start, and at a cleanup: it says so, and what
//! stands in the end is what would have stood without. The writes of each phase are counted first; then some of them fail, in
//! one of three ways each: every fourteenth, all in the long form, or every `REDIRECT_FAULTS_EVERY`th.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use redirect_lab::agent::AgentOptions;
use redirect_lab::backend::Backend;
use redirect_lab::demo::{SETTLE, ZTUNNEL};
use redirect_lab::drift::sections;
use redirect_lab::faults::{How, REASON};
use redirect_lab::harness::{Checks, eventually, is_settled, often, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::mode::Mode;
use redirect_lab::process::{self, Process};
use redirect_lab::scoped::ScopedLab;
use redirect_lab::snapshot::Snapshot;
use redirect_lab::status::Status;
use redirect_lab::table;
use rustix::process::Signal;

/// Every which write fails in the short form; every one in the long form.
const EVERY: usize = 14;
/// How long until a fault shows, and until it is made good.
const DEADLINE: Duration = Duration::from_mins(1);
const MODE: &str = "istio.io/dataplane-mode";

/// What is done while a write fails. Each begins where another ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Enrol,
    Unenrol,
    Start,
    Cleanup,
}

#[test]
fn a_write_that_fails_leaves_nothing_half_done() -> Result<()> {
    let mut lab = ScopedLab::up(options("faults")?)?;
    let mut checks = Checks::default();
    println!("@columns writes that fail | while | writes | made to fail | of them as without");
    for phase in [Phase::Start, Phase::Enrol, Phase::Unenrol, Phase::Cleanup] {
        let golden = Golden::of(&mut lab, phase)?;
        let ways = golden.by_way();
        println!("{phase:?}: {} writes: {ways:?}", golden.points.len());
        checks.check(&format!("{phase:?} has writes"), || {
            ensure!(!golden.points.is_empty(), "no write was counted");
            Ok(())
        });
        let (chosen, mut held) = (chosen(&golden.points)?, 0);
        for (turn, skip) in chosen.iter().copied().enumerate() {
            let how = How::ALL[turn % How::ALL.len()];
            let name = format!("{phase:?}, write {skip} ({}): {how}", golden.points[skip]);
            checks.check(&name, || golden.holds(&mut lab, how, skip).inspect(|()| held += 1));
        }
        println!("@figure writes that fail | {phase:?} | {} | {} | {held}", golden.points.len(), chosen.len());
    }
    checks.check("the table, after all of it", || {
        start(&mut lab, &watchful())?;
        table::check(&lab, ZTUNNEL)
    });
    checks.finish()
}

/// Some of the points, and the first of each way to write.
fn chosen(points: &[String]) -> Result<Vec<usize>> {
    let every: usize = match std::env::var("REDIRECT_FAULTS_EVERY") {
        Ok(number) => number.parse().context("REDIRECT_FAULTS_EVERY")?,
        Err(_) => often(EVERY, 1),
    };
    ensure!(every > 0, "every 0th write is none");
    let first = |way: &str| points.iter().position(|point| point.starts_with(way));
    let mut chosen: Vec<_> = (0..points.len()).step_by(every).collect();
    chosen.extend(["netlink", "batch", "bpf", "file"].into_iter().filter_map(first));
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

/// A phase as it is when nothing fails.
struct Golden {
    phase: Phase,
    /// Its writes.
    points: Vec<String>,
    /// What stands afterwards, on the node and in ztunnel's namespace.
    after: [Snapshot; 2],
}

impl Golden {
    /// Goes through it once.
    fn of(lab: &mut Lab, phase: Phase) -> Result<Self> {
        phase.prepare(lab)?;
        lab.count_writes()?;
        phase.begin(lab)?;
        phase.settles(lab, None)?;
        let points = lab.points()?;
        lab.end_faults()?;
        Ok(Self { phase, points, after: phase.look(lab)? })
    }

    fn by_way(&self) -> BTreeMap<&str, usize> {
        let mut ways = BTreeMap::new();
        for way in self.points.iter().filter_map(|point| point.split(' ').next()) {
            *ways.entry(way).or_default() += 1;
        }
        ways
    }

    /// The same with a write that fails.
    fn holds(&self, lab: &mut Lab, how: How, skip: usize) -> Result<()> {
        let phase = self.phase;
        phase.prepare(lab)?;
        let said = fs::read_to_string(lab.agent_log()).unwrap_or_default().len();
        lab.want_fault(how, skip)?;
        let begun = phase.begin(lab);
        let settled = phase.settles(lab, Some(how));
        let (points, fired) = (lab.points()?, lab.fault_has_fired());
        lab.end_faults()?;
        settled?;
        if !fired {
            // What a run writes, and in how many steps, may hang on when it looks.
            println!("        {phase:?}: only {} writes this time", points.len());
            return begun;
        }
        if how != How::Abort {
            let log = fs::read_to_string(lab.agent_log())?;
            let told = begun.is_err_and(|error| format!("{error:#}").contains(REASON))
                || log.get(said..).is_some_and(|said| said.contains(REASON));
            ensure!(told, "nobody was told");
        }
        let changes: String =
            self.after.iter().zip(&phase.look(lab)?).filter_map(|(golden, now)| golden.diff(now)).collect();
        ensure!(changes.is_empty(), "afterwards there is\n{changes}");
        let left: Vec<_> = half_written(lab)?;
        ensure!(left.is_empty(), "half-written files stay: {left:?}");
        Ok(())
    }
}

impl Phase {
    /// Brings the lab to where the phase begins.
    fn prepare(self, lab: &mut Lab) -> Result<()> {
        match self {
            Self::Start => lab.cleanup_agent().map(drop),
            Self::Enrol | Self::Unenrol => {
                if !lab.agent().is_some_and(Process::alive) {
                    start(lab, &watchful())?;
                }
                let (mode, meshed) = if self == Self::Enrol { ("none", false) } else { ("ambient", true) };
                lab.label_pod("app-b", MODE, Some(mode))?;
                lab.wait_until(DEADLINE, mode, |status| status.settled && status.meshed("app-b") == meshed).map(drop)
            }
            Self::Cleanup => {
                lab.label_pod("app-b", MODE, Some("ambient"))?;
                if !lab.agent().is_some_and(Process::alive) {
                    lab.start_agent(&watchful())?;
                }
                lab.wait_until(SETTLE, "settled", is_settled).map(drop)
            }
        }
    }

    /// What makes the agent write.
    fn begin(self, lab: &mut Lab) -> Result<()> {
        match self {
            Self::Start => lab.start_agent(&watchful()),
            Self::Enrol => lab.label_pod("app-b", MODE, Some("ambient")),
            Self::Unenrol => lab.label_pod("app-b", MODE, Some("none")),
            Self::Cleanup => lab.cleanup_agent().map(drop),
        }
    }

    /// Waits for its end. An agent that was killed is started anew, as kubelet would do it; any other goes on by itself.
    fn settles(self, lab: &mut Lab, how: Option<How>) -> Result<()> {
        let mode = lab.mode().to_string();
        let wanted = |status: &Status| match self {
            // Where BPF could not be used at first, it is tried again.
            Self::Start => is_settled(status) && status.mode == mode,
            Self::Enrol => status.settled && status.meshed("app-b"),
            Self::Unenrol => status.settled && !status.meshed("app-b"),
            Self::Cleanup => false,
        };
        if self == Self::Cleanup {
            // An operator is told that something is left, and does it again.
            return if how.is_some() { eventually(DEADLINE, || lab.cleanup_agent().map(drop)) } else { Ok(()) };
        }
        if how == Some(How::Abort) {
            let killed = || lab.fault_has_fired() && !lab.agent().is_some_and(Process::alive);
            // In vain, if there are not so many writes this time.
            eventually(DEADLINE, || {
                ensure!(killed() || lab.status().is_ok_and(|status| wanted(&status)), "neither killed nor settled");
                Ok(())
            })?;
            if killed() {
                lab.start_agent(&watchful())?;
            }
        }
        lab.wait_until(DEADLINE, &format!("{self:?} settled"), wanted).map(drop)
    }

    fn look(self, lab: &Lab) -> Result<[Snapshot; 2]> {
        let places = [lab.node(), lab.pod_netns(ZTUNNEL)];
        let look = |netns| match self {
            Self::Cleanup => Ok(Snapshot::exact(netns)?.without_processes()),
            _ => Snapshot::shape(netns, &sections(lab.options().backend)),
        };
        Ok([look(&places[0])?, look(&places[1])?])
    }
}

/// Files of the agent that another file was to be made of.
fn half_written(lab: &Lab) -> Result<Vec<String>> {
    let names = fs::read_dir(lab.agent_dir())?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<Result<_>>()?;
    Ok(names.into_iter().filter(|name| Path::new(name).extension().is_some_and(|end| end == "tmp")).collect())
}

/// A tool that waits for another's lock would write when nobody counts on it any more.
#[test]
fn tools_end_with_the_agent() -> Result<()> {
    const LOCK: &str = "/run/xtables.lock";
    let mut chosen = options("tools")?;
    chosen.backend = Backend::Legacy;
    let mut lab = ScopedLab::up(chosen)?;
    let before = Snapshot::exact(&lab.node())?;
    let held = Flock::lock(File::create(LOCK)?, FlockArg::LockExclusive).map_err(|(_, error)| error).context(LOCK)?;
    let restores = |lab: &Lab| -> Result<Vec<Process>> {
        let mut all = process::inside(&lab.node())?;
        all.retain(|process| process.role.starts_with("iptables"));
        Ok(all)
    };
    lab.start_agent(&AgentOptions { mode: Some(Mode::Iptables), ..watchful() })?;
    eventually(DEADLINE, || {
        ensure!(!restores(&lab)?.is_empty(), "no tool waits for the lock");
        Ok(())
    })?;
    lab.stop_agent(Signal::KILL)?;
    eventually(Duration::from_secs(5), || {
        let left = restores(&lab)?;
        ensure!(left.is_empty(), "they go on: {left:?}");
        Ok(())
    })?;
    drop(held);
    lab.cleanup_agent()?;
    let changes = before.diff(&Snapshot::exact(&lab.node())?).unwrap_or_default();
    ensure!(changes.is_empty(), "{changes}");
    Ok(())
}
