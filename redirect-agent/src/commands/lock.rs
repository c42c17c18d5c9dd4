//! One agent a node: whoever writes to the kernel holds the lock.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::kernel::file;

/// The lock; released when dropped, by the kernel too.
pub(crate) type Lock = Flock<File>;

/// Creates the state directory, for root alone.
pub(crate) fn prepare(directory: &Path) -> anyhow::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory).with_context(|| format!("create {} (are you root?)", directory.display()))
}

/// Takes the lock; `None` when another agent has it.
pub(crate) fn take(directory: &Path) -> anyhow::Result<Option<Lock>> {
    match Flock::lock(open(directory)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(held(lock, directory))),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", directory.display())),
    }
}

/// Takes the lock, waiting for another agent to end.
pub(crate) fn wait(directory: &Path) -> anyhow::Result<Lock> {
    if let Some(lock) = take(directory)? {
        return Ok(lock);
    }
    tracing::warn!(directory = %directory.display(), "another agent runs here; waiting for it to end");
    loop {
        match Flock::lock(open(directory)?, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(held(lock, directory)),
            Err((_, Errno::EINTR)) => {}
            Err((_, error)) => return Err(error).with_context(|| format!("lock {}", directory.display())),
        }
    }
}

/// The lock is ours from here on, and so is what a killed agent left half-written.
fn held(lock: Lock, directory: &Path) -> Lock {
    if let Err(error) = file::sweep(directory) {
        tracing::warn!(%error, directory = %directory.display(), "half-written files of a former agent stay");
    }
    lock
}

fn open(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("agent.lock");
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    options.open(&path).with_context(|| format!("open {}", path.display()))
}
