//! One agent a node: whoever writes to the kernel holds the lock.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

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
        Ok(lock) => Ok(Some(lock)),
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
            Ok(lock) => return Ok(lock),
            Err((_, Errno::EINTR)) => {}
            Err((_, error)) => return Err(error).with_context(|| format!("lock {}", directory.display())),
        }
    }
}

fn open(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("agent.lock");
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    options.open(&path).with_context(|| format!("open {}", path.display()))
}
