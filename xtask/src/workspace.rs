//! Where things are: the workspace's root, its target directory, under which all is that was made of it, and the user's cache,
//! where what comes from elsewhere is kept for every checkout.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process;

/// The workspace that `cargo xtask` was called in.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Workspace {
    #[serde(rename = "workspace_root")]
    root: PathBuf,
    #[serde(rename = "target_directory")]
    target: PathBuf,
}

impl Workspace {
    /// Asks cargo, so that `CARGO_TARGET_DIR` and cargo's configuration count as they do for cargo itself.
    pub(crate) fn find() -> Result<Self> {
        let metadata = process::output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        serde_json::from_str(&metadata).context("read the output of `cargo metadata`")
    }

    /// The folder that holds the workspace's `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A folder for what is made of this checkout, made when it is not there.
    pub(crate) fn cache(&self, name: &str) -> Result<PathBuf> {
        make(self.target.join(name))
    }

    /// A folder for what comes from elsewhere and takes minutes to get, made when it is not there. All checkouts of a user share
    /// it, so whatever is in it bears its version, and is complete when it can be seen.
    pub(crate) fn kept(name: &str) -> Result<PathBuf> {
        let variable = |name: &str| std::env::var_os(name);
        make(kept_in(&variable)?.join(name))
    }

    /// A cargo that works on this workspace.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root);
        command
    }
}

fn make(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    Ok(path)
}

/// As the XDG Base Directory Specification has it: a relative `XDG_CACHE_HOME` does not count.
fn kept_in(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let given = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let usual = || variable("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = given.or_else(usual).context("neither XDG_CACHE_HOME nor HOME says where to keep downloads")?;
    Ok(cache.join("redirect"))
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downloads_are_kept_in_the_users_cache() {
        fn among(variables: &[(&str, &str)]) -> Result<PathBuf> {
            kept_in(&|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value)))
        }
        let home = ("HOME", "/home/a");
        assert_eq!(among(&[home]).unwrap(), Path::new("/home/a/.cache/redirect"));
        assert_eq!(among(&[("XDG_CACHE_HOME", "/c"), home]).unwrap(), Path::new("/c/redirect"));
        assert_eq!(among(&[("XDG_CACHE_HOME", "here"), home]).unwrap(), Path::new("/home/a/.cache/redirect"));
        assert!(among(&[]).is_err());
    }
}
