//! The agent as a process on the lab's node: starting, ending and asking it.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use redirect_common::maps::LAYOUT;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::binaries;
use crate::command::{Cmd, Output};
use crate::faults::FAULTS_VARIABLE;
use crate::image;
use crate::lab::Lab;
use crate::lack::Lack;
use crate::layout::{NODE_IP, NODE_NAME, bpf_dir};
use crate::mode::{Attach, Mode};
use crate::panic::PANIC_VARIABLE;
use crate::process::Process;
use crate::status::Status;

/// Name of the program, and the role its process is recorded under.
const AGENT: &str = "redirect-agent";
/// Another version of it: its maps have another layout, and its record has more in it. `cargo xtask test resilience` builds it.
const OTHER: &str = "redirect-agent-other";
pub(crate) const ROLE: &str = "agent";
/// Between two questions to the agent.
const POLL: Duration = Duration::from_millis(50);
/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to end: it ends the run that it is in, which on a busy machine loads programs for a minute.
const END: Duration = Duration::from_mins(2);
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
    /// How it marks packets; as the environment says if this does not.
    pub mode: Option<Mode>,
    /// How it attaches programs; as the environment says if this does not, and the agent's choice if neither does.
    pub tc_attach: Option<Attach>,
    /// What it has to do without.
    pub without: Option<Lack>,
    /// The unpacked image that it is run in; as it was built beside the lab if there is none.
    #[serde(default)]
    pub image_root: Option<PathBuf>,
    /// It is the other version.
    #[serde(default)]
    pub other: bool,
    /// As whom it asks the API server of which cluster; without it pods are learnt of from the lab's folder.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
}

impl AgentOptions {
    /// The same in this mode.
    #[must_use]
    pub fn in_mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// The same with another argument.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// The same of the other version.
    #[must_use]
    pub fn of_other_version(mut self) -> Self {
        self.other = true;
        self
    }

    /// With everything that the environment chooses.
    fn resolved(&self) -> Result<Self> {
        let mode = self.mode.map_or_else(Mode::from_environment, Ok)?;
        let tc_attach = self.tc_attach.map_or_else(Attach::from_environment, |attach| Ok(Some(attach)))?;
        Ok(Self { mode: Some(mode), tc_attach, ..self.clone() })
    }

    /// What to run, before its arguments.
    fn program(&self) -> Result<Vec<OsString>> {
        if let Some(root) = &self.image_root {
            ensure!(self.without.is_none(), "the agent of an image has what the image has");
            let lab = binaries::find("redirect-lab")?.into();
            return Ok(vec![
                lab,
                image::SUBCOMMAND.into(),
                "--root".into(),
                root.into(),
                "--".into(),
                image::AGENT.into(),
            ]);
        }
        let agent = binaries::find(if self.other { OTHER } else { AGENT })?.into_os_string();
        Ok(match self.without {
            Some(lack) => vec![binaries::find("redirect-lab")?.into(), lack.subcommand().into(), "--".into(), agent],
            None => vec![agent],
        })
    }
}

impl Lab {
    /// Starts the agent in the node's netns.
    pub fn start_agent(&mut self, options: &AgentOptions) -> Result<()> {
        if self.agent().is_some_and(Process::alive) {
            bail!("the agent of lab {} is already running", self.name());
        }
        self.forget(ROLE)?;
        let options = self.choose(options)?;
        let log = self.agent_log();
        let words = self.command_line(&options)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdout(fs::File::options().append(true).create(true).open(&log)?);
        command.env(PANIC_VARIABLE, self.panic_file()).env(FAULTS_VARIABLE, self.faults_file());
        let (process, _child) = Process::start(ROLE, &mut command, &self.node(), &log)?;
        self.remember(process)
    }

    /// Runs an agent that is expected to end by itself.
    pub fn run_agent(&mut self, options: &AgentOptions) -> Result<Output> {
        let options = self.choose(options)?;
        let words = self.command_line(&options)?;
        Cmd::new(&words[0]).args(&words[1..]).netns(&self.node()).output()
    }

    /// Resolves the options and writes them down, before there is anything to undo.
    fn choose(&mut self, options: &AgentOptions) -> Result<AgentOptions> {
        let options = options.resolved()?;
        self.state.bpf |= options.mode == Some(Mode::Ebpf);
        self.state.agent = Some(options.clone());
        self.save()?;
        Ok(options)
    }

    pub(crate) fn command_line(&self, options: &AgentOptions) -> Result<Vec<OsString>> {
        let mode = options.mode.context("no mode was chosen")?;
        let mut words = options.program()?;
        words.extend(["run", "--mode"].map(OsString::from));
        words.extend(
            [mode.to_string(), format!("--node-name={NODE_NAME}"), format!("--node-ip={NODE_IP}")].map(OsString::from),
        );
        match &options.kubeconfig {
            Some(file) => words.extend(["--pods=kubernetes".into(), "--kubeconfig".into(), file.into()]),
            None => words.push(format!("--pods=manifests:{}", self.manifests_dir().display()).into()),
        }
        words.extend(self.places());
        if let Some(attach) = options.tc_attach.filter(|_| mode == Mode::Ebpf) {
            words.extend(["--tc-attach".into(), attach.to_string().into()]);
        }
        words.extend(options.args.iter().map(OsString::from));
        Ok(words)
    }

    /// Where the agent keeps things. In iptables mode it has no pins, unless it is to remove those of another mode.
    fn places(&self) -> Vec<OsString> {
        let mut words = vec!["--state-dir".into(), self.agent_dir().into()];
        if self.state.bpf {
            words.extend(["--bpf-dir".into(), self.bpf_dir().into()]);
        }
        words
    }

    /// Which node of which cluster this is, for a cleanup without an agent.
    fn cluster(&self) -> Vec<OsString> {
        let file = self.state.agent.as_ref().and_then(|agent| agent.kubeconfig.as_ref());
        let words = file.map(|file| vec!["--node-name".into(), NODE_NAME.into(), "--kubeconfig".into(), file.into()]);
        words.unwrap_or_default()
    }

    /// The mode in which the agent was started last.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.state.agent.as_ref().and_then(|options| options.mode).unwrap_or(Mode::Iptables)
    }

    /// Whether the agent was last started as the version that is tested, in the mode that the environment asks for.
    pub fn agent_is_usual(&self) -> Result<bool> {
        let usual = Mode::from_environment()?;
        Ok(self.state.agent.as_ref().is_some_and(|options| options.mode == Some(usual) && !options.other))
    }

    /// Where the agent pins programs and maps.
    #[must_use]
    pub fn bpf_dir(&self) -> PathBuf {
        bpf_dir(self.name())
    }

    /// Where it pins the maps of this version's layout.
    #[must_use]
    pub fn layout_dir(&self) -> PathBuf {
        self.bpf_dir().join(format!("v{LAYOUT}"))
    }

    /// The pin of the map called `name`.
    #[must_use]
    pub fn map_pin(&self, name: &str) -> PathBuf {
        self.layout_dir().join("maps").join(name)
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
        if !agent.wait(END)? {
            bail!("the agent does not end on {signal:?}\n{}", self.agent_log_tail());
        }
        self.forget(ROLE)
    }

    /// Runs `redirect-agent cleanup` and waits until the agent, if one ran, has ended.
    pub fn cleanup_agent(&mut self) -> Result<String> {
        let said = Cmd::new(binaries::find(AGENT)?)
            .args(["cleanup"])
            .args(self.places())
            .args(self.cluster())
            .env(FAULTS_VARIABLE, self.faults_file())
            .netns(&self.node())
            .run()
            // The reason first: who shows a part of this shows that.
            .map_err(|error| anyhow!("{error:#}\n{}", self.agent_log_tail()))?;
        if let Some(agent) = self.agent() {
            if !agent.wait(Duration::from_secs(30))? {
                bail!("the agent still runs after cleanup\n{}", self.agent_log_tail());
            }
            self.forget(ROLE)?;
        }
        Ok(said)
    }

    /// Runs `redirect-agent trace`.
    pub fn trace_pod(&self, words: &[&str]) -> Result<String> {
        let trace = Cmd::new(binaries::find(AGENT)?).args(["trace"]).args(words);
        trace.args(["--state-dir".into(), self.agent_dir()]).netns(&self.node()).run()
    }

    /// What `redirect-agent check` says, and whether by its exit status nothing would break.
    pub fn check_node(&self) -> Result<(bool, String)> {
        let output = Cmd::new(binaries::find(AGENT)?).args(["check"]).netns(&self.node()).output()?;
        Ok((output.status.success(), output.stdout))
    }

    /// Whether `redirect-agent status` says by its exit status that the agent is to be left running, as a liveness probe asks it.
    pub fn agent_is_alive(&self) -> Result<bool> {
        let status = Cmd::new(binaries::find(AGENT)?).args(["status", "--state-dir"]);
        Ok(status.args([self.agent_dir()]).netns(&self.node()).output()?.status.success())
    }

    /// What `redirect-agent metrics` prints.
    pub fn metrics(&self) -> Result<String> {
        let metrics = Cmd::new(binaries::find(AGENT)?).args(["metrics", "--state-dir"]);
        metrics.args([self.agent_dir()]).netns(&self.node()).run()
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

    pub(crate) fn agent_log_tail(&self) -> String {
        let log = fs::read_to_string(self.agent_log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
        format!("agent log ({}):\n{}", self.agent_log().display(), tail.join("\n"))
    }
}
