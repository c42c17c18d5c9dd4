//! One agent a node: whoever writes to the kernel holds the lock.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::time::{MissedTickBehavior, interval};

use crate::kernel::file::{self, FileId};
use crate::serve::{Request, SOCKET};

/// In the state directory.
pub(crate) const FILE: &str = "agent.lock";
/// An agent that has just begun does not listen yet.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two looks at the file.
const LOOK: Duration = Duration::from_secs(1);

/// The lock; released when dropped, by the kernel too. It is the file's, and who comes next finds that by its name: so the name is looked after.
#[derive(Debug)]
pub(crate) struct Lock {
    directory: PathBuf,
    file: Mutex<Flock<File>>,
}

impl Lock {
    /// The state directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether who comes next finds the file that is locked.
    pub(crate) fn stands(&self) -> bool {
        let held = FileId::of(&self.file.lock().unwrap_or_else(PoisonError::into_inner));
        held.is_ok_and(|held| FileId::at(&self.directory.join(FILE)) == Some(held))
    }

    /// Locks the file that has its name now, if that is another. Whether it is held: another agent may have been faster.
    ///
    /// # Errors
    /// There is no file to be had.
    pub(crate) fn renew(&self) -> anyhow::Result<bool> {
        if self.stands() {
            return Ok(true);
        }
        let path = self.directory.join(FILE);
        prepare(&self.directory)?;
        match Flock::lock(open(&self.directory)?, FlockArg::LockExclusiveNonblock) {
            Ok(file) => *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file,
            // A look that failed is no loss: then it is we who have it.
            Err((_, Errno::EWOULDBLOCK)) => return Ok(self.stands()),
            Err((_, error)) => return Err(error).with_context(|| format!("lock {}", path.display())),
        }
        tracing::warn!(file = %path.display(), "locked anew; somebody had removed the file");
        Ok(true)
    }

    /// Renews it whenever that is needed. Ends when another agent has it: two must not write.
    pub(crate) async fn lost(&self) -> anyhow::Error {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = false;
        loop {
            looks.tick().await;
            match self.renew() {
                Ok(true) => told = false,
                Ok(false) => {
                    return anyhow!(
                        "{} was removed, and another agent has it now",
                        self.directory.join(FILE).display()
                    );
                }
                Err(error) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!(error = format!("{error:#}"), "the lock's file is gone; trying again");
                }
                Err(_) => {}
            }
        }
    }
}

/// Creates the state directory, for root alone.
pub(crate) fn prepare(directory: &Path) -> anyhow::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory).with_context(|| format!("create {} (are you root?)", directory.display()))
}

/// Takes the lock; `None` when another agent has it.
pub(crate) fn take(directory: &Path) -> anyhow::Result<Option<Lock>> {
    lock(directory, FlockArg::LockExclusiveNonblock)
}

/// Takes the lock, waiting for another agent to end.
pub(crate) fn wait(directory: &Path) -> anyhow::Result<Lock> {
    if let Some(lock) = take(directory)? {
        return Ok(lock);
    }
    tracing::warn!(directory = %directory.display(), "another agent runs here; waiting for it to end");
    let _waiting = Waiting::announce(directory)?;
    loop {
        if let Some(lock) = lock(directory, FlockArg::LockExclusive)? {
            return Ok(lock);
        }
    }
}

/// `None` when another has it, or when what was locked has lost its name meanwhile: then it keeps nobody away.
fn lock(directory: &Path, how: FlockArg) -> anyhow::Result<Option<Lock>> {
    match Flock::lock(open(directory)?, how) {
        Ok(file) => {
            let lock = Lock { directory: directory.to_owned(), file: Mutex::new(file) };
            Ok(lock.stands().then(|| held(lock)))
        }
        Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", directory.display())),
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
fn held(lock: Lock) -> Lock {
    let directory = lock.directory();
    if let Err(error) = file::sweep(directory) {
        tracing::warn!(%error, directory = %directory.display(), "half-written files of a former agent stay");
    }
    lock
}

fn open(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join(FILE);
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    options.open(&path).with_context(|| format!("open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_whose_file_was_removed_is_renewed_or_lost() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        let first = take(directory).unwrap().unwrap();
        assert!(first.stands() && take(directory).unwrap().is_none());
        fs::remove_file(directory.join(FILE)).unwrap();
        assert!(!first.stands());
        assert!(first.renew().unwrap());
        assert!(first.stands() && take(directory).unwrap().is_none(), "nobody else can have it");
        fs::remove_file(directory.join(FILE)).unwrap();
        let _second = take(directory).unwrap().unwrap();
        assert!(!first.renew().unwrap());
    }
}
