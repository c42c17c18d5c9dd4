//! Paths of this machine, kept out of what is built for others: the same sources give the same bytes wherever they are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace::Workspace;

/// Flags for rustc. Of those that fit a path, the last counts.
pub(crate) fn flags(workspace: &Workspace) -> Result<Vec<String>> {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    Ok(vec![remap(&cargo_home()?, "/cargo"), remap(workspace.root(), "/redirect")])
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cargo"))
}
