//! Tools that the agent runs, when it is killed.

use std::time::Duration;

use anyhow::{Result, ensure};
use redirect_lab::agent::AgentOptions;
use redirect_lab::backend::Backend;
use redirect_lab::harness::{eventually, options, watchful};
use redirect_lab::mode::Mode;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::snapshot::Snapshot;
use redirect_lab::xtables::{self, Lock};
use rustix::process::Signal;

use crate::phase::DEADLINE;

/// A tool that waits for another's lock would write when nobody counts on it any more.
#[test]
fn tools_end_with_the_agent() -> Result<()> {
    let mut chosen = options("tools")?;
    chosen.backend = Backend::Legacy;
    let mut lab = ScopedLab::up(chosen)?;
    let before = Snapshot::exact(&lab.node())?;
    let held = Lock::take()?;
    lab.start_agent(&AgentOptions { mode: Some(Mode::Iptables), ..watchful() })?;
    eventually(DEADLINE, || {
        ensure!(!xtables::writers(&lab)?.is_empty(), "no tool waits for the lock");
        Ok(())
    })?;
    lab.stop_agent(Signal::KILL)?;
    eventually(Duration::from_secs(5), || {
        let left = xtables::writers(&lab)?;
        ensure!(left.is_empty(), "they go on: {left:?}");
        Ok(())
    })?;
    drop(held);
    lab.cleanup_agent()?;
    let changes = before.diff(&Snapshot::exact(&lab.node())?).unwrap_or_default();
    ensure!(changes.is_empty(), "{changes}");
    Ok(())
}
