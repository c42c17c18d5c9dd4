//! Processes that outlive the command that started them: known by pid and start time, so that a reused pid is never
//! taken for ours. Commands that are waited for are in `command`.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::netns::Netns;

/// How long a process may take to end by itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// A process that the lab started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Process {
    /// What it does: `agent`, `proxy ztunnel`, `server app-a`.
    pub role: String,
    /// Its pid.
    pub pid: i32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub start_time: u64,
}

impl Process {
    /// Starts `command`, inside `netns` if there is one, detached from the terminal's signals, with stderr appended to `log`.
    pub fn start<'a>(
        role: &str,
        command: &mut Command,
        netns: impl Into<Option<&'a Netns>>,
        log: &Path,
    ) -> Result<(Self, Child)> {
        let log = File::options().append(true).create(true).open(log)?;
        command.stdin(Stdio::null()).stderr(log).process_group(0);
        let child = match netns.into() {
            Some(netns) => netns.run(|| command.spawn())?,
            None => command.spawn(),
        };
        let child = child.with_context(|| format!("cannot start {}", describe(command)))?;
        let pid = i32::try_from(child.id())?;
        let start_time = start_time(pid).with_context(|| format!("{role} ended at once"))?;
        Ok((Self { role: role.to_owned(), pid, start_time }, child))
    }

    /// Whether it is still running.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.open().is_some_and(|pidfd| !ended(&pidfd, Duration::ZERO).unwrap_or(true))
    }

    /// Sends `signal`, unless the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let Some(pidfd) = self.open() else { return Ok(()) };
        match pidfd_send_signal(&pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot signal {} (pid {})", self.role, self.pid)),
        }
    }

    /// Waits until it has ended; whether it did.
    pub fn wait(&self, deadline: Duration) -> Result<bool> {
        let Some(pidfd) = self.open() else { return Ok(true) };
        let ended = ended(&pidfd, deadline)?;
        if ended {
            // Only our own children are ours to reap; for others this fails, and init has done it.
            let _ = self.reap();
        }
        Ok(ended)
    }

    /// Waits until it has ended, and says how. Only for a process that this one has started.
    pub fn wait_status(&self, deadline: Duration) -> Result<WaitStatus> {
        if let Some(pidfd) = self.open() {
            ensure!(ended(&pidfd, deadline)?, "{} (pid {}) does not end", self.role, self.pid);
        }
        self.reap().with_context(|| format!("how {} (pid {}) has ended", self.role, self.pid))
    }

    fn reap(&self) -> nix::Result<WaitStatus> {
        waitpid(nix::unistd::Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG))
    }

    /// SIGTERM, and SIGKILL if that is not enough.
    pub fn end(&self) -> Result<()> {
        self.signal(Signal::TERM)?;
        if self.wait(GRACE)? {
            return Ok(());
        }
        self.signal(Signal::KILL)?;
        ensure!(self.wait(GRACE)?, "{} (pid {}) does not end", self.role, self.pid);
        Ok(())
    }

    fn open(&self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Compared after opening: the pidfd then belongs to the process that was compared, or to an ended one.
        (start_time(self.pid) == Some(self.start_time)).then_some(pidfd)
    }
}

/// Every process whose netns this is, with its name as its role.
pub fn inside(netns: &Netns) -> Result<Vec<Process>> {
    let inode = netns.number()?;
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let here = fs::metadata(entry.path().join("ns/net")).is_ok_and(|ns| ns.ino() == inode);
        // Processes that end meanwhile are not there.
        if here && let (Some(start_time), Ok(name)) = (start_time(pid), fs::read_to_string(entry.path().join("comm"))) {
            all.push(Process { role: name.trim().to_owned(), pid, start_time });
        }
    }
    all.sort_by_key(|process| process.pid);
    Ok(all)
}

/// Waits until the process behind `pidfd` has ended; whether it did.
pub(crate) fn ended(pidfd: impl AsFd, deadline: Duration) -> Result<bool> {
    let timeout = Timespec { tv_sec: i64::try_from(deadline.as_secs())?, tv_nsec: deadline.subsec_nanos().into() };
    loop {
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            result => return Ok(result? > 0),
        }
    }
}

fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name, in parentheses, may itself hold blanks and parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// A command as a person would type it.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
