//! Builds Kubernetes' servers. The tree is built as its own makefile expects it (GOPATH mode: everything that it needs is in
//! it, and nothing is fetched), at a low priority and two packages at a time: it takes minutes, and others work meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{CLUSTER, version};
use crate::{process, progress};

/// Where Go wants the tree, below GOPATH.
const TREE: &str = "src/k8s.io/kubernetes";

/// Unpacks the source package into `go`, which is empty, and generates the code that is not in it.
pub(super) fn prepare(description: &Path, go: &Path) -> Result<()> {
    progress::say("unpacking the sources of Kubernetes");
    let tree = go.join(TREE);
    let parent = tree.parent().context("the tree is in a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    process::quiet(Command::new("dpkg-source").arg("--extract").arg(description).arg(&tree))?;
    progress::say("generating code of Kubernetes (some minutes)");
    // Of all servers, for those that are built later too.
    let what = CLUSTER.iter().map(|server| format!("cmd/{server}")).collect::<Vec<_>>().join(" ");
    let mut make = in_tree(go, "make");
    make.args(["generated_files", &format!("WHAT={what}")]);
    process::quiet(&mut make).context("generate code of Kubernetes")
}

/// Builds servers of the tree in `go` and puts them into `programs`, each when it is done.
pub(super) fn build(go: &Path, version: &str, servers: &[&str], programs: &Path) -> Result<()> {
    let flags = version::linker_flags(version);
    for server in servers {
        progress::say(format!("building {server} (some minutes)"));
        let unfinished: PathBuf = go.join(server);
        let mut build = in_tree(go, "go");
        // Without cgo it needs no libraries, and runs in any guest.
        build.env("CGO_ENABLED", "0").args(["build", "-ldflags", &flags, "-o"]).arg(&unfinished);
        build.arg(format!("k8s.io/kubernetes/cmd/{server}"));
        process::quiet(&mut build).with_context(|| format!("build {server}"))?;
        fs::rename(&unfinished, programs.join(server)).with_context(|| format!("keep {server}"))?;
    }
    Ok(())
}

/// A program of the build, with nothing of the user's own Go in sight.
fn in_tree(go: &Path, program: &str) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "5", program]).current_dir(go.join(TREE));
    command.env("GOPATH", go).env("GOCACHE", go.join("cache"));
    command.envs([("GO111MODULE", "off"), ("GOENV", "off"), ("GOFLAGS", "-p=2"), ("GOPROXY", "off")]);
    command
}
