//! Builds the workspace's own programs, once for the host and the guests: they run the same files.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::workspace::Workspace;
use crate::{ebpf, progress};

/// Quick to build, and not slow in an emulated machine. See `[profile.lab]` in the workspace's `Cargo.toml`.
pub(crate) const PROFILE: &str = "lab";
const INIT: &str = "redirect-init";
const AGENT: &str = "redirect-agent";
const TOOLS: [&str; 3] = [AGENT, "redirect-cni", "redirect-lab"];
/// An agent of another version; see [`build_other`].
const OTHER_AGENT: &str = "redirect-agent-other";

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// A guest's first process.
    pub(crate) init: PathBuf,
    /// What is put on the PATH.
    pub(crate) tools: Vec<PathBuf>,
    /// What the kernel runs.
    pub(crate) bpf_object: PathBuf,
}

/// Something that cargo built.
#[derive(Clone, Debug)]
pub(crate) struct Artifact {
    /// Name of the target.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) executable: PathBuf,
}

/// Builds them all.
pub(crate) fn build(workspace: &Workspace) -> Result<Programs> {
    // First: the agent has the object inside.
    let bpf_object = ebpf::build(workspace)?;
    progress::say("building the programs");
    let mut command = cargo(workspace, "build");
    command.args(["--bin", INIT]).args(TOOLS.iter().flat_map(|tool| ["--bin", tool]));
    let artifacts = artifacts(&mut command)?;
    let find = |name: &str| {
        let found = artifacts.iter().find(|artifact| artifact.name == name);
        found.map(|artifact| artifact.executable.clone()).with_context(|| format!("cargo built no program {name}"))
    };
    let tools = artifacts.iter().filter(|artifact| artifact.name != INIT);
    let tools: Vec<PathBuf> = tools.map(|artifact| artifact.executable.clone()).collect();
    for tool in TOOLS {
        find(tool)?;
    }
    Ok(Programs { init: find(INIT)?, tools, bpf_object })
}

/// Builds the agent once more, as another version whose maps are laid out in another way and whose record has more in it: for the tests of
/// upgrades and downgrades.
pub(crate) fn build_other(workspace: &Workspace) -> Result<PathBuf> {
    let object = ebpf::build_other(workspace)?;
    progress::say("building another version of the agent");
    let mut command = cargo(workspace, "build");
    command.args(["--bin", AGENT, "--features", &format!("{AGENT}/{}", ebpf::OTHER_LAYOUT)]);
    command.env("REDIRECT_EBPF_OBJECT", object);
    let built = artifacts(&mut command)?;
    let built = built.iter().find(|artifact| artifact.name == AGENT).context("cargo built no other agent")?;
    // Cargo puts both in the same place, the one that was asked for last.
    let other = workspace.cache("other")?.join(OTHER_AGENT);
    fs::copy(&built.executable, &other).with_context(|| format!("write {}", other.display()))?;
    Ok(other)
}

/// A cargo command that builds. Each is about the whole workspace, and names of it what it wants: what is shared then has the same
/// features in all of them, and is built once.
pub(crate) fn cargo(workspace: &Workspace, what: &str) -> Command {
    let mut command = workspace.cargo();
    command.args([what, "--workspace", "--profile", PROFILE]);
    command
}

/// One line of what cargo says with `--message-format=json`.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Runs a cargo command that builds, and returns the programs that it built or found built.
pub(crate) fn artifacts(command: &mut Command) -> Result<Vec<Artifact>> {
    command
        .args(["--quiet", "--message-format", "json-render-diagnostics"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output().context("start cargo")?;
    ensure!(output.status.success(), "cargo failed: {}", output.status);
    let text = String::from_utf8(output.stdout).context("cargo did not write UTF-8")?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<Artifact>> {
    let mut artifacts = Vec::new();
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line).with_context(|| format!("read what cargo says: {line}"))?;
        match (message.target, message.executable) {
            (Some(target), Some(executable)) => {
                artifacts.push(Artifact { name: target.name, executable });
            }
            (None, Some(executable)) => bail!("cargo built {} for no target", executable.display()),
            _ => {}
        }
    }
    Ok(artifacts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_are_taken() {
        let text = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"a\",\"kind\":[\"lib\"]},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"b\",\"kind\":[\"test\"]},\"executable\":\"/x/b\"}\n\
            {\"reason\":\"build-finished\",\"success\":true}\n";
        let artifacts = parse(text).unwrap();
        assert_eq!(artifacts.len(), 1);
        assert_eq!((artifacts[0].name.as_str(), artifacts[0].executable.as_path()), ("b", "/x/b".as_ref()));
    }
}
