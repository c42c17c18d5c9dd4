//! A folder for the files of one guest, or of what is beside it, removed with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::workspace::Workspace;

/// Named after the process, so that it is known whose it is.
pub(crate) struct RunFolder(PathBuf);

impl RunFolder {
    /// An empty folder. Those of processes that were killed are removed.
    pub(crate) fn new(workspace: &Workspace) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let runs = workspace.cache("vm/runs")?;
        discard_orphans(&runs)?;
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Ok(Self(workspace.cache(&format!("vm/runs/{name}"))?))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn discard_orphans(runs: &Path) -> Result<()> {
    for entry in fs::read_dir(runs).with_context(|| format!("list {}", runs.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            // Another one may be doing the same.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}
