//! An agent that panics: by a file that only an agent of the lab looks at, and only if it was built with debug checks.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::wait::WaitStatus;

use crate::agent::ROLE;
use crate::lab::Lab;

/// Names the file to the agent.
pub(crate) const PANIC_VARIABLE: &str = "REDIRECT_TEST_PANIC";
/// What the agent then says.
const SAYS: [&str; 2] = ["a test wants a panic", "the reconcile loop panicked"];
/// It looks for drift every second, and so at every kind.
const PATIENCE: Duration = Duration::from_secs(30);

impl Lab {
    /// The file that says where the agent is to panic.
    pub(crate) fn panic_file(&self) -> PathBuf {
        self.dir().join("panic")
    }

    /// From now on an agent panics when it comes to this kind of resource (`map`, `program`), until one has.
    pub fn want_panic(&self, kind: &str) -> Result<()> {
        // Whole or not at all for an agent that reads it.
        let new = self.dir().join(".panic");
        fs::write(&new, kind)?;
        fs::rename(&new, self.panic_file()).context("cannot ask for a panic")
    }

    /// Waits until the agent, which the caller has started, has panicked and ended.
    pub fn agent_has_panicked(&mut self) -> Result<()> {
        let agent = self.agent().context("no agent was started")?;
        let status = agent.wait_status(PATIENCE).map_err(|error| anyhow!("{error:#}\n{}", self.agent_log_tail()));
        match fs::remove_file(self.panic_file()) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let status = status?;
        self.forget(ROLE)?;
        ensure!(matches!(status, WaitStatus::Exited(_, code) if code != 0), "it has ended as {status:?}");
        let tail = self.agent_log_tail();
        for words in SAYS {
            ensure!(tail.contains(words), "it says nothing of {words:?}\n{tail}");
        }
        Ok(())
    }
}
