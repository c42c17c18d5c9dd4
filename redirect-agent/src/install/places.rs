//! Where the plugin was put. Written down before it is, so that a cleanup that is told nothing finds it; kept beside the
//! agent's record, and lost with a boot like that, after which the command line says where to look.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::kernel::file;

const FILE: &str = "cni-plugin.json";

/// The runtime's two folders.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Places {
    /// Of plugins' programs.
    pub(crate) bin: PathBuf,
    /// Of networks' configurations.
    pub(crate) conf: PathBuf,
}

/// All that are written down in `directory`.
pub(super) fn known(directory: &Path) -> anyhow::Result<Vec<Places>> {
    let path = directory.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Writes these down, too.
pub(super) fn note(directory: &Path, places: &Places) -> anyhow::Result<()> {
    let mut all = known(directory)?;
    if all.contains(places) {
        return Ok(());
    }
    all.push(places.clone());
    file::replace(&directory.join(FILE), &serde_json::to_vec_pretty(&all)?).context("note where the plugin is")
}

/// Nothing of ours is anywhere.
pub(super) fn forget(directory: &Path) -> anyhow::Result<()> {
    file::remove(&directory.join(FILE)).context("forget where the plugin was")
}
