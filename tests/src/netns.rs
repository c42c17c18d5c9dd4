//! Named network namespaces, as `ip netns` makes them, and running code inside one. Code that enters a netns gets a
//! thread of its own: nothing has to be restored, not even after a panic.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

/// Where `ip netns`, container runtimes and the agent look for names.
const NAMES: &str = "/var/run/netns";

/// The name of a network namespace; it need not exist.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// The netns called `name`.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// That of the machine itself. It has no name; its file is that of the first process.
    #[must_use]
    pub fn of_first_process() -> Self {
        // An absolute path takes the place of the folder of names.
        Self::named("/proc/1/ns/net")
    }

    /// Its name, as `ip netns list` prints it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that names it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(NAMES).join(&self.name)
    }

    /// Whether the name is taken.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Its number, which no other netns has as long as it is there.
    pub fn number(&self) -> Result<u64> {
        Ok(fs::metadata(self.path()).with_context(|| format!("no netns {}", self.name))?.ino())
    }

    /// Makes it; a taken name is an error.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(NAMES).with_context(|| format!("cannot make {NAMES}"))?;
        let path = self.path();
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        let made = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        });
        made.with_context(|| format!("cannot make netns {}", self.name))
    }

    /// Removes the name; the netns itself goes when its last process ends. Not being there is not an error.
    pub fn delete(&self) -> Result<()> {
        let path = self.path();
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", path.display())),
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Runs `work` inside the netns, on a thread made for it; a panic goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        let file = File::open(&path).with_context(|| format!("no netns {}", self.name))?;
        on_thread(|| {
            setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter netns {}", self.name))?;
            Ok(work())
        })
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
