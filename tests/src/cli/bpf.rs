//! `redirect-lab bpf`: figures about the programs in the kernel, for `cargo xtask bench` and `cargo xtask verifier`.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};

use crate::bpf::bench::{self, Effort};
use crate::bpf::verifier;

#[derive(Subcommand, Debug)]
pub(super) enum BpfCommand {
    /// Nanoseconds for a packet
    Bench {
        /// How often each case is measured
        #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u16).range(1..))]
        rounds: u16,
        /// Packets for one measurement
        #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..))]
        repeat: u32,
        /// For whom
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// What this kernel's verifier says, as JSON
    Verifier,
}

/// For whom something is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Output {
    /// A table for people
    Text,
    /// JSON for programs
    Json,
}

pub(super) fn run(command: &BpfCommand) -> Result<()> {
    match *command {
        BpfCommand::Bench { rounds, repeat, output } => {
            let figures = bench::measure(Effort { rounds: rounds.into(), repeat })?;
            match output {
                Output::Text => print!("{}", bench::render(&figures)),
                Output::Json => println!("{}", serde_json::to_string_pretty(&figures)?),
            }
        }
        BpfCommand::Verifier => println!("{}", serde_json::to_string(&verifier::verify()?)?),
    }
    Ok(())
}
