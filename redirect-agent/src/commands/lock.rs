//! One agent a node: whoever writes to the kernel holds the lock.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::kernel::file;
use crate::serve::{Request, SOCKET};

/// An agent that has just begun does not listen yet.
const AGAIN: Duration = Duration::from_secs(1);

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
    let _waiting = Waiting::announce(directory)?;
    loop {
        match Flock::lock(open(directory)?, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(held(lock, directory)),
            Err((_, Errno::EINTR)) => {}
            Err((_, error)) => return Err(error).with_context(|| format!("lock {}", directory.display())),
        }
    }
}

/// Tells the agent that has the lock of this one, as long as the value is there.
struct Waiting(Arc<AtomicBool>, JoinHandle<()>);

impl Waiting {
    fn announce(directory: &Path) -> anyhow::Result<Self> {
        let (over, socket) = (Arc::new(AtomicBool::new(false)), directory.join(SOCKET));
        let told = Arc::clone(&over);
        let body = move || {
            while !told.load(Ordering::Relaxed) && !tell(&socket) {
                thread::park_timeout(AGAIN);
            }
        };
        let thread = thread::Builder::new().name("waiting".into()).spawn(body).context("start a thread")?;
        Ok(Self(over, thread))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.thread().unpark();
    }
}

/// Tells it, and waits for its end. `true` if it has answered instead: an older one does not know of this.
fn tell(socket: &Path) -> bool {
    let wait = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(&[serde_json::to_vec(&Request::Wait)?, b"\n".to_vec()].concat())?;
        stream.read(&mut [0])
    };
    // It may not listen yet, or no more.
    wait().is_ok_and(|answer| answer > 0)
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
