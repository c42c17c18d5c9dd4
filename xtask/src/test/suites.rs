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
const EVERY: [Setting; 4] = [NFT_PTP, LEGACY_BRIDGE, NFT_BRIDGE, LEGACY_PTP];

/// A test program, before it is known how often it is run.
#[derive(Clone, Debug)]
pub(super) struct Program {
    name: String,
    path: PathBuf,
}

/// How widely a program is to be run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Breadth {
    /// As on most nodes.
    Usual,
    /// As the kernel of the matrix at this place. Every kernel makes all connections in all settings; what costs minutes is
    /// done in one setting each, and in all of them over the matrix.
    Matrix(usize),
}

impl Program {
    /// Whether it needs a whole node, and so a kernel with GENEVE.
    pub(super) fn needs_node(&self) -> bool {
        self.name.starts_with("node_")
    }

    /// Whether its name contains the text.
    pub(super) fn is_like(&self, text: &str) -> bool {
        self.name.contains(text)
    }

    fn settings(&self, breadth: Breadth) -> Vec<Setting> {
        match breadth {
            _ if self.name.starts_with("netns_") => vec![NFT_PTP, LEGACY_PTP],
            Breadth::Matrix(_) if self.name == "node_table" => EVERY.to_vec(),
            Breadth::Matrix(place) if self.needs_node() => vec![EVERY[place % EVERY.len()]],
            Breadth::Usual | Breadth::Matrix(_) => vec![NFT_PTP],
        }
    }
}

/// The suites of some programs.
pub(super) fn suites<'a>(programs: impl IntoIterator<Item = &'a Program>, breadth: Breadth) -> Vec<Suite> {
    let suites = programs.into_iter().flat_map(|program| {
        let (name, path) = (&program.name, &program.path);
        let settings = program.settings(breadth).into_iter();
        settings.map(move |setting| Suite { name: name.clone(), program: path.clone(), setting })
    });
    suites.collect()
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

/// Builds the test programs.
pub(super) fn build(workspace: &Workspace) -> Result<Vec<Program>> {
    progress::say("building the tests");
    let mut command = workspace.cargo();
    // By name: `--tests` would build the unit tests of the library and the programs too.
    command.args(["test", "--no-run", "--profile", PROFILE, "--package", PACKAGE, "--test", "*"]);
    let artifacts = programs::artifacts(&mut command)?.into_iter().filter(|artifact| artifact.is_integration_test);
    let mut programs: Vec<Program> =
        artifacts.map(|artifact| Program { name: artifact.name, path: artifact.executable }).collect();
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    check_complete(workspace, &programs)?;
    Ok(programs)
}

/// A file that is no program would be a test that nobody runs.
fn check_complete(workspace: &Workspace, programs: &[Program]) -> Result<()> {
    let folder = workspace.root().join("tests/tests");
    for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let Some(name) = path.file_stem().filter(|_| path.extension().is_some_and(|extension| extension == "rs"))
        else {
            continue;
        };
        ensure!(
            programs.iter().any(|program| name == program.name.as_str()),
            "{} is not built as a test",
            path.display()
        );
    }
    ensure!(!programs.is_empty(), "{} has no tests", folder.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(name: &str, breadth: Breadth) -> Vec<Setting> {
        Program { name: name.to_owned(), path: PathBuf::new() }.settings(breadth)
    }

    #[test]
    fn every_kernel_makes_the_table_in_every_setting() {
        for place in 0..4 {
            assert_eq!(settings("node_table", Breadth::Matrix(place)).len(), 4);
        }
        assert_eq!(settings("node_table", Breadth::Usual), [NFT_PTP]);
    }

    #[test]
    fn the_matrix_covers_every_setting() {
        let covered: Vec<Setting> = (0..4).flat_map(|place| settings("node_pods", Breadth::Matrix(place))).collect();
        assert!(EVERY.iter().all(|setting| covered.contains(setting)), "{covered:?}");
    }

    #[test]
    fn rules_are_checked_with_both_backends() {
        assert_eq!(settings("netns_corpus", Breadth::Usual), [NFT_PTP, LEGACY_PTP]);
    }
}
