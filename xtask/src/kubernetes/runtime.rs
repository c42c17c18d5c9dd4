//! What starts containers on a node: Debian's containerd and runc, unpacked and not installed. Installed, containerd would be
//! a running service of the machine.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::{begin, download, finish, is_of};
use crate::apt::Apt;
use crate::lock::Lock;
use crate::workspace::Workspace;
use crate::{process, progress};

/// Packages, and the programs of each that are wanted.
const PACKAGES: [(&str, &[&str]); 2] = [
    ("containerd", &["usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/bin/ctr"]),
    ("runc", &["usr/sbin/runc"]),
];
const RECIPE: &str = "recipe 1";

/// The folder of the programs, filled when it is first asked for.
pub(crate) fn get() -> Result<PathBuf> {
    let folder = Workspace::kept("kubernetes/runtime")?;
    let _lock = Lock::take(&Workspace::kept("kubernetes")?.join("runtime.lock"))?;
    if is_of(&folder, RECIPE) {
        return Ok(folder);
    }
    begin(&folder)?;
    progress::say("downloading containerd and runc");
    let apt = Apt::open(&Workspace::kept("apt/kubernetes")?, &download::SUITES)?;
    let unpacked = folder.join("unpacked");
    for (package, programs) in PACKAGES {
        begin(&unpacked)?;
        process::quiet(apt.command("apt-get").current_dir(&unpacked).args(["download", package]))?;
        let archive = download::find(&unpacked, &format!("{package}_"), ".deb")?;
        process::quiet(Command::new("dpkg").arg("-x").arg(archive).arg(&unpacked))?;
        for program in programs {
            let name = program.rsplit('/').next().unwrap_or(program);
            let there = unpacked.join(program);
            fs::rename(there, folder.join(name)).with_context(|| format!("the package {package} has no {program}"))?;
        }
    }
    fs::remove_dir_all(&unpacked).context("remove what else is in the packages")?;
    finish(&folder, RECIPE)?;
    Ok(folder)
}
