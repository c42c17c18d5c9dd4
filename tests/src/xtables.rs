//! The lock that the tools of legacy iptables share, in whichever network namespace they are.

use std::fs::{self, File};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::backend::Backend;
use crate::demo::ZTUNNEL;
use crate::lab::Lab;
use crate::process::{self, Process};

const LOCK: &str = "/run/xtables.lock";

/// The lock, held by somebody else than the agent until the value goes.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes it.
    pub fn take() -> Result<Self> {
        let file = File::create(LOCK).context(LOCK)?;
        let locked = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).context(LOCK)?;
        Ok(Self { _file: locked })
    }
}

/// The tools that write rules, on the node and in ztunnel's namespace. While the lock is held they wait for it.
pub fn writers(lab: &Lab) -> Result<Vec<Process>> {
    let mut all = process::inside(&lab.node())?;
    all.extend(process::inside(&lab.pod_netns(ZTUNNEL))?);
    all.retain(writes);
    Ok(all)
}

/// A name is cut short by the kernel, and its command line is not. One that has ended does not write any more.
fn writes(process: &Process) -> bool {
    let words = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
    let program = words.split(|byte| *byte == 0).next().unwrap_or_default();
    program.ends_with(Backend::Legacy.restore().as_bytes())
}
