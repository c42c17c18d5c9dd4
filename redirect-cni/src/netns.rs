//! Whether a path leads to a network namespace that may be a pod's: it is one, and neither the plugin's own nor that of the
//! node's first process. Whether it holds the addresses that it should is for the agent to look at: it enters namespaces,
//! the plugin does not.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::libc;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::protocol::NetnsId;

const OWN: &str = "/proc/thread-self/ns/net";
const FIRST: &str = "/proc/1/ns/net";

/// Why a path is not taken for a pod's network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Not a path that means the same to the agent.
    #[error("{0:?} is not an absolute path")]
    NotAbsolute(String),
    /// It cannot be looked at.
    #[error("{0}: {1}")]
    Open(String, #[source] io::Error),
    /// Something else is there.
    #[error("{0} is not a namespace")]
    NotANamespace(String),
    /// The pod would be the node.
    #[error("{0} is the node's own network namespace")]
    Hosts(String),
}

/// What the kernel calls the namespace at `path`.
pub fn check(path: &str) -> Result<NetnsId, NetnsError> {
    if !path.starts_with('/') {
        return Err(NetnsError::NotAbsolute(path.to_owned()));
    }
    let id = identify(path)?;
    let own = identify(OWN)?;
    // Where processes of others cannot be seen, the plugin's own namespace has to do.
    let first = identify(FIRST).ok();
    if id == own || Some(id) == first {
        return Err(NetnsError::Hosts(path.to_owned()));
    }
    Ok(id)
}

fn identify(path: &str) -> Result<NetnsId, NetnsError> {
    let failed = |error| NetnsError::Open(path.to_owned(), error);
    let file = open(Path::new(path)).map_err(failed)?;
    let kind = fstatfs(&file).map_err(|error| failed(error.into()))?.filesystem_type();
    if kind != NSFS_MAGIC {
        return Err(NetnsError::NotANamespace(path.to_owned()));
    }
    let metadata = file.metadata().map_err(failed)?;
    Ok(NetnsId { dev: metadata.dev(), ino: metadata.ino() })
}

/// `O_PATH`: opening a FIFO or a device by mistake must neither block nor do anything.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_is_refused_by_whatever_path() {
        for path in ["/proc/self/ns/net", "/proc/thread-self/ns/net", &format!("/proc/{}/ns/net", std::process::id())] {
            assert!(matches!(check(path), Err(NetnsError::Hosts(_))), "{path}");
        }
    }

    #[test]
    fn what_is_not_a_namespace_is_refused() {
        assert!(matches!(check("/etc/passwd"), Err(NetnsError::NotANamespace(_))));
        assert!(matches!(check("/dev/null"), Err(NetnsError::NotANamespace(_))));
        assert!(matches!(check("/run/no/such/namespace"), Err(NetnsError::Open(..))));
        assert!(matches!(check("proc/self/ns/net"), Err(NetnsError::NotAbsolute(_))));
        assert!(matches!(check(""), Err(NetnsError::NotAbsolute(_))));
    }

    #[test]
    fn a_fifo_does_not_hold_the_plugin_up() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(check(fifo.to_str().unwrap()), Err(NetnsError::NotANamespace(_))));
    }
}
