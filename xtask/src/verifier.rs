//! `cargo xtask verifier`: what each kernel's verifier says of the programs, as a table that is checked in, so that whoever
//! makes a program dearer sees it.

mod table;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::table::{Row, Verified};
use crate::guest::Guest;
use crate::kernels::{Kernel, MATRIX};
use crate::programs::Programs;
use crate::workspace::Workspace;
use crate::{packages, programs, progress};

/// Where the table is, below the workspace's root.
const TABLE: &str = "docs/verifier.md";
const COMMAND: &str = "redirect-lab bpf verifier";
/// Whatever else the guest may write is not the figures.
const BEGINS: char = '[';

/// What is asked for.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Compares with the table that is there and fails if a figure has grown by more than 5 %
    #[arg(long)]
    check: bool,
}

/// Asks every kernel of the matrix, and writes the table or compares it.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    packages::install(packages::BASE)?;
    let programs = programs::build(workspace)?;
    if arguments.check {
        return Ok(if holds(workspace, &programs)? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let path = workspace.root().join(TABLE);
    fs::write(&path, table::render(&figures(workspace, &programs)?))
        .with_context(|| format!("write {}", path.display()))?;
    println!("{TABLE} is written");
    Ok(ExitCode::SUCCESS)
}

/// Whether no figure has grown beyond the table that is there; says which have.
pub(crate) fn holds(workspace: &Workspace, programs: &Programs) -> Result<bool> {
    let path = workspace.root().join(TABLE);
    let known = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let rows = figures(workspace, programs)?;
    let grown = table::grown(&table::parse(&known), &rows);
    for text in &grown {
        println!("{text}");
    }
    if grown.is_empty() {
        println!("{} lines of {TABLE} hold", rows.len());
    } else {
        println!("if that is meant, `cargo xtask verifier` writes {TABLE} anew");
    }
    Ok(grown.is_empty())
}

fn figures(workspace: &Workspace, programs: &Programs) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for series in MATRIX {
        let kernel = Kernel::get(workspace, series)?;
        rows.extend(ask(workspace, &kernel, programs).with_context(|| format!("kernel {}", series.name))?);
    }
    Ok(rows)
}

fn ask(workspace: &Workspace, kernel: &Kernel, programs: &Programs) -> Result<Vec<Row>> {
    progress::say(format!("asking kernel {}", kernel.release));
    let mut bytes = Vec::new();
    let guest = Guest::new(kernel.clone(), programs.clone(), COMMAND);
    let outcome = guest.run(workspace, &mut |more| bytes.extend_from_slice(more))?;
    let text = String::from_utf8_lossy(&bytes);
    ensure!(outcome.status == 0, "`{COMMAND}` failed with {}: {text}", outcome.status);
    let line = text.lines().find(|line| line.starts_with(BEGINS)).with_context(|| format!("no figures: {text}"))?;
    let verified: Vec<Verified> = serde_json::from_str(line).context("read the figures")?;
    Ok(verified.into_iter().map(|verified| Row::new(kernel.series.name, &verified)).collect())
}
