//! The agent as a process on the lab's node: starting, ending and asking it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::binaries;
use crate::command::Cmd;
use crate::lab::Lab;
use crate::layout::{NODE_IP, NODE_NAME};
use crate::process::Process;
use crate::status::Status;

/// Name of the program, and the role its process is recorded under.
const AGENT: &str = "redirect-agent";
const ROLE: &str = "agent";
/// Between two questions to the agent.
const POLL: Duration = Duration::from_millis(50);
/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of the log an error shows.
const LOG_TAIL: usize = 40;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Ok(Box<Status>),
    Error(String),
}

/// How the lab's agent is run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AgentOptions {
    /// More arguments of `redirect-agent run`.
    pub args: Vec<String>,
}

impl Lab {
    /// Starts the agent in the node's netns.
    pub fn start_agent(&mut self, options: &AgentOptions) -> Result<()> {
        if self.agent().is_some_and(Process::alive) {
            bail!("the agent of lab {} is already running", self.name());
        }
        self.forget(ROLE)?;
        let log = self.agent_log();
        let mut command = Command::new(binaries::find(AGENT)?);
        command
            .args(["run", "--mode", "iptables", "--node-name", NODE_NAME])
            .args(["--node-ip", &NODE_IP.to_string()])
            .arg(format!("--pods=manifests:{}", self.manifests_dir().display()))
            .arg("--state-dir")
            .arg(self.agent_dir())
            .args(&options.args)
            .stdout(fs::File::options().append(true).create(true).open(&log)?);
        let (process, _child) = Process::start(ROLE, &mut command, &self.node(), &log)?;
        self.remember_agent(process, options.clone())
    }

    /// The agent's process, running or not.
    #[must_use]
    pub fn agent(&self) -> Option<&Process> {
        self.process(ROLE)
    }

    /// Sends the agent a signal and waits until it has ended.
    pub fn stop_agent(&mut self, signal: Signal) -> Result<()> {
        let agent = self.agent().context("no agent was started")?;
        agent.signal(signal)?;
        if !agent.wait(Duration::from_secs(30))? {
            bail!("the agent does not end on {signal:?}\n{}", self.agent_log_tail());
        }
        self.forget(ROLE)
    }

    /// Runs `redirect-agent cleanup` and waits until the agent, if one ran, has ended.
    pub fn cleanup_agent(&mut self) -> Result<String> {
        let said = Cmd::new(binaries::find(AGENT)?)
            .args(["cleanup", "--state-dir"])
            .args([self.agent_dir()])
            .netns(&self.node())
            .run()
            .with_context(|| self.agent_log_tail())?;
        if let Some(agent) = self.agent() {
            if !agent.wait(Duration::from_secs(30))? {
                bail!("the agent still runs after cleanup\n{}", self.agent_log_tail());
            }
            self.forget(ROLE)?;
        }
        Ok(said)
    }

    /// Asks the agent for its status.
    pub fn status(&self) -> Result<Status> {
        let answer = self.ask_status().with_context(|| format!("no status from {}", self.agent_dir().display()))?;
        match serde_json::from_str(&answer).with_context(|| format!("not a status: {answer}"))? {
            Answer::Ok(status) => Ok(*status),
            Answer::Error(error) => bail!("the agent has no status: {error}"),
        }
    }

    /// By the agent's socket, as `redirect-agent status` does it, but without a process for every question.
    fn ask_status(&self) -> Result<String> {
        let mut stream = UnixStream::connect(self.agent_dir().join("agent.sock"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(b"{\"request\":\"status\"}\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Asks until `done`; on the deadline the error shows the last answer and the end of the log.
    pub fn wait_until(&self, deadline: Duration, what: &str, done: impl Fn(&Status) -> bool) -> Result<Status> {
        let start = Instant::now();
        loop {
            let status = match self.status() {
                Ok(status) if done(&status) => return Ok(status),
                other => other,
            };
            if start.elapsed() > deadline || !self.agent().is_some_and(Process::alive) {
                let shown = status.map_or_else(|error| format!("{error:#}"), |status| format!("{status:#?}"));
                let log = self.agent_log_tail();
                bail!("not {what} after {:.1?}\nlast status: {shown}\n{log}", start.elapsed());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Where the agent keeps its socket.
    #[must_use]
    pub fn agent_dir(&self) -> PathBuf {
        self.dir().join("agent")
    }

    /// The agent's log.
    #[must_use]
    pub fn agent_log(&self) -> PathBuf {
        self.dir().join("agent.log")
    }

    fn agent_log_tail(&self) -> String {
        let log = fs::read_to_string(self.agent_log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
        format!("agent log ({}):\n{}", self.agent_log().display(), tail.join("\n"))
    }
}
