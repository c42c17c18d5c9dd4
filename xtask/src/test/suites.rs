//! The suites: test programs of the lab, each with the backends and topologies that it is to be run with.

use std::path::PathBuf;
use std::{fmt, fs};

use anyhow::{Context, Result, ensure};

use crate::programs::{self, PROFILE};
use crate::progress;
use crate::workspace::Workspace;

const PACKAGE: &str = "redirect-lab";

/// One run of a test program.
#[derive(Clone, Debug)]
pub(super) struct Suite {
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) setting: Setting,
}

/// What the environment tells a suite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Setting {
    backend: &'static str,
    topology: &'static str,
}

const NFT_PTP: Setting = Setting { backend: "nft", topology: "ptp" };
const NFT_BRIDGE: Setting = Setting { backend: "nft", topology: "bridge" };
const LEGACY_PTP: Setting = Setting { backend: "legacy", topology: "ptp" };
const LEGACY_BRIDGE: Setting = Setting { backend: "legacy", topology: "bridge" };

/// What a suite needs of a kernel, by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// No tunnels: it runs on any kernel.
    Anywhere,
    /// A whole node: it needs GENEVE.
    Node,
}

/// How many settings are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Breadth {
    /// The most usual one.
    One,
    /// All that make a difference.
    All,
}

impl Suite {
    /// What it needs.
    pub(super) fn kind(&self) -> Kind {
        if self.name.starts_with("node_") { Kind::Node } else { Kind::Anywhere }
    }
}

impl Setting {
    /// As environment variables.
    pub(super) fn variables(self) -> [(&'static str, &'static str); 2] {
        [("REDIRECT_BACKEND", self.backend), ("REDIRECT_TOPOLOGY", self.topology)]
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.name, self.setting.backend, self.setting.topology)
    }
}

/// Builds the test programs and lists their suites.
pub(super) fn build(workspace: &Workspace, breadth: Breadth) -> Result<Vec<Suite>> {
    progress::say("building the tests");
    let mut command = workspace.cargo();
    // By name: `--tests` would build the unit tests of the library and the programs too.
    command.args(["test", "--no-run", "--profile", PROFILE, "--package", PACKAGE, "--test", "*"]);
    let artifacts = programs::artifacts(&mut command)?;
    let mut suites = Vec::new();
    for artifact in artifacts.iter().filter(|artifact| artifact.is_integration_test) {
        for setting in settings(&artifact.name, breadth) {
            let (name, program) = (artifact.name.clone(), artifact.executable.clone());
            suites.push(Suite { name, program, setting: *setting });
        }
    }
    check_complete(workspace, &suites)?;
    suites.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(suites)
}

/// The table of connections is what differs by topology; the other suites take one topology for each backend.
fn settings(name: &str, breadth: Breadth) -> &'static [Setting] {
    match breadth {
        Breadth::All if name == "node_table" => &[NFT_PTP, NFT_BRIDGE, LEGACY_PTP, LEGACY_BRIDGE],
        Breadth::All if name.starts_with("node_") => &[NFT_BRIDGE, LEGACY_PTP],
        Breadth::All if name.starts_with("netns_") => &[NFT_PTP, LEGACY_PTP],
        Breadth::One | Breadth::All => &[NFT_PTP],
    }
}

/// A file that is no suite would be a test that nobody runs.
fn check_complete(workspace: &Workspace, suites: &[Suite]) -> Result<()> {
    let folder = workspace.root().join("tests/tests");
    for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let Some(name) = path.file_stem().filter(|_| path.extension().is_some_and(|extension| extension == "rs"))
        else {
            continue;
        };
        ensure!(suites.iter().any(|suite| name == suite.name.as_str()), "{} is not built as a test", path.display());
    }
    ensure!(!suites.is_empty(), "{} has no tests", folder.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_run_with_everything() {
        assert_eq!(settings("node_table", Breadth::All).len(), 4);
        assert_eq!(settings("node_table", Breadth::One), [NFT_PTP]);
    }

    #[test]
    fn nodes_are_run_with_both_backends_and_both_topologies() {
        let settings = settings("node_pods", Breadth::All);
        for value in ["nft", "legacy", "ptp", "bridge"] {
            assert!(settings.iter().any(|setting| [setting.backend, setting.topology].contains(&value)));
        }
    }
}
