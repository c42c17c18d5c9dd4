//! The CNI plugin on the node: its program among the runtime's others, and its entry in the primary list. Put in once the
//! agent answers on the plugin's socket, kept there while others write, taken out by `cleanup` and by nothing else: a node
//! without an agent must not start meshed pods that nobody redirects.
//!
//! * [`program`]: the file in the CNI bin directory, and whether it is ours.
//! * [`pass`]: one look at program and list, and what it wrote.
//! * [`keeper`]: when to look: events, a timer, and a pause for who writes against us.
//! * [`places`]: where it was put, for a cleanup that is told nothing.
//!
//! The entry itself, and the folder of lists, are [`redirect_cni::conflist`]'s.

mod keeper;
mod pass;
mod places;
mod program;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use redirect_cni::conflist::Entry;
use serde::{Deserialize, Serialize};

use crate::cni::SOCKET;
use crate::resources::ledger::Problem;

pub(crate) use keeper::keep;
pub(crate) use pass::Removed;
pub(crate) use places::Places;

/// Bytes of a unix socket's path, without its end (`sun_path`).
const SOCKET_PATH: usize = 107;
/// Under which name `status` has problems with it.
pub(crate) const OBJECT: &str = "cni plugin";

/// How far the plugin is.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// The agent does not answer the plugin yet.
    #[default]
    Waiting,
    /// It could not be put in, see problems.
    Pending,
    /// It stands, as read back.
    Installed,
}

/// The plugin, for `status`.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct PluginStatus {
    pub(crate) state: State,
    /// The program on the node.
    pub(crate) program: PathBuf,
    /// The list that has the entry.
    pub(crate) list: Option<PathBuf>,
    /// How often it was put back after another had changed it.
    pub(crate) repairs: u64,
}

/// What is to be put in.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Wanted {
    /// The program, as the agent's image has it.
    source: PathBuf,
    entry: Entry,
}

/// What passes have found. Held for a moment only: whoever asks for the status must not wait for a file system.
#[derive(Default, Debug)]
struct Progress {
    status: PluginStatus,
    problem: Option<String>,
    /// It has been whole once; what has to be written from then on, another has undone.
    stood: bool,
    /// Repairs, each not long after the one before, and when the last was.
    fights: u32,
    repaired: Option<Instant>,
    /// It was taken out, and stays so.
    over: bool,
    /// Since when files are looked at and written.
    busy: Option<Instant>,
}

/// The plugin, as an operator wants it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Plugin {
    /// The program, as the agent's image has it.
    pub(crate) source: PathBuf,
    /// Namespaces whose pods start whatever the agent says.
    pub(crate) exclude_namespaces: Vec<String>,
}

/// The plugin's place on this node.
#[derive(Debug)]
pub(crate) struct Install {
    state_dir: PathBuf,
    places: Places,
    wanted: Option<Wanted>,
    progress: Mutex<Progress>,
    /// Held by whoever writes to the node's files.
    writing: Mutex<()>,
}

impl Install {
    /// Keeps `plugin` in these places, or nothing; nothing is written yet.
    pub(crate) fn new(
        plugin: Option<Plugin>,
        places: Places,
        state_dir: &Path,
        proxy_namespace: &str,
    ) -> anyhow::Result<Self> {
        let mut install = Self::to_remove(places, state_dir);
        let Some(Plugin { source, mut exclude_namespaces }) = plugin else { return Ok(install) };
        let socket = std::path::absolute(state_dir.join(SOCKET)).context("make the socket's path absolute")?;
        ensure!(socket.as_os_str().len() <= SOCKET_PATH, "{} is too long for a socket's path", socket.display());
        // ztunnel cannot wait for an agent that waits for ztunnel.
        exclude_namespaces.push(proxy_namespace.to_owned());
        exclude_namespaces.retain(|name| !name.is_empty());
        exclude_namespaces.sort();
        exclude_namespaces.dedup();
        install.wanted = Some(Wanted { source, entry: Entry { socket, exclude_namespaces, ..Entry::default() } });
        Ok(install)
    }

    /// For a cleanup only.
    pub(crate) fn to_remove(places: Places, state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            places,
            wanted: None,
            progress: Mutex::default(),
            writing: Mutex::default(),
        }
    }

    /// The plugin's status, if it is to be installed, and what is wrong with it.
    pub(crate) fn status(&self) -> (Option<PluginStatus>, Option<Problem>) {
        let progress = self.lock();
        let problem = progress.hangs(Instant::now()).or_else(|| progress.problem.clone());
        let problem = problem.map(|message| Problem::new(OBJECT, message));
        (self.wanted.is_some().then(|| progress.status.clone()), problem)
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the value goes, nobody else writes.
    fn write(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
