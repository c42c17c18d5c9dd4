//! Which QEMU emulates guests. The machine's own if it is new enough; else the one of Debian's backports, unpacked and not installed.
//!
//! Debian 12 has 7.2, with which the suite `node_table` took 1.6 times as long.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::{Apt, Suites};
use crate::lock::Lock;
use crate::workspace::Workspace;
use crate::{process, progress};

const PROGRAM: &str = "qemu-system-x86_64";
/// The first that was measured to be quick.
const QUICK: u32 = 10;
const SUITES: Suites = Suites { ordinary: &["bookworm-backports"], security: &[], kinds: &["deb"] };
/// The emulator, and the firmware that it starts kernels with. The libraries are those that the machine has for its own.
const PACKAGES: [&str; 3] = ["qemu-system-data", "qemu-system-x86", "seabios"];
/// Folders of firmware in them.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];
/// Changes when other packages are to be had.
const FOLDER: &str = "qemu/backports";

/// One that starts.
#[derive(Clone, Debug)]
pub(super) struct Emulator {
    program: PathBuf,
    firmware: Vec<PathBuf>,
}

impl Emulator {
    /// The quickest that there is.
    pub(super) fn get() -> Result<Self> {
        let own = Self { program: process::find(PROGRAM)?, firmware: Vec::new() };
        if own.version()? >= QUICK {
            return Ok(own);
        }
        let newer = unpacked()?;
        let newer = Self {
            program: newer.join("usr/bin").join(PROGRAM),
            firmware: FIRMWARE.iter().map(|folder| newer.join(folder)).collect(),
        };
        match newer.version() {
            Ok(_) => Ok(newer),
            // It may lack a library, on a machine that is not a Debian 12.
            Err(error) => {
                progress::say(format!("guests are emulated by the machine's own QEMU, which is slower: {error:#}"));
                Ok(own)
            }
        }
    }

    /// Its words at the beginning of a command line.
    pub(super) fn words(&self) -> Vec<String> {
        let firmware = self.firmware.iter().flat_map(|folder| ["-L".to_owned(), folder.display().to_string()]);
        std::iter::once(self.program.display().to_string()).chain(firmware).collect()
    }

    fn version(&self) -> Result<u32> {
        let text = process::output(Command::new(&self.program).arg("--version"))?;
        major(&text).with_context(|| format!("{} does not say its version: {text}", self.program.display()))
    }
}

/// Of `QEMU emulator version 10.0.2 (Debian …)`.
fn major(text: &str) -> Option<u32> {
    text.split_once("version ")?.1.split('.').next()?.parse().ok()
}

fn unpacked() -> Result<PathBuf> {
    let folder = Workspace::kept(FOLDER)?;
    let _lock = Lock::take(&folder.join("lock"))?;
    let complete = folder.join("root");
    if !complete.exists() {
        let unfinished = folder.join("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).context("remove what an interrupted run left")?;
        }
        fs::create_dir(&unfinished).context("make a folder")?;
        download(&unfinished)?;
        fs::rename(&unfinished, &complete).context("keep QEMU")?;
    }
    Ok(complete)
}

fn download(root: &Path) -> Result<()> {
    progress::say("downloading QEMU of Debian's backports");
    let apt = Apt::open(&Workspace::kept("apt/qemu")?, &SUITES)?;
    process::quiet(apt.command("apt-get").current_dir(root).arg("download").args(PACKAGES))?;
    for entry in fs::read_dir(root).with_context(|| format!("list {}", root.display()))? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            process::quiet(Command::new("dpkg").arg("-x").arg(&package).arg(root))?;
            fs::remove_file(&package).with_context(|| format!("remove {}", package.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022\n";
        assert_eq!(major(debian), Some(7));
        assert_eq!(major("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"), Some(10));
        assert_eq!(major("command not found"), None);
    }
}
