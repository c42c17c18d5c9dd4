//! `cargo-deny`: licences, sources and duplicates of the dependencies. Its database of advisories is not on any package
//! registry, so that check is for machines with the whole network (`.github/workflows/ci.yml`).

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::workspace::{Workspace, cargo};
use crate::{process, progress};

const NAME: &str = "cargo-deny";
const VERSION: &str = "0.20.2";

/// Builds it, unless the cache or the machine has it.
pub(crate) fn prepare(workspace: &Workspace) -> Result<PathBuf> {
    // It looks at the dependencies of every platform, of which a build has fetched those of one.
    process::quiet(workspace.cargo().args(["fetch", "--locked"])).context("fetch the dependencies of all platforms")?;
    let tools = workspace.cache("tools")?;
    let program = tools.join("bin").join(NAME);
    if program.exists() {
        return Ok(program);
    }
    if let Ok(program) = process::find(NAME) {
        return Ok(program);
    }
    progress::say(format!("building {NAME} {VERSION} (some minutes)"));
    let mut command = cargo();
    command.args(["install", NAME, "--locked", "--version", VERSION, "--no-default-features"]);
    command.arg("--root").arg(&tools).arg("--target-dir").arg(tools.join("build"));
    process::run(&mut command).with_context(|| format!("build {NAME}"))?;
    Ok(program)
}
