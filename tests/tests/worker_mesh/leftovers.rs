//! The node as an administrator could compare it before and after: its network, what is pinned, and its CNI files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use redirect_lab::netns::Netns;
use redirect_lab::snapshot::Snapshot;
use redirect_lab::worker::{CONF_DIR, PLUGIN_DIR};

/// What is the agent's, if it is there.
const FOLDERS: [&str; 4] = [CONF_DIR, PLUGIN_DIR, "/sys/fs/bpf", "/run/redirect"];

/// What an agent leaves in its folder, which is a mount where it is cleaned up: its lock and its sockets. They do nothing without it,
/// and end with the next boot.
const LEFT: [&str; 3] = ["/run/redirect/agent.lock", "/run/redirect/agent.sock", "/run/redirect/cni.sock"];

/// A look at it.
pub(super) struct Node {
    network: Snapshot,
    files: BTreeMap<String, String>,
}

impl Node {
    pub(super) fn look() -> Result<Self> {
        let network = Snapshot::exact(&Netns::of_first_process())?.without_processes();
        let mut files = BTreeMap::new();
        for folder in FOLDERS.map(Path::new).into_iter().filter(|folder| folder.exists()) {
            collect(folder, &mut files)?;
        }
        Ok(Self { network, files })
    }

    /// An error that names what is different.
    pub(super) fn ensure_same(&self, after: &Self) -> Result<()> {
        let different = self.network.diff(&after.network);
        ensure!(different.is_none(), "{}", different.unwrap_or_default());
        let names = |node: &Self| node.files.keys().cloned().collect::<Vec<_>>();
        ensure!(names(self) == names(after), "files: {:?} before, {:?} after", names(self), names(after));
        let changed = self.files.iter().filter(|(name, text)| after.files.get(*name) != Some(text));
        let changed: Vec<_> = changed.map(|(name, _)| name).collect();
        ensure!(changed.is_empty(), "changed files: {changed:?}");
        Ok(())
    }
}

/// Files below a folder with their text, if they are text; folders are not counted.
fn collect(folder: &Path, files: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
            continue;
        }
        if LEFT.iter().any(|left| path == Path::new(left)) {
            continue;
        }
        let is_text = path.starts_with(CONF_DIR);
        let text = if is_text { fs::read_to_string(&path).context("read a CNI file")? } else { String::new() };
        files.insert(path.display().to_string(), text);
    }
    Ok(())
}
