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
    /// How long it takes until the kernel knows a pod: 10,000 at an agent's start, and one at a time, in both modes
    Enrolment {
        /// `text` or `json`
        #[arg(long, default_value = "text")]
        output: String,
        /// Pods that are there when the agent starts
        #[arg(long)]
        pods: Option<u16>,
        /// Cold starts in each mode
        #[arg(long)]
        rounds: Option<u16>,
        /// Pods that come and go one by one
        #[arg(long)]
        events: Option<u16>,
    },
    /// What the CNI plugin adds to the start of a pod, in both modes
    Cni {
        /// `text` or `json`
        #[arg(long, default_value = "text")]
        output: String,
        /// Starts in either way, in each mode
        #[arg(long)]
        rounds: Option<u16>,
    },
    /// What the agent takes of a processor while nothing happens, beside the rules of no services and of 5,000, in both modes
    Rest {
        /// `text` or `json`
        #[arg(long, default_value = "text")]
        output: String,
        /// How long each is measured
        #[arg(long)]
        seconds: Option<u16>,
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
        command.args(self.words()).args(["--output", self.output()]);
        for (option, value) in self.numbers() {
            command.args(value.iter().flat_map(|value| [option.to_owned(), value.to_string()]));
        }
        Ok(command)
    }

    /// The subcommand that measures.
    const fn words(&self) -> &'static [&'static str] {
        match self {
            Self::Program { .. } => &["bpf", "bench"],
            Self::Enrolment { .. } => &["enrolment"],
            Self::Cni { .. } => &["starts"],
            Self::Rest { .. } => &["rest"],
        }
    }

    fn output(&self) -> &str {
        let (Self::Program { output, .. }
        | Self::Enrolment { output, .. }
        | Self::Cni { output, .. }
        | Self::Rest { output, .. }) = self;
        output
    }

    /// What has a default of its own there.
    fn numbers(&self) -> Vec<(&'static str, Option<u32>)> {
        let wide = |number: Option<u16>| number.map(u32::from);
        match *self {
            Self::Program { rounds, repeat, .. } => vec![("--rounds", wide(rounds)), ("--repeat", repeat)],
            Self::Enrolment { pods, rounds, events, .. } => {
                vec![("--pods", wide(pods)), ("--rounds", wide(rounds)), ("--events", wide(events))]
            }
            Self::Cni { rounds, .. } => vec![("--rounds", wide(rounds))],
            Self::Rest { seconds, .. } => vec![("--seconds", wide(seconds))],
        }
    }
}
