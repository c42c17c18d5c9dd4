//! A unix socket in the state directory, for root alone, that is there as long as the agent is. Without it no pod starts, and whoever removed
//! it, or the directory, hears nothing of that.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::kernel::file::FileId;
use crate::lock::Lock;

/// Between two looks at the file.
const LOOK: Duration = Duration::from_secs(1);
/// Out of descriptors, most likely: others end first.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// What is listened on.
pub(crate) struct Listener {
    path: PathBuf,
    lock: Arc<Lock>,
    socket: UnixListener,
    file: FileId,
    looks: Interval,
}

impl Listener {
    /// Listens on `name` in the directory of `lock`: because that is held, a socket that is there belongs to an agent that has ended.
    pub(crate) fn bind(lock: &Arc<Lock>, name: &str) -> anyhow::Result<Self> {
        let path = lock.directory().join(name);
        let (socket, file) = bind(&path).with_context(|| format!("listen on {}", path.display()))?;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { path, lock: Arc::clone(lock), socket, file, looks })
    }

    /// The next client.
    pub(crate) async fn accept(&mut self) -> UnixStream {
        loop {
            tokio::select! {
                client = self.socket.accept() => match client {
                    Ok((stream, _)) => return stream,
                    Err(_) => sleep(EXHAUSTED).await,
                },
                _ = self.looks.tick() => self.look(),
            }
        }
    }

    /// Has the file be there. Not where the lock is gone too: then another agent may have it, and its sockets.
    fn look(&mut self) {
        if FileId::at(&self.path).is_some_and(|there| there == self.file) || !self.lock.stands() {
            return;
        }
        match bind(&self.path) {
            Ok((socket, file)) => {
                tracing::warn!(socket = %self.path.display(), "listening anew; somebody had removed the socket");
                (self.socket, self.file) = (socket, file);
            }
            Err(error) => tracing::warn!(%error, socket = %self.path.display(), "the socket is gone"),
        }
    }
}

fn bind(path: &Path) -> io::Result<(UnixListener, FileId)> {
    drop(fs::remove_file(path));
    let socket = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let file = FileId::at(path).ok_or(io::ErrorKind::NotFound)?;
    Ok((socket, file))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::time::timeout;

    use super::*;

    const NAME: &str = "a.sock";
    const DEADLINE: Duration = Duration::from_secs(20);

    async fn is_heard(path: &Path) {
        let connected = async {
            loop {
                match UnixStream::connect(path).await {
                    Ok(mut stream) => return stream.read(&mut [0]).await,
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        assert_eq!(timeout(DEADLINE, connected).await.expect("nobody listens").unwrap(), 0);
    }

    #[tokio::test]
    async fn a_socket_that_was_removed_comes_back_also_with_its_directory() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("state");
        crate::lock::prepare(&directory).unwrap();
        let lock = Arc::new(crate::lock::take(&directory).unwrap().unwrap());
        let mut listener = Listener::bind(&lock, NAME).unwrap();
        let path = directory.join(NAME);
        let accepts = tokio::spawn(async move {
            loop {
                drop(listener.accept().await);
            }
        });
        is_heard(&path).await;
        fs::remove_file(&path).unwrap();
        is_heard(&path).await;
        fs::remove_dir_all(&directory).unwrap();
        assert!(lock.renew().unwrap());
        is_heard(&path).await;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        accepts.abort();
    }
}
