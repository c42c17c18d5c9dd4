//! Where the programs under test are: beside the running one in cargo's target directory, else on PATH (in a VM).

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// The program `name`.
pub fn find(name: &str) -> Result<PathBuf> {
    let me = env::current_exe().context("cannot tell my own path")?;
    // A test binary is in `target/debug/deps`, an ordinary one in `target/debug`.
    let beside = me.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join(name));
    beside
        .chain(on_path)
        .find(|file| file.is_file())
        .with_context(|| format!("no program {name} beside {} or on PATH", me.display()))
}
