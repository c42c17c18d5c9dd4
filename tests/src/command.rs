//! Commands that are run to their end: inside a netns, with a deadline, judged by their exit status.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::netns::Netns;
use crate::process::{describe, ended};

/// Long enough for any tool of the lab on an emulated processor.
const DEADLINE: Duration = Duration::from_mins(1);

/// A command to run.
#[derive(Debug)]
pub struct Cmd {
    command: Command,
    netns: Option<Netns>,
    stdin: Vec<u8>,
    deadline: Duration,
}

/// What a command left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, as text.
    pub stdout: String,
    /// Standard error, as text.
    pub stderr: String,
}

impl Cmd {
    /// A command without arguments, in the current netns.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { command: Command::new(program), netns: None, stdin: Vec::new(), deadline: DEADLINE }
    }

    /// A whole command line whose words hold no blanks.
    #[must_use]
    pub fn line(line: &str) -> Self {
        let mut words = line.split_whitespace();
        Self::new(words.next().unwrap_or_default()).args(words)
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs inside `netns`.
    #[must_use]
    pub fn netns(mut self, netns: &Netns) -> Self {
        self.netns = Some(netns.clone());
        self
    }

    /// Feeds `text` to the command.
    #[must_use]
    pub fn stdin(mut self, text: impl AsRef<[u8]>) -> Self {
        self.stdin = text.as_ref().to_vec();
        self
    }

    /// Kills the command when it takes longer.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Standard output of a successful run; any other exit is an error that shows what the command said.
    pub fn run(self) -> Result<String> {
        let what = describe(&self.command);
        let output = self.output()?;
        if !output.status.success() {
            bail!("{what}: {}\n{}{}", output.status, output.stdout, output.stderr.trim_end());
        }
        Ok(output.stdout)
    }

    /// Runs to the end, whatever the exit status.
    pub fn output(mut self) -> Result<Output> {
        let what = describe(&self.command);
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let child = match &self.netns {
            Some(netns) => netns.run(|| self.command.spawn())?,
            None => self.command.spawn(),
        };
        let child = child.with_context(|| format!("cannot run {what}"))?;
        finish(child, &self.stdin, self.deadline).with_context(|| what)
    }
}

fn finish(mut child: Child, stdin: &[u8], deadline: Duration) -> Result<Output> {
    let pid = Pid::from_child(&child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let (input, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        // A command that ends without reading its input shows so by its exit status.
        scope.spawn(move || input.map(|mut pipe| pipe.write_all(stdin)));
        let stdout = scope.spawn(|| read(stdout));
        let stderr = scope.spawn(|| read(stderr));
        let in_time = ended(&pidfd, deadline)?;
        if !in_time {
            // The whole group: what the command started holds its pipes open.
            kill_process_group(pid, Signal::KILL)?;
        }
        let status = child.wait()?;
        if !in_time {
            bail!("not done after {} s", deadline.as_secs());
        }
        Ok(Output { status, stdout: stdout.join().unwrap_or_default(), stderr: stderr.join().unwrap_or_default() })
    })
}

fn read(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What was read before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
