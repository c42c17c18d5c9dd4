//! Programs of crates.io that we need and no Debian package has. Each is built once, and kept for every checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace::{Workspace, cargo};
use crate::{process, progress};

/// One of them, and how it is built.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// Of `cargo install`, beside the version.
    pub(crate) options: &'static [&'static str],
    pub(crate) variables: &'static [(&'static str, &'static str)],
}

impl Tool {
    /// Where it is, built if it was not there.
    pub(crate) fn get(&self, workspace: &Workspace) -> Result<PathBuf> {
        let root = Workspace::kept("tools")?.join(self.folder());
        let program = root.join("bin").join(self.name);
        if !program.exists() {
            progress::say(format!("building {} {} (some minutes)", self.name, self.version));
            self.build(workspace, &root).with_context(|| format!("build {}", self.name))?;
        }
        Ok(program)
    }

    /// Another version, or one that is built in another way, is another program.
    fn folder(&self) -> String {
        [&[self.name, self.version], self.options].concat().join("-").replace("--", "")
    }

    fn build(&self, workspace: &Workspace, root: &Path) -> Result<()> {
        let mut command = cargo();
        command.args(["install", self.name, "--locked", "--version", self.version]).args(self.options);
        command.arg("--root").arg(root).arg("--target-dir").arg(workspace.cache("tools")?);
        // cargo puts the program in its place by renaming it.
        process::run(command.envs(self.variables.iter().copied()))
    }
}
