//! The lab's own long-running programs, all of them `redirect-lab` itself: started, awaited, found again by role.

use std::io::Read;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::binaries;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::Process;

/// How long a program may take until it listens.
const READY: Duration = Duration::from_secs(30);
/// What a program prints once it listens.
pub(crate) const READY_LINE: &str = "ready\n";

/// Starts an echo server that calls itself `name`.
pub(crate) fn serve(lab: &mut Lab, name: &str, netns: &Netns, port: u16) -> Result<()> {
    let args = ["serve", "--name", name, "--listen", &format!("0.0.0.0:{port}")];
    start(lab, &server_role(name), netns, &args)
}

/// Starts the transparent proxy of pod `name`.
pub(crate) fn proxy(lab: &mut Lab, name: &str, netns: &Netns, log: &Path) -> Result<()> {
    let log = log.to_str().context("the lab's folder is not UTF-8")?;
    start(lab, &proxy_role(name), netns, &["proxy", "--log", log])
}

/// The role of pod `name`'s echo server.
pub(crate) fn server_role(name: &str) -> String {
    format!("server {name}")
}

/// The role of pod `name`'s transparent proxy.
pub(crate) fn proxy_role(name: &str) -> String {
    format!("proxy {name}")
}

fn start(lab: &mut Lab, role: &str, netns: &Netns, args: &[&str]) -> Result<()> {
    let log = lab.dir().join("daemons.log");
    let mut command = Command::new(binaries::find("redirect-lab")?);
    command.args(args).stdout(Stdio::piped());
    let (process, mut child) = Process::start(role, &mut command, netns, &log)?;
    // Recorded before it is ready: a program whose starter is gone cannot say that it is ready, and ends.
    lab.remember(process)?;
    let stdout = child.stdout.take().context("no pipe")?;
    await_ready(stdout).with_context(|| format!("{role} does not start, see {}", log.display()))
}

fn await_ready(mut stdout: ChildStdout) -> Result<()> {
    let timeout = Timespec { tv_sec: i64::try_from(READY.as_secs())?, tv_nsec: 0 };
    if poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&timeout))? == 0 {
        bail!("not ready after {} s", READY.as_secs());
    }
    let mut line = [0; READY_LINE.len()];
    stdout.read_exact(&mut line).context("it ended")?;
    Ok(())
}
