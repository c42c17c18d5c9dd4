//! A network namespace: running code in it, and telling one from another.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use super::netlink::Netlink;

/// The identity of a namespace as `stat` shows it. The kernel may give the number to a later namespace, so it is compared only
/// while the namespace is held open, or beside something else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct NetnsId {
    device: u64,
    inode: u64,
}

impl NetnsId {
    /// Of an open namespace file.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self { device: meta.dev(), inode: meta.ino() })
    }

    /// As the CNI plugin names it.
    pub(crate) fn told(id: redirect_cni::protocol::NetnsId) -> Self {
        Self { device: id.dev, inode: id.ino }
    }

    /// Of the calling thread.
    pub(crate) fn current() -> io::Result<Self> {
        Self::of(&File::open("/proc/thread-self/ns/net")?)
    }
}

/// An open network namespace with a netlink socket in it.
pub(crate) struct Netns {
    id: NetnsId,
    /// `None` for the namespace the agent itself runs in.
    file: Option<File>,
    netlink: Netlink,
}

impl Netns {
    /// The agent's own: the node's.
    pub(crate) fn current() -> anyhow::Result<Self> {
        Ok(Self { id: NetnsId::current()?, file: None, netlink: Netlink::open()? })
    }

    /// Another one, from its file.
    pub(crate) fn open(file: File) -> anyhow::Result<Self> {
        let id = NetnsId::of(&file)?;
        let netlink = within(&file, Netlink::open)??;
        Ok(Self { id, file: Some(file), netlink })
    }

    /// Which namespace this is.
    pub(crate) fn id(&self) -> NetnsId {
        self.id
    }

    /// Its netlink socket.
    pub(crate) fn netlink(&mut self) -> &mut Netlink {
        &mut self.netlink
    }

    /// The file that keeps it, unless it is the agent's own.
    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Runs `work` with the calling thread inside the namespace. What `/proc/sys/net` shows and where processes start
    /// follows the thread.
    pub(crate) fn run<T>(&self, work: impl FnOnce() -> T) -> anyhow::Result<T> {
        match &self.file {
            Some(file) => Ok(within(file, work)?),
            None => Ok(work()),
        }
    }
}

/// Runs `work` inside the namespace of `file` and comes back, also when `work` panics.
pub(crate) fn within<T>(file: &File, work: impl FnOnce() -> T) -> io::Result<T> {
    let _guard = Guard::enter(file)?;
    Ok(work())
}

/// The calling thread is in another namespace for as long as this lives. `!Send`, as a namespace belongs to a thread.
struct Guard {
    home: File,
    not_send: PhantomData<*const ()>,
}

impl Guard {
    fn enter(file: &File) -> io::Result<Self> {
        let home = File::open("/proc/thread-self/ns/net")?;
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(Self { home, not_send: PhantomData })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = setns(self.home.as_fd(), CloneFlags::CLONE_NEWNET) {
            // Going on would write the node's rules into a pod. The datapath outlives the process.
            tracing::error!(%error, "cannot return to the node's network namespace; aborting");
            std::process::abort();
        }
    }
}
