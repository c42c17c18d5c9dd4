//! The image's date: that of the sources, not of the building, so that the same sources give the same image
//! (<https://reproducible-builds.org/docs/source-date-epoch/>).

use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::workspace::Workspace;

const VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// Seconds since 1970: what the environment says, else the last commit's.
pub(super) fn of(workspace: &Workspace) -> Result<u64> {
    let text = match std::env::var(VARIABLE) {
        Ok(text) => text,
        Err(_) => {
            process::output(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(workspace.root()))
                .with_context(|| format!("find the sources' date (set {VARIABLE} where there is no git)"))?
        }
    };
    text.trim().parse().with_context(|| format!("{text:?} is no number of seconds"))
}
