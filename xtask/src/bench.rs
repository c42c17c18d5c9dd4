//! `cargo xtask bench`: what redirection costs.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use redirect_init::places::BPF_OBJECT_VARIABLE;

use crate::programs::Programs;
use crate::workspace::Workspace;
use crate::{packages, process, programs};

const PROGRAM: &str = "redirect-lab";

/// What is asked for.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Nanoseconds for a packet in the BPF programs, on this machine's kernel
    Program {
        /// `text` or `json`
        #[arg(long, default_value = "text")]
        output: String,
        /// How often each case is measured
        #[arg(long)]
        rounds: Option<u16>,
        /// Packets for one measurement
        #[arg(long)]
        repeat: Option<u32>,
    },
}

/// Measures it and writes the figures.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    packages::install(packages::BASE)?;
    let programs = programs::build(workspace)?;
    let status = process::status(&mut arguments.what.command(&programs)?)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl What {
    fn command(&self, programs: &Programs) -> Result<Command> {
        let found = programs.tools.iter().find(|tool| tool.file_name().is_some_and(|name| name == PROGRAM));
        let mut command = Command::new(found.with_context(|| format!("cargo built no {PROGRAM}"))?);
        command.env(BPF_OBJECT_VARIABLE, &programs.bpf_object);
        let Self::Program { output, rounds, repeat } = self;
        command.args(["bpf", "bench", "--output", output]);
        command.args(rounds.iter().flat_map(|rounds| ["--rounds".to_owned(), rounds.to_string()]));
        command.args(repeat.iter().flat_map(|repeat| ["--repeat".to_owned(), repeat.to_string()]));
        Ok(command)
    }
}
