//! `cargo-deny`: licences, sources and duplicates of the dependencies. Its database of advisories is not on any package
//! registry, so that check is for machines with the whole network (`.github/workflows/ci.yml`).

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process;
use crate::tools::Tool;
use crate::workspace::Workspace;

const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2", options: &["--no-default-features"], variables: &[] };

/// Builds it, unless it was built before or the machine has it.
pub(crate) fn prepare(workspace: &Workspace) -> Result<PathBuf> {
    // It looks at the dependencies of every platform, of which a build has fetched those of one.
    process::quiet(workspace.cargo().args(["fetch", "--locked"])).context("fetch the dependencies of all platforms")?;
    process::find(DENY.name).or_else(|_| DENY.get(workspace))
}
