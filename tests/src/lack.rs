//! Programs run without something that a node usually has: without bpf(2), or without the file system where its objects are
//! pinned. Each takes effect on the calling process and on what it becomes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;
use nix::libc::{EPERM, SYS_bpf};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use serde::{Deserialize, Serialize};

use crate::layout::BPFFS;

/// What is not to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Lack {
    /// bpf(2): it fails with EPERM, as without the capability, and as under a container runtime's filter.
    Bpf,
    /// What is mounted at `/sys/fs/bpf`.
    Bpffs,
}

impl Lack {
    /// The subcommand of `redirect-lab` that runs a program so.
    #[must_use]
    pub const fn subcommand(self) -> &'static str {
        match self {
            Self::Bpf => "without-bpf",
            Self::Bpffs => "without-bpffs",
        }
    }

    /// Becomes `command`. Only an error comes back.
    pub fn exec(self, command: &[OsString]) -> Result<Infallible> {
        let (program, args) = command.split_first().context("no command")?;
        match self {
            Self::Bpf => forbid_bpf().context("cannot forbid bpf(2)")?,
            Self::Bpffs => hide_bpffs().with_context(|| format!("cannot unmount {BPFFS}"))?,
        }
        let error = Command::new(program).args(args).exec();
        Err(error).with_context(|| format!("cannot run {}", program.display()))
    }
}

/// The filter is inherited by children and cannot be taken off.
fn forbid_bpf() -> Result<()> {
    let errno = u32::try_from(EPERM)?;
    let rules = BTreeMap::from([(SYS_bpf, Vec::new())]);
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch)?;
    apply_filter(&BpfProgram::try_from(filter)?).map_err(anyhow::Error::from)
}

/// In a mount namespace of its own, into which new mounts (the netns of new pods) still come.
fn hide_bpffs() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    match umount2(BPFFS, MntFlags::MNT_DETACH) {
        // Nothing is mounted there.
        Err(nix::Error::EINVAL) => Ok(()),
        other => Ok(other?),
    }
}
