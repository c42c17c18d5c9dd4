//! Tools that the agent runs, when it is killed.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use redirect_lab::agent::AgentOptions;
use redirect_lab::backend::Backend;
use redirect_lab::harness::{eventually, options, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::mode::Mode;
use redirect_lab::process::{self, Process};
use redirect_lab::scoped::ScopedLab;
use redirect_lab::snapshot::Snapshot;
use rustix::process::Signal;

use crate::phase::DEADLINE;

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
