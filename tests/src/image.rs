//! The agent as a container runs it: the program and the user land of an unpacked image, and of the node only the file systems
//! that the agent's pod mounts.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, chroot};

use crate::process::Process;

/// The agent in the image.
pub const AGENT: &str = "/usr/local/bin/redirect-agent";
/// The subcommand of `redirect-lab` that runs a program in an image.
pub const SUBCOMMAND: &str = "in-image";
/// What comes from the node. Below `/run` are the lab's folder, network namespaces, and the lock of legacy iptables.
const MOUNTED: [&str; 4] = ["dev", "proc", "run", "sys"];
/// As in the image's configuration.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes `command` with `root` as its root. Only an error comes back.
pub fn exec(root: &Path, command: &[OsString]) -> Result<Infallible> {
    let (program, args) = command.split_first().context("no command")?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // The namespaces of pods that come later are mounts, too, and are seen here; nothing of ours is seen there.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    for folder in MOUNTED {
        let (from, to) = (Path::new("/").join(folder), root.join(folder));
        mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
            .with_context(|| format!("mount {} in the image", from.display()))?;
    }
    chroot(root).with_context(|| format!("change the root to {}", root.display()))?;
    chdir("/")?;
    let error = Command::new(program).args(args).env("PATH", PATH).exec();
    Err(error).with_context(|| format!("cannot run {} in the image", program.display()))
}

/// An error if the process is not the image's agent in the image's root.
pub fn is_of(process: &Process, root: &Path) -> Result<()> {
    let of =
        |link: &str| fs::read_link(format!("/proc/{}/{link}", process.pid)).with_context(|| format!("read {link}"));
    ensure!(of("root")? == root, "the agent's root is {}", of("root")?.display());
    let wanted = root.join(AGENT.trim_start_matches('/'));
    ensure!(of("exe")? == wanted, "the agent is {}", of("exe")?.display());
    Ok(())
}
