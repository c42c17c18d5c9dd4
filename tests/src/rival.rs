//! Another agent on the lab's node, beside the one that runs.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::agent::ROLE;
use crate::lab::Lab;
use crate::process::Process;

/// The agent that came second.
pub struct Rival {
    process: Process,
    log: PathBuf,
    /// Where its words begin in the log, in bytes: others of the same lab wrote there before.
    begin: usize,
}

impl Rival {
    /// Its process.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Whether it is still running.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.process.alive()
    }

    /// All that it has said.
    pub fn said(&self) -> Result<String> {
        let all = fs::read_to_string(&self.log)?;
        all.get(self.begin..).map(str::to_owned).with_context(|| format!("{} has become shorter", self.log.display()))
    }
}

impl Lab {
    /// Starts another agent beside the one that runs, as that one was started; what it says is in a log of its own.
    pub fn start_rival(&self) -> Result<Rival> {
        let options = self.state.agent.clone().context("no agent was started")?;
        let log = self.dir().join("rival.log");
        let words = self.command_line(&options)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdout(Stdio::null());
        // Before it starts, as it speaks at once.
        let begin = usize::try_from(fs::metadata(&log).map_or(0, |log| log.len()))?;
        let (process, _child) = Process::start(ROLE, &mut command, &self.node(), &log)?;
        Ok(Rival { process, log, begin })
    }

    /// From now on the rival is the lab's agent, as the first has ended.
    pub fn adopt_rival(&mut self, rival: Rival) -> Result<()> {
        self.forget(ROLE)?;
        self.remember(rival.process)
    }
}
