//! `cargo xtask test`: every test there is, or a part of them by name. The last line is the sum; a test that was skipped, and
//! a suite without tests, are failures.

mod batch;
pub(crate) mod host;
mod libtest;
mod matrix;
mod suites;
mod totals;
mod unit;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

use self::suites::{Breadth, Kind, Suite};
use self::totals::Totals;
use crate::kernels::{DEFAULT, MATRIX, Series};
use crate::workspace::Workspace;
use crate::{programs, progress, setup};

/// What is asked for.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Which tests
    #[arg(value_enum, default_value_t = Part::All)]
    part: Part,
    /// Only on these kernels (part vm)
    #[arg(long, value_name = "VERSION")]
    kernel: Vec<Series>,
    /// Only suites whose name contains this (parts lab and vm)
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    suite: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Everything, nothing twice
    All,
    /// Formatting, lints, licences, and the tests inside the crates
    Unit,
    /// The lab's suites, on the host as far as its kernel can, else in one guest
    Lab,
    /// The lab's suites on every kernel of the matrix, with both backends and topologies
    Vm,
}

/// Runs them, and says by the exit code whether all is good.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    setup::run(workspace)?;
    let totals = match arguments.part {
        Part::Unit => unit::run(workspace)?,
        Part::Lab => lab(workspace, arguments)?,
        Part::Vm => vm(workspace, arguments)?,
        Part::All => all(workspace, arguments)?,
    };
    progress::say(if totals.are_good() { "all is good" } else { "NOT all is good, see above" });
    println!("{totals}");
    Ok(if totals.are_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn lab(workspace: &Workspace, arguments: &Arguments) -> Result<Totals> {
    let programs = programs::build(workspace)?;
    let suites = chosen(suites::build(workspace, Breadth::One)?, arguments);
    if host::has_geneve()? {
        return host::run(&programs, suites.iter());
    }
    let (nodes, anywhere): (Vec<Suite>, Vec<Suite>) = suites.into_iter().partition(|suite| suite.kind() == Kind::Node);
    let mut totals = host::run(&programs, anywhere.iter())?;
    if !nodes.is_empty() {
        totals += matrix::run(workspace, &programs, &[DEFAULT], &nodes)?;
    }
    Ok(totals)
}

fn vm(workspace: &Workspace, arguments: &Arguments) -> Result<Totals> {
    let programs = programs::build(workspace)?;
    let suites = chosen(suites::build(workspace, Breadth::All)?, arguments);
    let kernels = if arguments.kernel.is_empty() { &MATRIX[..] } else { &arguments.kernel };
    matrix::run(workspace, &programs, kernels, &suites)
}

/// On the host only what the matrix does not show: that the host's kernel can do it too.
fn all(workspace: &Workspace, arguments: &Arguments) -> Result<Totals> {
    let mut totals = unit::run(workspace)?;
    let programs = programs::build(workspace)?;
    let suites = chosen(suites::build(workspace, Breadth::All)?, arguments);
    totals += host::run(&programs, suites.iter().filter(|suite| suite.kind() == Kind::Anywhere))?;
    totals += vm(workspace, arguments)?;
    Ok(totals)
}

fn chosen(suites: Vec<Suite>, arguments: &Arguments) -> Vec<Suite> {
    suites.into_iter().filter(|suite| suite.name.contains(&arguments.suite)).collect()
}
