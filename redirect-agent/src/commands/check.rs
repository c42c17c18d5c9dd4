//! `redirect-agent check`.

use std::fmt::Write as _;

use anyhow::ensure;

use super::print::print;
use crate::cli::{Check, Output};
use crate::preflight::{self, Level};

/// Prints what on this node would stand against the redirection.
///
/// # Errors
/// There is something that breaks the mesh or a neighbour; so that a script need not read.
pub(crate) fn run(args: &Check) -> anyhow::Result<()> {
    let findings = preflight::look()?;
    match args.output {
        Output::Json => print(&serde_json::to_string_pretty(&findings)?)?,
        Output::Text if findings.is_empty() => print("nothing was found that stands against it")?,
        Output::Text => {
            let mut text = String::new();
            for finding in &findings {
                writeln!(text, "{finding}")?;
            }
            print(&text)?;
        }
    }
    let problems = findings.iter().filter(|finding| finding.level == Level::Problem).count();
    ensure!(problems == 0, "{problems} of {} would break the mesh or a neighbour", findings.len());
    Ok(())
}
